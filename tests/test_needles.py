"""The needles of the benchmark are those of lm-eval, cut in two, and what is counted is what lm-eval counts."""

import json
import random
import sys
from types import SimpleNamespace

import pytest

from benchmarks import needle as benchmark
from benchmarks import ruler
from benchmarks.needle_report import lines, paired
from benchmarks.needles import NOISE, TASKS, Needle, found, from_sample, of_task, stratified, stratum

TOKENS = 600
ADJECTIVES, NOUNS = ["brisk", "muted"], ["fox", "kettle", "plume"]


@pytest.fixture(scope="module")
def lm_eval(base):
    """lm-eval's samples by task, of few words and without a network; two needles for `multikey 2` are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ruler, "keys", lambda: (ADJECTIVES, NOUNS))
        patch.setattr(ruler, "essays", lambda: ["It", "was", "late.", "We", "went", "home", "again."] * 2000)
        # By what is taken and given back: a thread of another test may draw a number meanwhile.
        taken, given, states = [], [], (random.getstate, random.setstate)
        patch.setattr(random, "getstate", lambda: taken.append(states[0]()) or taken[-1])
        patch.setattr(random, "setstate", lambda state: given.append(state) or states[1](state))
        samples = {task: ruler.generate(task, base, TOKENS)[:40] for task in ruler.TASKS}
        assert taken and given == taken, "our own random state is not what it was"
        yield samples


def test_lm_eval_makes_its_samples_without_a_network_and_leaves_nothing_behind(lm_eval):
    assert all(len(samples) == 40 for samples in lm_eval.values())
    assert "wonderwords" not in sys.modules


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
    turns = stratified(needles, 100, lambda text: len(text.split()), 12)
    assert [name for name, _ in turns] == ["0", "1", "2", "3", "4", "inside"] * 2
    assert len({needle.depth for _, needle in turns}) == 12
    for name, needle in turns:
        left = (1 - needle.depth) * 1000
        assert left <= 50 if name == "inside" else left > 150
    assert stratum(0.9, 1000, 100) is None
    with pytest.raises(ValueError, match="Ask for at most 54 samples"):
        stratified(needles, 100, lambda text: len(text.split()), 120)


def answered(right, stratum="0"):
    return {"right": right, "stratum": stratum, "bytes": 2**20, "tokens": 900}


def reported(rows):
    length = {"number": 24, "uuid": 56}
    settings = {"model": "m", "tokens": 4096, "window": 256, "sinks": 4, "answer_tokens": length}
    return "\n".join(lines({"settings": settings, "rows": rows, "commands": ["python -m benchmarks.needle"]}))


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
    page = reported(rows)
    assert "- full attention wins on single 1: 0.90, consolidated memory 0.40" in page and "BM25 wins" not in page
    assert "| SnapKV | 100 | 0.30 | 0.22-0.40 | 0.70 |" in page
    assert "| consolidated memory | SnapKV | +0.10 (" in page and TASKS[0] not in page


def test_the_report_leaves_failures_out_of_every_share_and_says_what_is_missing():
    failed = {"failed": "MemoryError", "stratum": "0", "tokens": 900}
    rows = {
        "full attention": {"single 1": {str(n): answered(True) for n in range(100)}},
        "SnapKV": {"single 1": {str(n): answered(n < 80) if n < 90 else failed for n in range(100)}},
        "TTT": {"single 1": {str(n): failed for n in range(100)}},
    }
    page = reported(rows)
    assert "| SnapKV | 90 | 0.89 |" in page and "| TTT | 0 | - |" in page
    assert "- SnapKV: cannot answer 10, MemoryError" in page and "- TTT: cannot answer 100, MemoryError" in page
    assert "full attention wins" not in page  # not every needle of its was asked of another
    assert "- Not asked: no context, window, " in page
    assert "Neither was asked" in reported({"SnapKV": rows["SnapKV"]})


def test_needles_that_stand_alone_have_a_share_of_their_own():
    alone, among = (
        {str(n): answered(n < found) for n in range(10)} | {"10": answered(True, "inside")} for found in (9, 1)
    )
    page = reported({"SnapKV": {"passkey": alone, "single 1": alone, "multikey 2": among}})
    table = page[page.index("Needles that stand alone") : page.index("By depth")]
    assert "| SnapKV | 20 | 0.90 | 0.70-0.97 |" in table and "| SnapKV | 30 | 0.63 |" in page


def test_what_a_notepad_holds_is_told_apart_from_what_the_model_finds_in_it():
    row = {str(n): answered(n < 3) | {"held": n < 6} for n in range(10)}
    page = reported({"notepad: rare sentences, text": {"multikey 1": row}})
    assert "| notepad: rare sentences, text | multikey 1 | 10 | 0.60 | 0.50 |" in page


class Bench:
    """What a run needs of one, without a model."""

    def __init__(self, model, window, sinks, device):
        pass

    def take(self, needle):
        self.needle, self.ids = needle, needle.context.split()

    def start_again(self):
        pass


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """`main` over rows that only say the value, "SnapKV" and "BM25"; a list of which row was asked for which value."""
    said = []

    def knows(name):
        return lambda bench: said.append((name, bench.needle.value)) or (f" {bench.needle.value}.", 8)

    rows = {**benchmark.ROWS, "SnapKV": knows("SnapKV"), "BM25": knows("BM25")}
    monkeypatch.setattr(benchmark, "ROWS", rows)
    monkeypatch.setattr(benchmark, "Bench", Bench)
    monkeypatch.setattr(benchmark, "tokenizer_of", lambda name: lambda text: SimpleNamespace(input_ids=text.split()))
    monkeypatch.setattr(benchmark, "plot", lambda *given: None)
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path)
    return said


RUN = ["--model", "m", "--tokens", "2000", "--window", "100", "--tasks", "passkey", "--samples", "7"]


def test_one_row_that_fails_costs_the_others_nothing_and_is_asked_again(asked, monkeypatch, tmp_path):
    def fails(bench):
        raise RuntimeError("no memory in /some/where/file\nat all")

    works = benchmark.ROWS["SnapKV"]
    monkeypatch.setitem(benchmark.ROWS, "SnapKV", fails)
    benchmark.main([*RUN, "--only", "SnapKV", "BM25"])
    (path,) = tmp_path.glob("*.json")
    rows = json.loads(path.read_text())["rows"]
    assert [row["right"] for row in rows["BM25"]["passkey"].values()] == [True] * 7
    assert {row["failed"] for row in rows["SnapKV"]["passkey"].values()} == {"RuntimeError: no memory in file"}
    assert "- SnapKV: cannot answer 7, RuntimeError: no memory in file" in path.with_suffix(".md").read_text()
    monkeypatch.setitem(benchmark.ROWS, "SnapKV", works)
    asked.clear()
    benchmark.main([*RUN, "--only", "SnapKV", "BM25"])
    assert [name for name, _ in asked] == ["SnapKV"] * 7
    assert "cannot answer" not in path.with_suffix(".md").read_text()


def test_a_run_that_was_cut_off_goes_on_and_says_every_command(asked, monkeypatch, tmp_path):
    works = benchmark.ROWS["BM25"]

    def cut_off(bench):
        if len(asked) > 4:
            raise KeyboardInterrupt
        return works(bench)

    monkeypatch.setitem(benchmark.ROWS, "BM25", cut_off)
    monkeypatch.setattr("benchmarks.harness.store.made", lambda: {"command": "first"})
    with pytest.raises(KeyboardInterrupt):
        benchmark.main([*RUN, "--only", "SnapKV", "BM25"])
    monkeypatch.setitem(benchmark.ROWS, "BM25", works)
    monkeypatch.setattr("benchmarks.harness.store.made", lambda: {"command": "second"})
    whole, partly = asked[:4], asked[4:]  # rows of two needles, and of the one it was cut off at
    asked.clear()
    benchmark.main([*RUN, "--only", "BM25", "SnapKV", "BM25"])
    assert len({*whole, *asked}) == 14 and not {*whole} & {*asked} and {*partly} < {*asked}
    (path,) = tmp_path.glob("*.json")
    assert path.stem == "needle_m_2000_100"
    page = path.with_suffix(".md").read_text()
    assert "Asked by `first`, `second`." in page and "contexts of 1," in page
    assert page.index("| SnapKV |") < page.index("| BM25 |")


def test_answers_to_other_settings_are_neither_taken_over_nor_written_over(asked, tmp_path):
    benchmark.main([*RUN, "--only", "BM25"])
    (path,) = tmp_path.glob("*.json")
    before = path.read_text()
    with pytest.raises(SystemExit, match=r"needle_m_2000_100.json holds answers with another sinks, ttt"):
        benchmark.main([*RUN, "--only", "BM25", "--sinks", "2"])
    assert path.read_text() == before
    benchmark.main([*RUN[:4], "--window", "120", *RUN[6:], "--only", "BM25"])
    assert path.read_text() == before and len(list(tmp_path.glob("*.json"))) == 2
