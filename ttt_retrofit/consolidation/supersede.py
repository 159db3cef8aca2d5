"""What a new context changes of what was studied before: an answer that no longer holds is not replayed, its question
is studied anew, and the entry that gave it no longer listens to it.

Which answers may have changed is told by words: hidden states cannot tell (of the names of my dog and of my cat, the
questions have a cosine of 0.97). Whether they have is asked of the teacher, with the new context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..memory.entry import Entry
from ..memory.lessons import Lesson
from ..memory.memory import Memory
from .asking import ALIKE, ME, Asked, mine, named
from .distill import Prepared
from .earlier import Studied
from .gatekeeping import without
from .pieces import Statement
from .study import Question
from .words import content_stems, resemblance, salient, stem, stems, words

RETOLD = 0.6  # share of an earlier answer's words, names and numbers apart, that stand in a statement about the same


@dataclass(frozen=True)
class Revised:
    """What a new context leaves of an earlier memory."""

    memory: Memory | None = None  # without what no longer holds
    replays: Sequence[Prepared] = ()  # lessons of it that are not to be unlearned
    taught: Sequence[Question] = ()  # earlier questions with new answers


# A question the new context answers, and what the teacher says; by question.
Answered = dict[str, tuple[Question, str]]


def revise(
    memory: Memory,
    questions: Sequence[Question],
    statements: Sequence[Statement],
    prepare: Callable[[Sequence[Lesson]], list[Prepared]],
    in_words: Callable[[Lesson], Studied],
    answered: Callable[[Sequence[Asked]], Answered],
    opens: Callable[[Tensor], bool],
) -> Revised:
    """Go over the lessons of `memory` at which the gate of the new entry `opens`.

    Parameters
    ----------
    questions, statements : of the new context.
    answered : the questions that the teacher, with the new context, answers with something out of it.
    """
    entries: list[Entry] = []
    replays: list[Prepared] = []
    taught: dict[str, Question] = {}
    for entry in memory.entries:
        touched = [p for p in prepare(entry.lessons) if p.lesson.kind == "fact" and opens(p.below)]
        told = [in_words(p.lesson) for p in touched]
        changed = superseded(told, questions, statements, answered)
        gone = [p for p, one in zip(touched, told) if one in changed]
        replays += [p for p, one in zip(touched, told) if one not in changed and not p.lesson.held_out]
        taught |= {question.text: question for question in changed.values() if question is not None}
        revised = _without(entry, gone, memory) if gone else entry
        # An entry that was overruled in everything says nothing any more.
        if len(revised.gate.keys):
            entries.append(revised)
    known = {question.text for question in questions if not question.held_out}
    new = [question for text, question in taught.items() if text not in known]
    return Revised(dataclasses.replace(memory, entries=tuple(entries)), replays, new)


def superseded(
    told: Sequence[Studied],
    questions: Sequence[Question],
    statements: Sequence[Statement],
    answered: Callable[[Sequence[Asked]], Answered],
) -> dict[Studied, Question | None]:
    """What no longer holds, each with its new answer, or None where there is nothing new to teach."""
    numbers = {one: statement_about(one, questions, statements) for one in told}
    found = answered([Asked(one.question, number) for one, number in numbers.items() if number >= 0])
    changed = {one: found[one.question] for one in told if one.question in found and numbers[one] >= 0}
    # What else the earlier context said about the same. A question about the old value itself has no new answer.
    stale: dict[Studied, int] = {}
    askable: dict[Studied, int] = {}
    for one, (_, answer) in changed.items():
        gone, said = lost(one, answer), stems(statements[numbers[one]].text)
        for other in told:
            if other not in changed and speaks_of(other, one, said) and is_stale(other, one, gone, said):
                stale[other] = numbers[one]
                if other.told & gone and not content_stems(other.question) & gone:
                    askable[other] = numbers[one]
    found = answered([Asked(other.question, number) for other, number in askable.items()])
    changed |= {other: found[other.question] for other in askable if other.question in found}
    new = {one: question if changes(one, answer) else None for one, (question, answer) in changed.items()}
    return dict.fromkeys(stale) | new


def statement_about(earlier: Studied, questions: Sequence[Question], statements: Sequence[Statement]) -> int:
    """The statement that an earlier question is about, too: one that a new question of the same words is about, or one
    that names all that is asked about and retells the earlier answer, of the same person. -1 for none.
    """
    asked = content_stems(earlier.question)
    for question in questions:
        same = resemblance(question.text, earlier.question) > ALIKE and content_stems(question.text) == asked
        if same and question.statement >= 0 and of_same_speaker(earlier.question, statements[question.statement].text):
            return question.statement
    phrase = {stem(word) for word in words(" ".join(w for w in earlier.answer.split()[1:] if not salient(w)))}
    for number, statement in enumerate(statements):
        said = stems(statement.text)
        retold = asked and asked <= said and len(phrase & said) >= RETOLD * len(phrase)
        if retold and of_same_speaker(earlier.question, statement.text):
            return number
    return -1


def of_same_speaker(question: str, statement: str) -> bool:
    """Whether a statement may change what was asked of "me" or "my" things: "Zelda lives in Basel" says not where I do.

    Questions about anybody else name whom they are about.
    """
    if ME & set(words(statement)):
        return True
    if ME & set(words(question)):
        return bool(mine(statement) & content_stems(question))
    return mine(question) <= mine(statement) | named(statement)


def lost(before: Studied, answer: str) -> set[str]:
    """Stems that the earlier answer gave and the new one does not give."""
    return content_stems(before.answer) - stems(answer) - stems(before.question)


def speaks_of(earlier: Studied, changed: Studied, said: set[str]) -> bool:
    """Whether an earlier lesson is about nothing but what changed: "What is the password?" may have a new answer, and
    the password of the printer still be the old one.

    said : stems of the new statement.
    """
    return not (named(earlier.question) & content_stems(earlier.answer)) - said - named(changed.question)


def is_stale(earlier: Studied, changed: Studied, gone: set[str], said: set[str]) -> bool:
    """Whether an earlier lesson gives what is gone, of the same thing as one that changed, or nothing but that."""
    if not earlier.told & gone:
        gives = content_stems(earlier.answer) - stems(earlier.question)
        same = content_stems(earlier.question) & content_stems(changed.question)
        return bool(same) and gives <= content_stems(changed.question) | said
    answers_nothing_else = content_stems(earlier.answer) <= gone
    return answers_nothing_else or bool((earlier.told - gone) & (changed.told - gone))


def changes(before: Studied, answer: str) -> bool:
    """Whether a new answer says anything that the earlier one did not."""
    return not content_stems(answer) <= stems(before.answer)


def _without(entry: Entry, gone: Sequence[Prepared], memory: Memory) -> Entry:
    """The entry without some lessons, and deaf to their questions."""
    ids = {id(p.lesson) for p in gone}
    gate = without(entry.gate, [(p.below, len(p.lesson.prompt)) for p in gone], memory.background)
    left = tuple(lesson for lesson in entry.lessons if id(lesson) not in ids)
    return dataclasses.replace(entry, gate=gate, lessons=left)
