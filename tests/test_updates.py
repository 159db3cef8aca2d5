"""A later context changes what was studied before: the answer and the fact that no longer hold, and nothing else."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from converted import converted
from remembered import memory
from words import tokenizer

from ttt_retrofit.consolidation.earlier_lessons import EarlierLessons, LessonText
from ttt_retrofit.consolidation.facts.related import Related
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.lessons import certain
from ttt_retrofit.consolidation.study.statements import Statement
from ttt_retrofit.consolidation.study.studied import Studied
from ttt_retrofit.consolidation.train.distill import EncodedLesson
from ttt_retrofit.consolidation.train.planning import _with_superseded
from ttt_retrofit.consolidation.train.updates import RevisedMemory, changes, revise
from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.util.prompt_formatter import PromptFormatter

LIVE = LessonText("Where do I live?", "You live in Oslo.")
DOG = LessonText("What is my dog called?", "Your dog is called Bolt.")
MOVED = Statement("I moved and live in Graz now.", "User")
ANSWER = SimpleNamespace(ids=(5,))


def changed(says, *told, since=(MOVED,)):
    """The earlier questions whose answers change, with what they are now, and what the teacher was asked."""
    related, asked = Related([statement.source for statement in since]), []

    def ask(questions):
        asked.extend((one.question, [statement.text for statement in some]) for one, some in questions)
        return [(ANSWER, says) for _ in questions]

    found = changes(told, since, related, ask)
    return {one: (set(question.value), question.statement) for one, question in found.items()}, asked


def test_an_answer_that_the_new_context_gives_otherwise_is_changed():
    assert changed("You live in Graz.", LIVE)[0] == {LIVE: ({"graz"}, 0)}


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("You live in Oslo.", "the same as before"),
        ("You moved from Oslo to Graz.", "the earlier value is still given"),
        ("You live in Bergen.", "nobody said so"),
        ("You live there.", "it names nothing new"),
        ("", "nothing was answered"),
    ],
)
def test_an_answer_that_says_nothing_new_changes_nothing(says, why):
    assert changed(says, LIVE)[0] == {}, why


def test_only_statements_that_share_words_are_read():
    since = (Statement("The weather was awful.", "User"), MOVED)
    found, asked = changed("You live in Graz.", LIVE, DOG, since=since)
    assert asked == [(LIVE.question, [MOVED.text])] and found == {LIVE: ({"graz"}, 1)}


def test_of_several_statements_the_last_one_that_gives_it_counts():
    since = (Statement("I live in Graz.", "User"), Statement("I still live in Graz, and sing.", "User"))
    assert changed("You live in Graz.", LIVE, since=since)[0] == {LIVE: ({"graz"}, 1)}


@pytest.fixture(scope="module")
def model():
    return converted()


def remembering(model):
    """A memory of two contexts, whose lessons are in words and whose facts are dated."""
    formatter = PromptFormatter(tokenizer(), "")
    made = memory(model, 1, 2)
    lessons = [
        [certain("fact", formatter.asked(f"what is number {n} ?"), formatter.said(f"word{n} .")) for n in numbers]
        for numbers in ((1, 2), (3,))
    ]
    entries = [dataclasses.replace(entry, lessons=tuple(some)) for entry, some in zip(made.entries, lessons)]
    return dataclasses.replace(made, entries=tuple(entries)), formatter


def revised(model, gone, opens=lambda lesson: True, outdated=()):
    """The memory after statements whose teacher's answers change the questions of `gone`."""
    made, formatter = remembering(model)
    width = made.entries[0].gate.keys.shape[-1]
    earlier = EarlierLessons(formatter, made.entries)

    def encode(lessons):
        return [
            EncodedLesson(lesson, torch.zeros(len(lesson.prompt) + len(lesson.answer), width)) for lesson in lessons
        ]

    def ask(asked):
        new = {f"word{number} ." for number in gone}
        return [(ANSWER, "Graz ." if one.answer in new else one.answer) for one, _ in asked]

    since = [Statement("what is the number of Graz", "User")]
    return made, revise(made, since, outdated, encode, earlier.in_words, ask, opens)


def test_a_changed_lesson_leaves_its_entry_and_the_others_are_replayed(model):
    made, after = revised(model, gone=[1])
    assert [len(entry.lessons) for entry in after.memory.entries] == [1, 1]
    assert len(after.replays) == 2 and len(after.taught) == 1
    assert len(after.changed) == 1 and after.changed[0][0].answer.startswith("word1")
    assert after.memory.entries[1] is made.entries[1]


def test_nothing_changes_where_nothing_new_is_said_where_no_gate_opens_or_what_is_said_is_outdated(model):
    for settings in ({"gone": []}, {"gone": [1], "opens": lambda lesson: False}, {"gone": [1], "outdated": [0]}):
        made, after = revised(model, **settings)
        assert [*after.memory.entries] == [*made.entries] and not after.changed and not after.taught


def test_a_fact_that_gave_a_changed_answer_is_superseded_by_the_new_one(model):
    oslo = Fact.of("I live in Oslo.", "user", "2026-03-09", [0], "a" * 64)
    bolt = Fact.of("In Oslo I found my dog Bolt.", "user", "2026-03-09", [1], "a" * 64)
    made = memory(model, 1, 2)
    made = dataclasses.replace(
        made, entries=tuple(dataclasses.replace(e, facts=(fact,)) for e, fact in zip(made.entries, (bolt, oslo)))
    )
    after, gone = _with_superseded(RevisedMemory(made, changed=[(LIVE, 0)]), Studied((MOVED,)), "b" * 64)
    changed = dataclasses.replace(oslo, status="superseded", superseded_by=MOVED.fact("b" * 64).id)
    assert [entry.facts for entry in after.entries] == [(bolt,), (changed,)] and gone == 1
    assert _with_superseded(RevisedMemory(), Studied((MOVED,)), "b" * 64) == (None, 0)


def test_lessons_come_back_in_words_and_say_what_is_known():
    formatter = PromptFormatter(tokenizer(), Prompts.load().plain)
    lessons = [
        certain("fact", formatter.asked("who is old ?"), formatter.said("Otto is old .")),
        certain("unknown", formatter.asked("who is my wife ?"), formatter.said("Otto")),
    ]
    earlier = EarlierLessons(formatter, [SimpleNamespace(lessons=lessons)])
    assert earlier.in_words(lessons[0]) == LessonText("who is old ?", "Otto is old .")
    assert earlier.told() == "who is old ? Otto is old ."
