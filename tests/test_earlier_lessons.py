"""What earlier contexts were taught, in words; no model."""

from types import SimpleNamespace

import pytest
from words import tokenizer

from ttt_retrofit.consolidation import study
from ttt_retrofit.consolidation.earlier_lessons import EarlierLessons
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.util.prompt_formatter import PromptFormatter

PROMPTS = Prompts.load()


@pytest.fixture
def formatter():
    return PromptFormatter(tokenizer(), PROMPTS.plain)


def entry(formatter, name, *facts, learned_from=()):
    lessons = [study.certain("fact", formatter.asked(text), formatter.said(answer)) for text, answer in facts]
    return SimpleNamespace(name=name, lessons=lessons, learned_from=learned_from)


def test_what_was_learned_of_a_name_is_learned_of_the_relation_it_turns_out_to_be(formatter):
    taught = entry(
        formatter,
        "one",
        ("where lives Lucien ?", "Lucien lives in Braga ."),
        ("who lives in Braga ?", "Lucien lives in Braga ."),  # names nobody
        ("what plays Lucien ?", "Lucien plays chess ."),
        ("who plays the oboe ?", "Otto plays the oboe ."),
    )
    earlier = EarlierLessons(formatter, [taught])
    again = earlier.again([taught], [("my boss", "Lucien")], {"what plays my boss ?"})
    assert [(name, formatter.question_of(lesson.prompt)) for name, lesson in again] == [
        ("one", "where lives my boss ?")
    ]
    assert again[0][1].answer == taught.lessons[0].answer
    assert earlier.again([taught], [("my boss", "Fernanda")], set()) == []


def test_whoever_said_what_a_question_needs_is_what_it_was_learned_from(formatter):
    entries = [
        entry(formatter, "zero", ("who has the oboe ?", "Otto has the oboe .")),
        entry(formatter, "one", ("who is my boss ?", "my boss is Lucien ."), learned_from=("zero",)),
        entry(formatter, "two", ("who plays chess ?", "Otto plays chess .")),
    ]
    earlier = EarlierLessons(formatter, entries)
    named = earlier.named(PROMPTS.named, [])
    assert named == {"zero": [], "one": [("my boss", "Lucien")], "two": []}
    told = [study.Question(text, frozenset(), None, 0) for text in ("where lives Lucien ?", "where lives my boss ?")]
    assert earlier.learned_from(named, [], told) == ("one", "zero")
    assert earlier.learned_from(named, [], told[:1]) == ()
    assert earlier.learned_from(named, [("two", None)], []) == ("two",)
    assert earlier.named(PROMPTS.named, [("my boss", "Otto")])["one"] == []
