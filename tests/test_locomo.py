"""LoCoMo as the benchmark reads, asks and scores it, on a conversation of the same form that is our own."""

import dataclasses
import inspect
import json

import pytest
from converted import speaker
from remembered import memory
from test_sessions import said
from words import tokenizer

from benchmarks import locomo
from benchmarks.harness import asker as asking
from benchmarks.harness.asker import Answers, Asker
from benchmarks.locomo_rows import ROWS, Bench
from benchmarks.locomo_score import f1, f1_of_parts, holds, score
from benchmarks.locomo_talks import Asked, read
from ttt_retrofit.memory.notes import Note
from ttt_retrofit.memory.report import Report
from ttt_retrofit.model.remembering import MemoryMixin

SAMPLE = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Bela",
        "session_10_date_time": "3:00 pm on 2 July, 2023",
        "session_10": [said("Bela", "D10:1", "I play the oboe now."), said("Ada", "D10:2", "Since when?")],
        "session_2_date_time": "9:00 am on 1 June, 2023",  # a date without its session
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [said("Bela", "D1:1", "Hi Ada!"), said("Ada", "D1:2", "I left Graz.", blip_caption="a red house")],
    },
    "qa": [
        {
            "question": "When did Ada leave Graz?",
            "answer": "in spring (April 2023)",
            "evidence": ["D1:2"],
            "category": 2,
        },
        {"question": "Who plays what?", "answer": "Bela, the oboe", "evidence": ["D1:1; D10:1"], "category": 1},
        {"question": "Is Ada kind?", "answer": "Likely yes; she asks", "evidence": ["D10:2"], "category": 3},
        {
            "question": "Which city did Ada leave?",
            "answer": "Graz (in Styria)",
            "evidence": ["D1:2", "D"],
            "category": 4,
        },
        {"question": "Where was Ada?", "answer": 2021, "evidence": ["D1:2"], "category": 4},
        {"question": "What does Ada play?", "adversarial_answer": "the oboe", "evidence": ["D1:1"], "category": 5},
        {"question": "Who is old?", "answer": "Bela", "evidence": [], "category": 4},
    ],
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "locomo.json"
    file.write_text(json.dumps([SAMPLE]))
    return file


@pytest.fixture
def talk(path):
    return read(path)[0].first(None)


def test_sessions_are_read_in_their_order_with_dates_and_names(talk):
    assert [session.day for session in talk.sessions] == ["8 May 2023", "2 July 2023"]
    assert [(m["role"], m["name"]) for m in talk.sessions[0].messages] == [("assistant", "Bela"), ("user", "Ada")]
    assert talk.sessions[0].messages[1]["date"] == "2023-05-08T13:56:00"
    assert talk.lines[1] == "8 May 2023, Ada: I left Graz. (shows a red house)"


def test_questions_have_the_kind_of_their_category_and_an_answer_unless_nothing_was_said(talk):
    asked = {one.question: one for one in talk.asked}
    assert asked["When did Ada leave Graz?"] == Asked(
        "temporal", "When did Ada leave Graz?", ("in spring", "April 2023"), (0,)
    )
    assert asked["Who plays what?"] == Asked("multi-hop", "Who plays what?", ("Bela, the oboe",), (0, 1))
    assert asked["Is Ada kind?"].answers == ("Likely yes",) and talk.ago(asked["Is Ada kind?"]) == 0
    assert asked["What does Ada play?"] == Asked("adversarial", "What does Ada play?", (), (0,))
    assert asked["Where was Ada?"].kind == "single-hop" and talk.ago(asked["Where was Ada?"]) == 1


def test_only_questions_whose_evidence_was_read_are_asked(talk, path):
    first = read(path)[0].first(1)
    assert [len(session.messages) for session in first.sessions] == [2]
    assert [one.answers[-1:] for one in first.asked] == [("April 2023",), ("Graz",), ("2021",), ()]
    assert len(talk.asked) == 6  # of one question nobody knows where the answer is


def test_a_sample_is_even_by_kind_and_always_the_same(talk):
    assert talk.sample(5) == talk.sample(5) and len({one.kind for one in talk.sample(5).asked}) == 5
    assert talk.sample(99) == talk


@pytest.mark.parametrize(
    "answer, right, expected",
    [
        ("Berlin", "berlin.", 1.0),
        ("She moved to Berlin", "Berlin", 0.4),
        ("running and races", "the run, a race", 1.0),
        ("May 7, 2023", "7 May 2023", 1.0),
        ("Berlin Berlin", "Berlin", 2 / 3),
        ("", "Berlin", 0.0),
    ],
)
def test_token_f1_is_over_stems_without_punctuation_and_articles(answer, right, expected):
    assert f1(answer, right) == pytest.approx(expected)


def test_of_several_parts_each_counts_by_the_best_part_of_the_answer():
    assert f1_of_parts("pottery, a swim", "swimming, painting") == 0.5


def test_right_is_every_content_word_unless_the_answer_declines():
    week = "the week before 8 May 2023"
    assert holds("In the week just before May 8th, 8 May 2023", week) and not holds("May 2023", week)
    assert holds("No.", "no") and not holds("Yes, to her.", "no")
    day = Asked("temporal", "When?", ("last Monday", "approximately 7 May 2023"), (0,))
    assert score(day, "7 May 2023")[:2] == (pytest.approx(6 / 7), True)
    assert score(day, "2023-05-07") == score(day, "7 May 2023") and score(day, "2023-99-99").f1 == 0
    assert score(day, "It was not mentioned whether on 7 May 2023.")[1:] == (False, True)


@pytest.mark.parametrize("answer, declined", [("It was never mentioned.", True), ("The oboe.", False), ("", False)])
def test_what_was_never_said_is_to_be_declined(answer, declined):
    assert score(Asked("adversarial", "?", (), (0,)), answer) == (float(declined), declined, declined)


class Fake:
    """Always gives the same answer, and remembers what it was asked."""

    name, window, tokenizer = "fake", 1000, None

    def __init__(self):
        self.asked, self.memories = [], []

    def size(self, text):
        return 4 * len(text.split())

    def answers(self, asked, longest, memory=None):
        self.asked += [("\n".join(m["content"] for m in before), question) for before, question in asked]
        self.memories.append(memory)
        return Answers(["the oboe"] * len(asked), 12.0, 0.5)


class Lister:
    """Lists one fact of the first message."""

    name = "lister"

    def __init__(self):
        self.asked = 0

    def complete(self, prompts, longest, seed=0):
        self.asked += len(prompts)
        return ["[1] Bela: Hi, Ada!" if "Hi Ada" in p[-1]["content"] else "-" for p in prompts]


@pytest.fixture
def bench(tmp_path):
    made = Bench(Fake(), None, tmp_path / "work")
    made.writer = Lister()
    return made


def test_words_are_put_before_each_question_with_their_day(bench, talk):
    assert ROWS["no context"](bench, talk).tokens == 12
    assert "Today is 2 July 2023." in bench.asker.asked[0][0] and "Graz" not in bench.asker.asked[0][0]
    bench.asker.asked.clear()
    ROWS["BM25"](bench, talk)
    found = {question: before for before, question in bench.asker.asked}
    assert "8 May 2023, Ada: I left Graz." in found["Which city did Ada leave?"]
    assert "oboe" not in found["Where was Ada?"]


def test_of_what_does_not_fit_into_the_window_the_latest_is_kept(bench, talk):
    assert ROWS["full context"](bench, talk).remark == ""
    bench.asker.window = 256 + 48 + 72
    assert ROWS["full context"](bench, talk).remark == "the latest 2 of 4 turns fit"
    before, _ = bench.asker.asked[-1]
    assert "oboe" in before and "Graz" not in before


def test_facts_are_written_once_and_shared_by_rows(bench, talk, monkeypatch):
    monkeypatch.setattr("ttt_retrofit.consolidation.facts.turns.with_days", lambda text, day: text)  # takes seconds
    for row in ("all facts", "best facts"):
        bench.asker.asked.clear()
        assert ROWS[row](bench, talk).making > 0
        assert "- 8 May 2023: Bela: Hi, Ada!" in bench.asker.asked[-1 if row == "all facts" else 0][0]
    written = bench.writer.asked
    ROWS["all facts"](bench, talk)
    assert bench.writer.asked == written


class Learner:
    """In place of a model: makes a memory with a note of every session, and accepts the first alone."""

    def __init__(self):
        self.model, self.calls = speaker(), []

    def consolidate(self, *given, **settings):
        bound = inspect.signature(MemoryMixin.consolidate).bind(self, *given, **settings).arguments
        names = [message["name"] for message in bound["context"]]
        self.calls.append((str(bound["date"].date()), names, bound["earlier"] and bound["earlier"].names()))
        made, number = memory(self.model, *range(1, len(self.calls) + 1)), len(self.calls)
        note = Note("Ada left Graz.", 1.0, 4)
        entries = tuple(dataclasses.replace(entry, notes=(note,)) for entry in made.entries)
        report = Report(number == 1, "", 1.0, 1.0, 1, 0.0, 0.0, 0.0, 0.0, seconds={"training": 2.0})
        return dataclasses.replace(made, entries=entries, report=report)


def test_memories_are_made_session_after_session_and_those_not_accepted_are_left_out(bench, talk):
    learner = bench.asker.model = Learner()
    given = ROWS["consolidated memory"](bench, talk)
    assert learner.calls == [("2023-05-08", ["Bela", "Ada"], None), ("2023-07-02", ["Bela", "Ada"], ["entry1"])]
    assert given.making == 4.0 and given.remark.endswith("; sessions not accepted: 2")
    assert bench.asker.memories[-1].names() == ["entry1"] and "Graz" not in bench.asker.asked[-1][0]
    ROWS["memory + waiting facts"](bench, talk)
    assert len(learner.calls) == 2 and "Ada left Graz." in bench.asker.asked[-1][0]


def test_a_long_beginning_is_read_once_and_answers_are_the_same(monkeypatch):
    asker = Asker("tiny", speaker(sliding_window=None, learn_from="none"), tokenizer())
    before = [{"role": "user", "content": "Marek has the old key . " * 4}]
    asked = [(before, "where is Marek ?"), (before, "who has the key ?")]
    together = asker.answers(asked, 4)
    monkeypatch.setattr(asking, "LONG", 16)
    monkeypatch.setattr(asking, "READ", 10)
    assert asker.answers(asked, 4)[:2] == together[:2]


def test_results_hold_figures_of_each_row_and_no_word_of_the_data(path, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path / "results")
    monkeypatch.setattr(locomo.Asker, "of", lambda name: Fake())
    arguments = [str(path), "--model", "fake", "--sessions", "2", "--work", str(tmp_path), "--only", "BM25"]
    locomo.main(arguments)
    locomo.main([*arguments, "no context"])
    stored = (tmp_path / "results" / "locomo_fake_2_sessions.json").read_text()
    assert [*json.loads(stored)["rows"]] == ["BM25: conv-1", "no context: conv-1"]
    table = (tmp_path / "results" / "locomo_fake_2_sessions.md").read_text()
    assert "| BM25 | 1 | 6 | 10.0 | 0.00 | 0.00 | 0.00 | 12 |" in table
    assert "Graz" not in stored + table and "oboe" not in stored + table
