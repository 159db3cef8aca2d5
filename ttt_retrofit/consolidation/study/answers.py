"""What is studied of the answers.

A statement is understood alone, so a question about it is answered from it alone. The answer has to hold the part that
was asked for; one that misses it is given again with that part in view. Of a statement that no longer holds, the later
one that says so is read too. The writer judges every answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..control import Control
from ..facts.checks import WORD, among, caseless, folded, holds, missing, names_in, words_of
from ..facts.related import Related, common, terms
from ..facts.turns import ASKS
from ..facts.verdicts import Judge
from ..writer import Answer
from .apart import apart
from .asking import BATCH, Asked, Asking
from .questions import QuestionDraft
from .statements import TEXT, Statement

ANSWERED = 0.5  # share of a budget of seconds after which no more questions are answered
MANY = 5  # questions that were written about one statement
READ = 4  # statements that one question is answered from


@dataclass(frozen=True)
class Question:
    """A question, and what a right answer has to hold."""

    text: str
    value: frozenset[str]  # words, folded; empty where nothing is known
    answer: Answer
    statement: int
    held_out: bool = False  # asked in verification, never trained on


@dataclass(frozen=True)
class Answered:
    """What came of some questions."""

    questions: list[Question]
    overruled: dict[int, int]  # statements that a later one answers otherwise, whatever is asked about them
    also: dict[str, list[int]]  # questions, folded, that other statements answer in another way, with these


@dataclass(frozen=True)
class Answering:
    """What questions are answered from."""

    statements: Sequence[Statement]
    outdated: Mapping[int, int]  # statements, each with the later one that changes it
    pieces: Sequence[str]  # of a document
    asking: Asking
    judge: Judge
    control: Control
    told_back: Mapping[int, Answer] = field(default_factory=dict)  # statements that answer whatever is asked about them
    endings: Mapping[int, Answer] = field(default_factory=dict)  # those that change others, told back, too

    def answer(self, drafts: Sequence[QuestionDraft]) -> Answered:
        """Questions about statements of a conversation or a document, and those of a user about all of it.

        Where two statements answer the same words in two ways, the later one counts.
        """
        about = [draft for draft in drafts if not draft.by_user]
        changed = [draft for draft in about if draft.statement in self.outdated]
        settled = [draft for draft in about if draft not in changed and draft.statement in self.told_back]
        found = [
            *self._told_back(settled),
            *self._from_statement([draft for draft in about if draft not in changed and draft not in settled]),
            *self._changed(changed),
        ]
        last = {folded(question.text): question for question in sorted(found, key=lambda q: q.statement)}
        kept = [*last.values(), *self._by_user([draft for draft in drafts if draft.by_user])]
        left = {question.statement for question in kept}
        overruled: dict[int, int] = {}
        also: dict[str, list[int]] = {}
        for question in found:
            by = last[folded(question.text)]
            if by.value != question.value and apart(by.statement, by.value, question.statement, self.statements):
                also.setdefault(folded(question.text), []).append(question.statement)
            elif by.value != question.value and question.statement not in left:
                overruled[question.statement] = by.statement
        return Answered(kept, overruled, also)

    # ------------------------------------------------------------------ readings

    def _from_statement(self, drafts: Sequence[QuestionDraft]) -> list[Question]:
        """Answers that hold the part asked for; of a document, out of its piece first."""
        found: dict[QuestionDraft, Question] = {}
        for asked in (self._alone, self._with_part):
            missed = [d for d in drafts if d not in found and (asked == self._alone or not d.still)]
            some = []
            for draft, given, said in self._asked(missed, [asked(draft) for draft in missed], "answers"):
                value = self._value(draft, said)
                if value and self._sound(said, draft, [draft.statement]) and self._about_it(said, draft):
                    # One that was given the part is no witness of it.
                    held_out = asked == self._alone and self._held_out(draft, said)
                    some.append((draft, Question(draft.text, value, given, draft.statement, held_out), said))
            found |= self._supported(some)
        return [*found.values()]

    def _told_back(self, drafts: Sequence[QuestionDraft]) -> Iterator[Question]:
        """What was told back answers every question. Of many that were written the second best may be held out, of few
        the last, and of one alone those that were cut: good ones are worth most when studied.
        """
        found: dict[int, list[tuple[QuestionDraft, frozenset[str]]]] = {}
        for draft in drafts:
            if value := self._value(draft, self.asking.text(self.told_back[draft.statement])):
                found.setdefault(draft.statement, []).append((draft, value))
        for number, some in found.items():
            written = [draft for draft, _ in some if not draft.cut]
            spare = written[1] if len(written) >= MANY else written[-1] if len(written) > 1 else None
            for draft, value in some:
                spared = draft is spare if spare else draft.cut
                yield Question(draft.text, value, self.told_back[number], number, held_out=spared)

    def _supported(self, some: Sequence[tuple[QuestionDraft, Question, str]]) -> dict[QuestionDraft, Question]:
        """Those whose answers say what was told, as is judged; a document's are taken for that."""
        of_text = {draft: question for draft, question, _ in some if self._of_text(draft)}
        talk = [(draft, question, said) for draft, question, said in some if draft not in of_text]
        told = [(self.statements[question.statement].understood, draft.text, said) for draft, question, said in talk]
        verdicts = self.judge.supported(told)
        return of_text | {draft: question for (draft, question, _), yes in zip(talk, verdicts) if yes}

    def _of_text(self, draft: QuestionDraft) -> bool:
        return self.statements[draft.statement].said_by == TEXT

    def _value(self, draft: QuestionDraft, said: str) -> frozenset[str]:
        """The words that decide: those of the part, if an answer has them all; the "no" of one that is no longer so."""
        if draft.still:
            first = frozenset(first_word(said))
            return first if first == frozenset(first_word(self.asking.language.no)) else frozenset()
        value = frozenset(WORD.findall(folded(draft.part)))
        return value if holds(said, value) else frozenset()

    def _changed(self, drafts: Sequence[QuestionDraft]) -> list[Question]:
        """Answers from the statement that changed what a question is about, alone: small writers mix the two up. Where
        they give none, it is told back: who asks where they work hears that they quit.
        """
        later = {draft: self._last(draft.statement) for draft in drafts}
        free = [draft for draft in drafts if later[draft] not in self.told_back]
        asked = [self.asking.about([self.statements[later[draft]]], draft.text) for draft in free]
        some = []
        for draft, given, said in self._asked(free, asked, "answers"):
            if self._sound(said, draft, [later[draft]]):
                value = given_by(said, draft.text, self.statements[later[draft]].source)
                some.append((draft, Question(draft.text, value, given, later[draft]), said))
        found = self._supported(some)
        ends = {**self.endings, **self.told_back}
        left = [draft for draft in drafts if draft not in found and later[draft] in ends and not draft.still]
        return [*found.values(), *(self._ended(draft.text, later[draft], ends[later[draft]]) for draft in left)]

    def _ended(self, question: str, by: int, told: Answer) -> Question:
        value = given_by(self.asking.text(told), question, self.statements[by].source)
        return Question(question, value, told, by)

    def _last(self, statement: int) -> int:
        """The statement that holds in the end, of those that change one another."""
        while statement in self.outdated:
            statement = self.outdated[statement]
        return statement

    def _by_user(self, drafts: Sequence[QuestionDraft]) -> Iterator[Question]:
        """A user's own questions are answered from what they are related to, and kept without an answer."""
        related = Related([statement.source for statement in self.statements])
        read = [related.to(draft.text, READ) for draft in drafts]
        everything = range(len(self.statements))
        asked = [
            self.asking.about([self.statements[n] for n in numbers], draft.text) for draft, numbers in zip(drafts, read)
        ]
        for draft, given, said in self._asked(drafts, asked, "answers"):
            sound = self._sound(said, draft, everything)
            value = given_by(said, draft.text, self._source(everything)) if sound else frozenset[str]()
            yield Question(draft.text, value, given, draft.statement)

    # ------------------------------------------------------------------ parts of them

    def _asked(
        self, drafts: Sequence[QuestionDraft], asked: Sequence[Asked], stage: str
    ) -> Iterator[tuple[QuestionDraft, Answer, str]]:
        """Each with its answer, and that in words; no more of them once half of the seconds are spent."""
        for at in range(0, len(drafts), BATCH):
            if at and self.control.spent() > ANSWERED:
                return
            self.control.at(stage, at, len(drafts))
            answers = self.asking.answers(asked[at : at + BATCH])
            for draft, given in zip(drafts[at : at + BATCH], answers):
                yield draft, given, self.asking.text(given)

    def _alone(self, draft: QuestionDraft) -> Asked:
        statement = self.statements[draft.statement]
        if self._of_text(draft):
            return self.asking.reading(self.pieces[statement.piece], draft.text)
        return self.asking.about([statement], draft.text)

    def _with_part(self, draft: QuestionDraft) -> Asked:
        """With what it asks for in view; of a document, out of the sentence alone."""
        statement = self.statements[draft.statement]
        if self._of_text(draft):
            return self.asking.reading(statement.text, draft.text)
        return self.asking.about([statement], draft.text, draft.part)

    def _sound(self, said: str, draft: QuestionDraft, read: Sequence[int]) -> bool:
        """Whether an answer names nothing that was not told, and does not ask."""
        return bool(said) and not said.endswith(ASKS) and not missing(said, [self._source(read), draft.text])

    def _about_it(self, said: str, draft: QuestionDraft) -> bool:
        """Whether an answer that speaks to the user names what it is about: "You come from Trieste." is no answer for
        a mother who does.
        """
        if draft.still or not self.asking.language.addresses(said):
            return True
        named = terms(draft.text) & terms(self.statements[draft.statement].text) - common(self.asking.language)
        return all(among(term, terms(said)) for term in named)

    def _held_out(self, draft: QuestionDraft, said: str) -> bool:
        """Whether it may decide on a memory: its answer names nothing but the part that it is judged by."""
        source = self._source([draft.statement])
        return draft.held_out and given_by(said, f"{draft.text} {draft.part}", source).isdisjoint(names_in([said]))

    def _source(self, numbers: Sequence[int]) -> str:
        return " ".join(self.statements[number].source for number in numbers)


def first_word(said: str) -> list[str]:
    """Folded; of scripts without spaces, the first character."""
    return (caseless(folded(said)) or WORD.findall(folded(said)))[:1]


def given_by(said: str, known: str, source: str) -> frozenset[str]:
    """The names, numbers and codes that an answer took from a source, and that were not `known`; where it has none, the
    other words that it took.
    """
    taken = words_of(said) & words_of(source) - words_of(known)
    return frozenset(taken & names_in([said]) or taken)
