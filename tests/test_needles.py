"""The needles of the benchmark are those of lm-eval, cut in two, and what is counted is what lm-eval counts."""

import random
import sys

import pytest

from benchmarks import ruler
from benchmarks.needle_report import lines, paired
from benchmarks.needles import NOISE, TASKS, Needle, found, from_sample, in_turns, of_task, stratum

TOKENS = 600
OURS = 7  # seed of the state that is to be found again
ADJECTIVES, NOUNS = ["brisk", "muted"], ["fox", "kettle", "plume"]


@pytest.fixture(scope="module")
def lm_eval(base):
    """lm-eval's samples by task, of few words and without a network; two needles for `multikey 2` are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ruler, "keys", lambda: (ADJECTIVES, NOUNS))
        patch.setattr(ruler, "essays", lambda: ["It", "was", "late.", "We", "went", "home", "again."] * 2000)
        random.seed(OURS)
        yield {task: ruler.generate(task, base, TOKENS)[:40] for task in ruler.TASKS}


def test_lm_eval_makes_its_samples_without_a_network_and_leaves_nothing_behind(lm_eval):
    assert all(len(samples) == 40 for samples in lm_eval.values())
    assert "wonderwords" not in sys.modules
    assert random.random() == random.Random(OURS).random()


@pytest.mark.parametrize("task", ruler.TASKS)
def test_a_needle_is_lm_evals_sample_cut_where_the_question_begins(lm_eval, task):
    kind = "uuid" if task == "single 3" else "number"
    for sample in lm_eval[task]:
        needle = from_sample(task, sample)
        assert needle.context + needle.question == f"{sample['input']} {sample['gen_prefix']}"
        key = needle.question.split(" for ")[1].split(" mentioned")[0]
        assert needle.context.startswith(f"A special magic {kind} is hidden within the following text.")
        assert needle.question == (
            f"\nWhat is the special magic {kind} for {key} mentioned in the provided text? "
            f"The special magic {kind} for {key} mentioned in the provided text is"
        )
        said = f"One of the special magic {kind}s for {key} is: {needle.value}."
        assert needle.context.count(said) >= 1 and sample["outputs"] == [needle.value]
        assert needle.context[int(needle.depth * len(needle.context) + 0.5) :].startswith(said)


def test_the_haystack_of_single_1_is_repeated_noise(lm_eval):
    for sample in lm_eval["single 1"]:
        _, *read = from_sample("single 1", sample).context.split("\n")
        assert len(read) > 2 and sum(line != NOISE for line in read) == 1


@pytest.mark.parametrize("task", ruler.TASKS)
def test_an_answer_counts_where_it_counts_for_lm_eval(lm_eval, task):
    from lm_eval.tasks.ruler.common_utils import process_results

    sample = lm_eval[task][0]
    needle = from_sample(task, sample)
    for answer in (f" {needle.value.upper()}.", needle.value[1:], "", f"It is\n{needle.value}"):
        assert found(needle, answer) == bool(process_results(sample, [answer])[str(TOKENS)])


def test_passkeys_fit_and_hold_their_key_where_they_say():
    def count(text):
        return len(text.split())

    for needle in of_task("passkey", "none", TOKENS, count):
        begins = needle.context[round(needle.depth * len(needle.context)) :]
        assert begins.startswith(f"The pass key is {needle.value}. Remember it.")
        assert count(needle.context) <= TOKENS - ruler.ANSWER_TOKENS


def test_strata_of_depth_take_turns_and_none_is_at_the_edge_of_the_window():
    needles = [Needle("passkey", "word " * 1000, "?", "1", depth / 200) for depth in range(200)]
    turns = in_turns(needles, 100, lambda text: len(text.split()), 12)
    assert [name for name, _ in turns] == ["0", "1", "2", "3", "4", "inside"] * 2
    assert len({needle.depth for _, needle in turns}) == 12
    for name, needle in turns:
        left = (1 - needle.depth) * 1000
        assert left <= 50 if name == "inside" else left > 150
    assert stratum(0.9, 1000, 100) is None
    with pytest.raises(ValueError, match="Ask for at most 54 samples"):
        in_turns(needles, 100, lambda text: len(text.split()), 120)


def answered(right, stratum="0"):
    return {"right": right, "stratum": stratum, "bytes": 2**20}


def test_rows_are_compared_needle_by_needle_outside_the_window():
    one = {"passkey": {str(n): answered(n < 60) for n in range(100)} | {"100": answered(False, "inside")}}
    other = {"passkey": {str(n): answered(n < 40) for n in range(101)}}
    found = paired(one, other)
    assert found.pairs == 100 and abs(found.mean - 0.2) < 1e-6 and 0.1 < found.low < 0.2 < found.high < 0.3
    assert found.verdict == "more" and paired(other, one).verdict == "less"
    assert paired(one, {}) is None


def test_the_report_says_where_what_keeps_everything_wins_and_gives_the_known_question_a_column():
    shares = {"full attention": 90, "BM25": 10, "SnapKV": 30, "SnapKV, question known": 70, "consolidated memory": 40}
    rows = {name: {"single 1": {str(n): answered(n < s) for n in range(100)}} for name, s in shares.items()}
    settings = {"model": "m", "tokens": 4096, "window": 256, "sinks": 4}
    page = "\n".join(lines({"settings": settings, "rows": rows}))
    assert "- full attention wins on single 1: 0.90, consolidated memory 0.40" in page and "BM25 wins" not in page
    assert "| SnapKV | 100 | 0.30 | 0.22-0.40 | 0.70 |" in page
    assert "| consolidated memory | SnapKV | +0.10 (" in page and TASKS[0] not in page
