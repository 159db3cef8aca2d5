"""What objects show of themselves at a prompt and in a notebook: short, never what was said, never an error."""

from types import SimpleNamespace

import pytest
import torch
from converted import converted
from remembered import memory
from tiny import tokens
from words import tokenizer

from ttt_retrofit import ChatSession, Memory, TTTCache
from ttt_retrofit.consolidation.control import Progress
from ttt_retrofit.consolidation.job import ConsolidationJob
from ttt_retrofit.memory.report import Report
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.util.display import LONGEST, Bare, as_line, as_table, in_bytes

REPORT = Report(True, "recall 90% is at least 50%.", 0.1, 0.9, 20, 0.0, 0.0, 0.01, 0.002, seconds={"study": 3.2})


@pytest.fixture(scope="module")
def model():
    return converted("llama")


def test_a_memory_says_how_much_it_holds_and_whether_it_was_accepted(model):
    made = memory(model, 1, 2)
    assert repr(made).startswith("Memory(entries=2, lessons=2, base='tiny', size=") and "recall" not in repr(made)
    object.__setattr__(made, "report", REPORT)
    assert repr(made).endswith("recall=90%, accepted=True)")
    assert "<th" in made._repr_html_() and "90%" in made._repr_html_()


def test_an_entry_and_a_lesson_show_no_tensor_and_no_token(model):
    entry = memory(model, 1).entries[0]
    assert repr(entry).startswith("Entry(name='entry1', of=text of 12 tokens, lessons=1, size=")
    assert repr(entry.lessons[0]) == "Lesson(kind='fact', tokens=5)"


def test_the_source_text_is_not_shown(model):
    source = memory(model, 1).entries[0].sources[0]
    assert "text='my secret'" not in repr(type(source)(source.sha256, "text", 2, "my secret"))


def test_a_report_shows_its_figures_and_no_question():
    told = Report(**{**vars(REPORT), "failures": (("Where is the key?", "under the pot", "no idea"),)})
    assert "recall=90%" in repr(told) and "drift=+0.20%" in repr(told) and "pot" not in repr(told)


def test_a_cache_says_what_it_has_read(model):
    assert repr(model.new_cache()) == "TTTCache(tokens=0)"
    cache = model.read(tokens(1, 30))
    first, last = cache.losses[0][0], cache.losses[0][-1]
    assert repr(cache).startswith(f"TTTCache(tokens=30, chunks=3, loss={first:.3f} → {last:.3f}, size=")
    assert repr(cache).endswith("device=cpu, dtype=torch.float32)")


def test_a_cache_of_unequal_rows_shows_the_least_and_the_most(model):
    mask = torch.ones(2, 30, dtype=torch.long)
    mask[0, :20] = 0
    assert repr(model.read(tokens(2, 30), attention_mask=mask)).startswith("TTTCache(rows=2, tokens=10–30, chunks=1–3")


def test_looking_at_a_cache_takes_no_step_that_is_due(model):
    cache = model.read(tokens(1, 8))
    due = []
    cache.fast._due = due.append
    repr(cache)
    assert not due
    cache.fast.settle()
    assert due


def test_a_job_says_how_far_it_is_and_how_it_ended(model):
    class Instant(ConsolidationJob):
        def __init__(self, work):
            super().__init__(work, None, lambda memory: memory, None)

    def fails(_):
        raise RuntimeError("no")

    control = SimpleNamespace(progress=Progress("train", 3, 40, 12.3, 5.0))
    made = SimpleNamespace(report=REPORT)
    for run, shown in [(lambda _: made, "accepted=True"), (fails, "error='RuntimeError'")]:
        job = Instant(SimpleNamespace(run=run, control=control))
        job.wait()
        assert repr(job) == f"Instant(ended=True, {shown})"
    job._future = type(job._future)()
    assert repr(job) == "Instant(ended=False, stage='train', done=3 of 40, seconds=12, seconds_left=5)"


def test_a_session_says_how_much_was_said_and_not_what(model, tmp_path):
    chat = ChatSession(model, tokenizer(), tmp_path, system="Be brief")
    chat.note({"role": "user", "content": "Marek lives in Antwerp"})
    assert repr(chat) == f"ChatSession(store={str(tmp_path)!r}, messages=1, entries=0)"
    assert repr(MemoryStore(tmp_path / "m")).startswith("MemoryStore(directory='")


@pytest.mark.parametrize("kind", [Memory, Report, TTTCache, ChatSession, ConsolidationJob, Progress])
def test_an_object_that_is_not_finished_can_be_shown(kind):
    assert repr(kind.__new__(kind)) in (f"{kind.__name__}(complete=False)", "TTTCache(tokens=0)")
    assert "complete" in kind.__new__(kind)._repr_html_()


def test_what_others_named_is_escaped_and_cut():
    rows = {"name": "<script>\x1b[31m" + "x" * 200, "figure": Bare("</td>\n"), "left": None}
    line, table = as_line("Kind", rows), as_table("Kind", rows)
    assert "\x1b" not in line and "\n" not in line and "left" not in line
    assert "<script>" not in table and "</td>\\n" not in table and "\x1b" not in table
    assert len(as_line("Kind", {f"row{number}": "y" * 70 for number in range(9)})) <= LONGEST


@pytest.mark.parametrize("size, shown", [(0, "0 B"), (999, "999 B"), (1_300_000, "1.3 MB"), (2.5e15, "2500.0 TB")])
def test_sizes_have_the_unit_that_suits_them(size, shown):
    assert str(in_bytes(size)) == shown
