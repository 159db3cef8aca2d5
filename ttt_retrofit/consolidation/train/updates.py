"""A later context changes what was studied before.

An answer of an earlier context that no longer holds is not replayed. Its question is studied anew, and the entry that
gave it no longer opens its gate for that question. Which statements of the new context may change an answer is told by
the words they share with it; whether one does is asked of the teacher, which reads the earlier answer and then them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ...memory.entry import Entry
from ...memory.lessons import TAUGHT, Lesson
from ...memory.memory import Memory
from ..earlier_lessons import LessonText
from ..facts.checks import holds, missing
from ..facts.related import Related
from ..study.answers import Question, given_by
from ..study.statements import Statement
from ..writer import Answer
from .distill import EncodedLesson
from .gate_calibration import TextMeans, without_keys

MAY_CHANGE = 3  # statements of the new context that are read about one earlier answer


@dataclass(frozen=True)
class RevisedMemory:
    """What a new context leaves of an earlier memory."""

    memory: Memory | None = None  # without what no longer holds
    replays: Sequence[EncodedLesson] = ()  # lessons of it that are not to be unlearned
    taught: Sequence[Question] = ()  # earlier questions with new answers
    changed: Sequence[tuple[LessonText, int]] = ()  # what no longer holds, and the statement that says so


# The teacher's answers to earlier questions, each with the earlier answer and the statements that may change it.
Asked = Callable[[Sequence[tuple[LessonText, list[Statement]]]], list[tuple[Answer, str]]]


def revise(
    memory: Memory,
    statements: Sequence[Statement],
    outdated: Collection[int],
    encode: Callable[[Sequence[Lesson]], list[EncodedLesson]],
    in_words: Callable[[Lesson], LessonText],
    ask: Asked,
    opens: Callable[[EncodedLesson], bool],
) -> RevisedMemory:
    """Go over the lessons of `memory` at which the gate of the new entry `opens`.

    statements, outdated : of the new context, and the numbers of those that no longer hold.
    """
    related = Related(["" if n in outdated else statement.source for n, statement in enumerate(statements)])
    entries: list[Entry] = []
    replays: list[EncodedLesson] = []
    taught: dict[str, Question] = {}
    changed: list[tuple[LessonText, int]] = []
    for entry in memory.entries:
        encoded = encode(entry.lessons)
        touched = [p for p in encoded if p.lesson.kind == "fact" and opens(p)]
        told = [in_words(p.lesson) for p in touched]
        found = changes(told, statements, related, ask)
        gone = [p for p, one in zip(touched, told) if one in found]
        replays += [p for p, one in zip(touched, told) if one not in found and not p.lesson.held_out]
        taught |= {question.text: question for question in found.values()}
        changed += [(one, question.statement) for one, question in found.items()]
        revised = _without(entry, gone, encoded, memory) if gone else entry
        # An entry that was overruled in everything says nothing any more.
        if len(revised.gate.keys):
            entries.append(revised)
    return RevisedMemory(dataclasses.replace(memory, entries=tuple(entries)), replays, [*taught.values()], changed)


def changes(
    told: Sequence[LessonText], statements: Sequence[Statement], related: Related, ask: Asked
) -> dict[LessonText, Question]:
    """What the statements answer otherwise than before, each with its new answer."""
    read = {one: related.to(f"{one.question} {one.answer}", MAY_CHANGE) for one in dict.fromkeys(told)}
    some = [(one, numbers) for one, numbers in read.items() if numbers]
    answers = ask([(one, [statements[n] for n in numbers]) for one, numbers in some])
    found = {}
    for (one, numbers), (answer, said) in zip(some, answers):
        before = given_by(one.answer, one.question, one.answer)
        new_words = " ".join(statements[n].source for n in numbers)
        value = given_by(said, f"{one.question} {one.answer}", new_words)
        same = not before or holds(said, before) or missing(said, [new_words, one.question, one.answer])
        if value and not same:
            last = next(n for n in reversed(numbers) if given_by(said, one.question, statements[n].source) & value)
            found[one] = Question(one.question, value, answer, last)
    return found


def _without(entry: Entry, gone: Sequence[EncodedLesson], encoded: Sequence[EncodedLesson], memory: Memory) -> Entry:
    """The entry without some of its lessons, its gate without their keys."""
    ids = {id(p.lesson) for p in gone}
    means = {
        id(p.lesson): (TextMeans.of(p.below, p.ids, memory.opener), len(p.lesson.prompt))
        for p in encoded
        if p.lesson.kind in TAUGHT
    }
    removed, kept = ([m for number, m in means.items() if (number in ids) is gone] for gone in (True, False))
    gate = without_keys(entry.gate, removed, memory.background, kept)
    left = tuple(lesson for lesson in entry.lessons if id(lesson) not in ids)
    return dataclasses.replace(entry, gate=gate, lessons=left)
