"""Every row of the needle and the memory benchmarks answers on a tiny model, from as much as it says."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from words import QUESTIONS, SENTENCES

from benchmarks import baselines, needle_rows, turns_rows
from benchmarks.needles import Needle
from benchmarks.sessions import Asked, Sessions
from benchmarks.systems import evict
from ttt_retrofit.consolidation.study.lessons import certain
from ttt_retrofit.memory.notes import Note

WINDOW, SINKS = 32, 4
STATE = WINDOW - 1 + SINKS
TOKEN_BYTES = 2 * 4 * 2 * 8 * 4  # keys and values, layers, heads, width, float32
BOUNDED = ("StreamingLLM, re-anchored", "SnapKV", "H2O", "TOVA", "expected attention", "KVzip",
           "SnapKV, question known", "H2O, question known", "TOVA, question known")  # fmt: skip


@pytest.fixture(scope="module")
def needles(base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.harness.loading.model_directory", lambda name: base)
        patch.setattr(needle_rows, "TRAINED_STEPS", 2)
        bench = needle_rows.Bench("tiny", WINDOW, SINKS)
        bench.take(Needle("single 1", " ".join([SENTENCES] * 3), f" {QUESTIONS[0]}", "no such value", 0.5))
        yield bench


FAST = [name for name in needle_rows.ROWS if name != "consolidated memory"]


@pytest.mark.parametrize("name", FAST)
def test_a_row_of_needles_answers_from_as_much_as_it_says(needles, name):
    answer, nbytes = needle_rows.ROWS[name](needles)
    assert isinstance(answer, str)
    if name in BOUNDED:
        assert nbytes == STATE * TOKEN_BYTES
    elif name.startswith("notepad"):
        assert 0 < nbytes <= STATE * TOKEN_BYTES
    elif name == "full attention":
        assert nbytes == len(needles.ids) * TOKEN_BYTES
    elif name != "no context":
        assert nbytes > 0


def test_the_context_is_learned_once_for_both_rows_and_either_answers_as_if_alone(needles, monkeypatch):
    reads = []
    read = needles.converted.read
    monkeypatch.setattr(needles.converted, "read", lambda ids: reads.append(len(ids)) or read(ids))
    needles.forget("learnt")
    names = ("TTT", "TTT, context removed")
    assert len({tuple(needle_rows.ROWS[name](needles) for name in names) for _ in range(2)}) == 1
    assert reads == [len(needles.ids)]
    sinks = needles.learnt.groups[0].sinks
    assert (sinks, needles.learnt.groups[0].window) == (SINKS, WINDOW)


def test_h2o_with_the_question_known_adds_up_attention_over_context_and_question(needles):
    read = torch.cat([needles.ids, torch.tensor(needles.question)])
    together = evict.read(needles.model, read, {"h2o": needle_rows.h2o}).scores["h2o"][..., : len(needles.ids)]
    torch.testing.assert_close(needles.looked.scores["h2o"], together, atol=1e-4, rtol=1e-4)


def test_no_place_of_a_text_is_trained_on_less_than_another():
    """A needle at an end must not be left out."""
    ids, generator = torch.arange(100), torch.Generator().manual_seed(0)

    parts = [baselines._part(ids, 20, generator) for _ in range(5000)]

    seen = torch.cat(parts).bincount() / 5000
    torch.testing.assert_close(seen, torch.full((100,), 0.2), atol=0.02, rtol=0)
    assert all(torch.equal(part.diff() % 100, torch.ones(19, dtype=torch.long)) for part in parts)
    assert torch.equal(baselines._part(ids, 100, generator), ids)


def test_a_memory_of_nothing_is_no_answer(needles, monkeypatch):
    nothing = SimpleNamespace(entries=(), report=SimpleNamespace(reason="no question was left."))
    monkeypatch.setattr(needles.converted, "consolidate", lambda *given, **options: nothing)
    with pytest.raises(RuntimeError, match="nothing was remembered: no question was left"):
        needle_rows.ROWS["consolidated memory"](needles)


def test_a_notepad_holds_nothing_that_its_window_holds(needles, monkeypatch):
    chosen = []
    best = needle_rows.notepad.best
    monkeypatch.setattr(needle_rows.notepad, "best", lambda parts, *rest: chosen.append(parts) or best(parts, *rest))
    before = needles.needle
    needles.take(dataclasses.replace(before, context=f"{before.context} the key is blue."))
    needle_rows.ROWS["notepad: rare sentences, text"](needles)
    assert needles.sentences[-1].text == "the key is blue." and chosen == [needles.sentences[:-1]]
    assert needles.noted() == (before.value in needles.tokenizer.decode(needles.ids[: -needles.half]))
    needles.needle = dataclasses.replace(needles.needle, value="the key is blue")
    assert not needles.noted()
    needles.take(before)


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
    monkeypatch.setattr("benchmarks.harness.loading.model_directory", lambda name: base)
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


def test_a_question_that_chooses_was_read_with_everything_in_view_once_for_all_methods(turns, monkeypatch):
    reads = []
    forward = turns.model.forward
    monkeypatch.setattr(turns.model, "forward", lambda **given: reads.append(given["input_ids"]) or forward(**given))
    whole = turns_rows.ROWS["full context"](turns)
    for name in ("SnapKV, question known", "H2O, question known"):
        given = turns_rows.ROWS[name](turns)
        firsts = [[answer.split()[0] for answer in of.answers] for of in (whole, given)]
        assert firsts[0] == firsts[1]  # SnapKV and H2O evict after the prompt has been read
    asked = [ids for ids in reads if ids.shape[1] > 1]
    assert len(asked) == 1 + 2 * len(TALK.asked)  # the conversation, each question for the full context, and for both
    together = torch.cat([turns.ids, torch.tensor(turns.asking()[0])])
    scores = evict.read(turns.model, together, {"h2o": turns_rows.h2o}).scores["h2o"][..., : len(turns.ids)]
    torch.testing.assert_close(turns.looked[0].scores["h2o"], scores, atol=0.05, rtol=0.05)  # of 16 bits


def test_retrieval_finds_a_reply_by_what_it_replies_to_with_its_date(turns, monkeypatch):
    said = ["what is the name ?", "word1 word2", "who plays oboe ?", "Solveig"]
    messages = tuple({"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, said))
    turns.take(Sessions(messages, (Asked("a", "who has the oboe ?", ("Solveig",), 0),), 1, ("November 23",) * 4))
    shown = []
    monkeypatch.setattr(turns, "prompted", lambda before: shown.append(before("who has the oboe ?")) or [""])
    assert turns_rows.ROWS["BM25"](turns).nbytes == len("\n".join(said))
    assert [message["content"] for message in shown[0]] == ["November 23 who plays oboe ?", "Solveig"]


def test_the_notepad_holds_nothing_of_the_last_messages(turns, monkeypatch):
    said = ["word1 word2 word3 word4 .", "word5 word6", "the key is blue .", "word7 word8"]
    turns.take(dataclasses.replace(
        TALK, messages=tuple({"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, said))
    ))  # fmt: skip
    shown = []
    monkeypatch.setattr(turns, "prompted", lambda before: shown.append(before("")) or [])
    turns_rows.ROWS["notepad + last messages"](turns)
    notes, _, *last = [message["content"] for message in shown[0]]
    assert last == said[2:] and "word1" in notes and "blue" not in notes


def test_a_summary_may_be_as_long_as_the_state(turns, monkeypatch):
    longest = []
    monkeypatch.setattr(
        turns_rows.Recollector, "answers", lambda self, asked, **given: longest.append(given) or [""] * len(asked)
    )
    turns_rows.ROWS["summary"](turns)
    assert longest == [{"longest": STATE}, {}]


@dataclasses.dataclass(frozen=True)
class Made:
    """In the place of a memory."""

    entries: tuple
    report: object = dataclasses.field(default_factory=lambda: SimpleNamespace(accepted=True, steps=2, reason=""))

    def save(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "memory.json").write_text(json.dumps(len(self.entries)))


@dataclasses.dataclass(frozen=True)
class MadeEntry:
    notes: tuple = ()
    lessons: tuple = ()


def test_a_memory_is_made_once_for_all_states_and_its_notes_are_cut_when_it_is_asked(turns, monkeypatch, tmp_path):
    made, asked = [], []
    notes = tuple(Note(f"note {number}", number, 100) for number in range(5))
    memory = Made((MadeEntry(notes),))
    monkeypatch.setattr(turns_rows, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(turns_rows.Memory, "load", lambda path: memory)
    monkeypatch.setattr(turns.converted, "consolidate", lambda *given, **options: made.append(options) or memory)
    monkeypatch.setattr(
        turns_rows, "in_process_of_its_own", lambda bench, m: asked.append(m) or turns_rows.Answered(["", ""], 1)
    )
    for state in (STATE, 2 * STATE):
        turns.state = state
        turns.take(TALK)
        for name in ("consolidated memory", "consolidated memory + notepad"):
            turns_rows.ROWS[name](turns)
    assert len(made) == 1 and made[0]["notepad"] == turns_rows.EVERY_NOTE
    assert [len(m.entries[0].notes) for m in asked] == [0, turns_rows.NOTES // 100] * 2
    assert memory.entries[0].notes == notes


def test_a_memory_of_nothing_is_no_row_and_one_that_was_not_accepted_says_so(turns, monkeypatch, tmp_path):
    monkeypatch.setattr(turns_rows, "cache_directory", lambda: tmp_path)
    refused = SimpleNamespace(accepted=False, reason="the loss moved by +2.00%")
    monkeypatch.setattr(turns.converted, "consolidate", lambda *given, **options: Made((), refused))
    with pytest.raises(RuntimeError, match=r"nothing was remembered: the loss moved by \+2.00%"):
        turns_rows.ROWS["consolidated memory"](turns)
    turns.__dict__["consolidated"] = Made((MadeEntry(),), refused)
    monkeypatch.setattr(turns_rows, "in_process_of_its_own", lambda bench, m: turns_rows.Answered(["", ""], 1))
    assert turns_rows.ROWS["consolidated memory"](turns).remark == "not accepted: the loss moved by +2.00%"


def test_a_cartridge_holds_as_much_as_the_state_and_is_taught_the_lessons_of_the_memory(turns, monkeypatch):
    pytest.importorskip("peft")
    from benchmarks import cartridge

    taught = []
    loss = cartridge._loss
    monkeypatch.setattr(cartridge, "_loss", lambda model, chosen: taught.append(chosen) or loss(model, chosen))
    monkeypatch.setattr(turns_rows, "drift_ids", lambda tokenizer, key: turns.ids[None, :50])
    lessons = tuple(certain(kind, [5, 6, 7], [8, 9, 2]) for kind in ("fact", "unknown"))
    lessons += (dataclasses.replace(lessons[0], held_out=True),)
    turns.__dict__["consolidated"] = Made((MadeEntry(lessons=lessons),))
    given = turns_rows.ROWS["PEFT Cartridge"](turns)
    assert len(given.answers) == 2 and given.nbytes == STATE * turns.token_bytes
    assert len(taught) == 2 and {lesson.held_out for chosen in taught for lesson in chosen} == {False}
    assert given.drift.keys() == set(turns_rows.DRIFTS) and all(change != 0 for change in given.drift.values())
