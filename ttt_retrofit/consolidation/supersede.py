"""Later statements change what was studied before.

An answer of an earlier context that no longer holds is not replayed. Its question is studied anew, and the entry that
gave it no longer opens its gate for that question. An answer of the same conversation that no longer holds is not
studied at all.

Which answers may have changed is told by words: hidden states cannot tell (of the names of my dog and of my cat, the
questions have a cosine of 0.97). Whether they have is asked of the teacher, with the new context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..memory.entry import Entry
from ..memory.lessons import Lesson
from ..memory.memory import Memory
from .asking import ALIKE, ME, QuestionDraft, mine, named
from .distill import EncodedLesson
from .earlier_lessons import LessonText
from .gate_calibration import TextMeans, without_keys
from .pieces import Statement
from .study import Question
from .words import content_stems, resemblance, salient, stem, stems, words

RETOLD = 0.6  # share of an earlier answer's words, names and numbers apart, that stand in a statement about the same


@dataclass(frozen=True)
class RevisedMemory:
    """What a new context leaves of an earlier memory."""

    memory: Memory | None = None  # without what no longer holds
    replays: Sequence[EncodedLesson] = ()  # lessons of it that are not to be unlearned
    taught: Sequence[Question] = ()  # earlier questions with new answers


# A question that a later statement answers, and what the teacher says; by question.
NewAnswers = dict[str, tuple[Question, str]]


def latest(
    questions: Sequence[Question],
    statements: Sequence[Statement],
    in_words: Callable[[Question], str],
    answered: Callable[[Sequence[QuestionDraft]], NewAnswers],
) -> tuple[list[Question], frozenset[int]]:
    """The questions about a conversation with what holds at its end, and the numbers of statements that do not.

    Parameters
    ----------
    in_words : the answer to a question.
    answered : the questions that the teacher answers with something out of the statements they are about.
    """
    told = [LessonText(question.text, in_words(question), question.statement) for question in questions]
    changed = superseded([one for one in told if one.statement >= 0], questions, statements, answered)
    holding: list[Question] = []
    gone: set[int] = set()
    for question, one in zip(questions, told):
        again = changed.get(one, (question, one.answer))
        if again is not None and not changes(one, again[1]):  # not told again, or told again as it was
            holding.append(question)
            continue
        gone.add(question.statement)
        holding += [] if again is None else [again[0]]
    # What is asked about the old statement is asked about the new one, too.
    kept = {(question.text, question.statement): question for question in reversed(holding)}
    return [*reversed(kept.values())], frozenset(gone)


def revise(
    memory: Memory,
    questions: Sequence[Question],
    statements: Sequence[Statement],
    encode: Callable[[Sequence[Lesson]], list[EncodedLesson]],
    in_words: Callable[[Lesson], LessonText],
    answered: Callable[[Sequence[QuestionDraft]], NewAnswers],
    opens: Callable[[EncodedLesson], bool],
) -> RevisedMemory:
    """Go over the lessons of `memory` at which the gate of the new entry `opens`.

    Parameters
    ----------
    questions, statements : of the new context.
    answered : the questions that the teacher, with the new context, answers with something out of it.
    """
    entries: list[Entry] = []
    replays: list[EncodedLesson] = []
    taught: dict[str, Question] = {}
    for entry in memory.entries:
        touched = [p for p in encode(entry.lessons) if p.lesson.kind == "fact" and opens(p)]
        told = [in_words(p.lesson) for p in touched]
        changed = superseded(told, questions, statements, answered)
        gone = [p for p, one in zip(touched, told) if one in changed]
        replays += [p for p, one in zip(touched, told) if one not in changed and not p.lesson.held_out]
        # Where an answer says nothing new, the new entry knows it already.
        again = ((one, *found) for one, found in changed.items() if found is not None)
        taught |= {question.text: question for one, question, answer in again if changes(one, answer)}
        revised = _without(entry, gone, memory) if gone else entry
        # An entry that was overruled in everything says nothing any more.
        if len(revised.gate.keys):
            entries.append(revised)
    known = {question.text for question in questions if not question.held_out}
    new = [question for text, question in taught.items() if text not in known]
    return RevisedMemory(dataclasses.replace(memory, entries=tuple(entries)), replays, new)


def superseded(
    told: Sequence[LessonText],
    questions: Sequence[Question],
    statements: Sequence[Statement],
    answered: Callable[[Sequence[QuestionDraft]], NewAnswers],
) -> dict[LessonText, tuple[Question, str] | None]:
    """What was told again, each with its answer now, or None where what it asks for no longer is."""
    later = LaterStatements(questions, statements)
    numbers = {one: later.about(one) for one in told}
    found = answered([QuestionDraft(one.question, number) for one, number in numbers.items() if number >= 0])
    changed = {one: found[one.question] for one in told if one.question in found and numbers[one] >= 0}
    # What else the earlier context said about the same. A question about the old value itself has no new answer.
    stale: dict[LessonText, int] = {}
    askable: dict[LessonText, int] = {}
    for one, (_, answer) in changed.items():
        gone, said = lost(one, answer), later.said[numbers[one]]
        for other in told:
            before = other not in changed and other.statement < numbers[one]
            if before and is_about_changed(other, one, said) and is_stale(other, one, gone, said):
                stale[other] = numbers[one]
                if other.told & gone and not content_stems(other.question) & gone:
                    askable[other] = numbers[one]
    found = answered([QuestionDraft(other.question, number) for other, number in askable.items()])
    changed |= {other: found[other.question] for other in askable if other.question in found}
    return dict.fromkeys(stale) | changed


class LaterStatements:
    """Statements, and what is asked about them: where is what was studied before told again?"""

    def __init__(self, questions: Sequence[Question], statements: Sequence[Statement]) -> None:
        self.statements = statements
        self.said = [stems(statement.text) for statement in statements]
        self.asked: dict[frozenset[str], list[Question]] = {}
        for question in questions:
            self.asked.setdefault(frozenset(content_stems(question.text)), []).append(question)

    def about(self, earlier: LessonText) -> int:
        """The last statement after its own that an earlier question is about, too: one that a question of the same
        words is about, or else one that names all that is asked about and retells the earlier answer, of the same
        person. -1 for none.
        """
        about = frozenset(content_stems(earlier.question))
        phrase = {stem(word) for word in words(" ".join(w for w in earlier.answer.split()[1:] if not salient(w)))}
        alike = (q for q in self.asked.get(about, ()) if resemblance(q.text, earlier.question) > ALIKE)
        retold = (
            number
            for number, said in enumerate(self.said)
            if about and about <= said and len(phrase & said) >= RETOLD * len(phrase)
        )
        for numbers in ({question.statement for question in alike}, retold):
            for number in sorted(numbers, reverse=True):
                if number > earlier.statement and of_same_speaker(earlier.question, self.statements[number].text):
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


def lost(before: LessonText, answer: str) -> set[str]:
    """Stems that the earlier answer gave and the new one does not give."""
    return content_stems(before.answer) - stems(answer) - stems(before.question)


def is_about_changed(earlier: LessonText, changed: LessonText, said: set[str]) -> bool:
    """Whether an earlier lesson is about nothing but what changed: "What is the password?" may have a new answer, and
    the password of the printer still be the old one.

    said : stems of the new statement.
    """
    return not (named(earlier.question) & content_stems(earlier.answer)) - said - named(changed.question)


def is_stale(earlier: LessonText, changed: LessonText, gone: set[str], said: set[str]) -> bool:
    """Whether an earlier lesson gives what is gone, of the same thing as one that changed, or nothing but that."""
    if not earlier.told & gone:
        gives = content_stems(earlier.answer) - stems(earlier.question)
        same = content_stems(earlier.question) & content_stems(changed.question)
        return bool(same) and gives <= content_stems(changed.question) | said
    answers_nothing_else = content_stems(earlier.answer) <= gone
    return answers_nothing_else or bool((earlier.told - gone) & (changed.told - gone))


def changes(before: LessonText, answer: str) -> bool:
    """Whether a new answer says anything that the earlier one did not."""
    return not content_stems(answer) <= stems(before.answer)


def _without(entry: Entry, gone: Sequence[EncodedLesson], memory: Memory) -> Entry:
    """The entry without some lessons, its gate without their keys."""
    ids = {id(p.lesson) for p in gone}
    gate = without_keys(
        entry.gate,
        [(TextMeans.of(p.below, p.ids, memory.opener), len(p.lesson.prompt)) for p in gone],
        memory.background,
    )
    left = tuple(lesson for lesson in entry.lessons if id(lesson) not in ids)
    return dataclasses.replace(entry, gate=gate, lessons=left)
