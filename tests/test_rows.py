"""Every row of the needle and the memory benchmarks answers on a tiny model, from as much as it says."""

import pytest
import torch
from words import QUESTIONS, SENTENCES

from benchmarks import needle_rows, turns_rows
from benchmarks.needles import Needle
from benchmarks.sessions import Asked, Sessions

WINDOW, SINKS = 32, 4
STATE = WINDOW - 1 + SINKS
TOKEN_BYTES = 2 * 4 * 2 * 8 * 4  # keys and values, layers, heads, width, float32
BOUNDED = ("StreamingLLM, re-anchored", "SnapKV", "H2O", "TOVA", "expected attention", "KVzip",
           "SnapKV, question known", "H2O, question known", "TOVA, question known")  # fmt: skip


@pytest.fixture(scope="module")
def needles(base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(needle_rows, "model_directory", lambda name: base)
        patch.setattr(needle_rows, "TRAINED_STEPS", 2)
        bench = needle_rows.Bench("tiny", WINDOW, SINKS, list(needle_rows.ROWS))
        bench.take(Needle("single 1", " ".join([SENTENCES] * 3), f" {QUESTIONS[0]}", "no such value", 0.5))
        yield bench


FAST = [name for name in needle_rows.ROWS if name != "consolidated memory"]


@pytest.mark.parametrize("name", FAST)
def test_a_row_of_needles_answers_from_as_much_as_it_says(needles, name):
    answer, nbytes = needle_rows.ROWS[name](needles)
    assert isinstance(answer, str)
    if name in BOUNDED:
        assert nbytes == STATE * TOKEN_BYTES
    elif name == "full attention":
        assert nbytes == len(needles.ids) * TOKEN_BYTES
    elif name != "no context":
        assert nbytes > 0


@torch.no_grad()
def test_with_its_context_removed_a_model_has_its_fast_weights_and_not_one_key(needles, monkeypatch):
    caches = []
    generate = needles.converted.generate

    def watched(given, *, past_key_values, **options):
        caches.append((past_key_values.get_seq_length(), past_key_values.fast.nbytes, past_key_values.nbytes))
        assert given.shape[1] == len(needles.question)
        return generate(given, past_key_values=past_key_values, **options)

    monkeypatch.setattr(needles.converted, "generate", watched)
    _, nbytes = needle_rows.ROWS["TTT, context removed"](needles)
    ((length, fast, whole),) = caches
    assert length == 0 and fast == whole == nbytes > 0


TALK = Sessions(
    tuple({"role": role, "content": SENTENCES} for role in ("user", "assistant") * 2),
    (Asked("single-session, user", QUESTIONS[0], ("rain",), 0), Asked("abstention", QUESTIONS[1], (), -1)),
    2,
)


@pytest.fixture
def turns(base, monkeypatch):
    monkeypatch.setattr(turns_rows, "model_directory", lambda name: base)
    bench = turns_rows.Bench("tiny", STATE, SINKS)
    bench.take(TALK)
    return bench


@pytest.mark.parametrize("name", [name for name in turns_rows.ROWS if name not in turns_rows.SLOW])
def test_a_row_of_turns_answers_every_question_from_as_much_as_it_says(turns, name):
    given = turns_rows.ROWS[name](turns)
    assert len(given.answers) == len(TALK.asked) and not given.drift
    assert len(turns_rows.scored(TALK, given.answers)) == 2
    if name in ("StreamingLLM", *BOUNDED):
        assert given.nbytes == STATE * turns.token_bytes


def test_a_question_that_may_keep_everything_is_answered_as_from_everything(turns):
    turns.state = len(turns.ids)
    whole = turns_rows.ROWS["full context"](turns)
    for name in ("SnapKV, question known", "H2O, question known"):
        assert turns_rows.ROWS[name](turns) == whole
