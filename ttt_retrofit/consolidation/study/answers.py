"""The teacher's answers: it reads what was told, with what was told later about the same, and is asked.

An answer that holds the part that was asked for is studied. One that gives a part of a later statement in its place
says that the earlier one no longer holds. One that names what nobody told is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...util.messages import Message
from ...util.prompt_formatter import PromptFormatter
from ..config import ConsolidationConfig
from ..control import Control
from ..facts.checks import WORD, caseless, folded, missing, verbatim
from ..facts.informative import holds
from ..facts.languages import Language
from ..facts.related import Related
from ..prompts import Prompts, fill
from ..statements import TEXT, Statement
from ..writer import Answer, Writer
from .questions import QuestionDraft

BATCH = 64
ANSWERED = 0.5  # share of a budget of seconds after which no more questions are answered
READ = 4  # statements that one question is answered from
ACKNOWLEDGED = "OK."


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
    """What came of a list of questions."""

    questions: tuple[Question, ...]
    moved: tuple[tuple[int, int], ...]  # (statement, the later one that gave the answer in its place), by question


def answer(
    asked: Sequence[QuestionDraft],
    statements: Sequence[Statement],
    pieces: Sequence[str],
    teacher: Writer,
    ask: Asking,
    config: ConsolidationConfig,
    control: Control,
) -> Answered:
    """Every question with what else was told about the same, then those that were not answered with their statement
    alone. Where one question was answered in two ways, the answer from more counts, and then the later one.
    """
    related = Related([statement.source for statement in statements])
    found: dict[int, Question] = {}
    moved: list[tuple[int, int]] = []
    missed = list(range(len(asked)))
    for alone in (False, True):
        known = {folded(question.text) for question in found.values()}
        some = [n for n in missed if not alone or (asked[n].statement >= 0 and folded(asked[n].text) not in known)]
        missed = []
        contexts = {n: _read(asked[n], statements, related, alone) for n in some}
        by_user = {n: asked[n].statement >= 0 and statements[asked[n].statement].said_by == "User" for n in some}
        for batch in _batches(some, by_user):
            if found and control.spent() > ANSWERED:
                break
            control.at("answers again" if alone else "answers", some.index(batch[0]), len(some))
            prompts = [ask.prompt(asked[n], [statements[i] for i in contexts[n]], pieces, alone) for n in batch]
            line, never = not ask.formatter.chat, ask.speakers if by_user[batch[0]] else ()
            answers = teacher.answer(
                prompts, config.answer_tokens, BATCH, config.kept_logits, line=line, never=sorted(never)
            )
            for n, given in zip(batch, answers):
                # What a user asks may be answered from all that was said.
                told = statements if asked[n].by_user else [statements[i] for i in contexts[n]]
                source = " ".join(statement.source for statement in told)
                question, later = _judged(asked[n], given, teacher.text(given), source, statements, contexts[n], alone)
                if question is not None:
                    found[n] = question
                if later is not None:
                    moved.append((asked[n].statement, later))
                elif question is None:
                    missed.append(n)
    last = {folded(found[n].text): n for n in sorted(found, key=lambda n: found[n].statement)}
    for question in found.values():
        latest = found[last[folded(question.text)]]
        if 0 <= question.statement < latest.statement and question.value != latest.value:
            moved.append((question.statement, latest.statement))
    return Answered(tuple(found[n] for n in sorted(last.values())), tuple(moved))


def _batches(numbers: Sequence[int], alike: dict[int, bool]) -> Iterator[list[int]]:
    """Batches of questions that are alike."""
    for kind in (False, True):
        some = [n for n in numbers if alike[n] is kind]
        yield from (some[at : at + BATCH] for at in range(0, len(some), BATCH))


def _judged(
    draft: QuestionDraft,
    given: Answer,
    said: str,
    source: str,
    statements: Sequence[Statement],
    read: Sequence[int],
    alone: bool,
) -> tuple[Question | None, int | None]:
    """The question with its answer, and the later statement that the answer was taken from."""
    made_up = not said or missing(said, [source, draft.text])
    if draft.by_user:
        value = frozenset[str]() if made_up else given_by(said, draft.text, source)
        kept = value or alone or draft.statement < 0
        return (Question(draft.text, value, given, draft.statement) if kept else None), None
    if made_up:
        return None, None
    value = frozenset(WORD.findall(folded(draft.part)))
    if holds(said, value):
        return Question(draft.text, value, given, draft.statement, draft.held_out), None
    for later in (i for i in read if i > draft.statement):
        new = given_by(said, f"{draft.text} {statements[draft.statement].source}", statements[later].text)
        if new & {folded(word) for word in verbatim(said)} or (new and caseless(said)):
            return Question(draft.text, new, given, later, draft.held_out), later
    return None, None


def given_by(said: str, known: str, source: str) -> frozenset[str]:
    """The names, numbers and codes that an answer took from a source, and that were not `known`; where it has none, the
    other words that it took.
    """
    from_source = set(WORD.findall(folded(source))) | set(caseless(folded(source)))
    asked = set(WORD.findall(folded(known))) | set(caseless(folded(known)))
    named = {folded(word) for word in verbatim(said)}
    taken = {word for word in WORD.findall(folded(said)) if word in from_source and word not in asked}
    taken |= {c for c in caseless(folded(said)) if c in from_source and c not in asked}
    return frozenset(taken & named or taken)


def _read(draft: QuestionDraft, statements: Sequence[Statement], related: Related, alone: bool) -> list[int]:
    """The statements that a question is answered from, in their order."""
    if draft.statement < 0:
        return related.to(draft.text, READ)
    if alone or statements[draft.statement].said_by == TEXT:
        return [draft.statement]
    text = f"{draft.text} {statements[draft.statement].source}"
    return sorted({draft.statement, *related.to(text, READ)})


@dataclass(frozen=True)
class Asking:
    """How the teacher is asked about statements."""

    formatter: PromptFormatter
    prompts: Prompts
    language: Language

    def prompt(self, draft: QuestionDraft, read: Sequence[Statement], pieces: Sequence[str], alone: bool) -> list[int]:
        """Examples of answers, what is read, and the question; of a document its piece, or the sentence alone."""
        if read and read[0].said_by == TEXT:
            text = " ".join(statement.text for statement in read) if alone else pieces[read[0].piece]
            return with_reading(text, draft.text, self.formatter, self.prompts)
        if not self.formatter.chat:
            told = "\n".join(statement.told for statement in read)
            return self.formatter.asked(draft.text, [{"role": "user", "content": told}])
        return self.formatter.asked(draft.text, [*self._examples(), *conversation(read)])

    @cached_property
    def speakers(self) -> frozenset[int]:
        """Tokens of the words by which people speak of themselves, such as "my": of the example questions and facts of
        the user, those that no example answer has. Small models answer as if they were the user.
        """
        language = self.language
        asked = " ".join(lines for said, lines in language.questions if "Assistant" not in said.splitlines()[-1])
        told = " ".join(line for line in language.facts.splitlines() if not line.startswith(("[2]", "[6]")))
        others = " ".join([*(answer for _, answer in language.answers[:2]), *language.document])
        mine = (Counter(WORD.findall(asked.casefold())) & Counter(WORD.findall(told.casefold()))) - Counter()
        theirs = set(WORD.findall(others.casefold()))
        own = [word for word, count in mine.items() if count > 1 and word not in theirs and not caseless(word)]
        tokenizer, found = self.formatter.tokenizer, set()
        for word in own:
            for written in (word, word.capitalize(), f" {word}", f" {word.capitalize()}"):
                ids = tokenizer(written, add_special_tokens=False).input_ids
                found |= set(ids) if len(ids) == 1 else set()
        return frozenset(found)

    def again(self, question: str, answer: str, since: Sequence[Statement]) -> list[int]:
        """An earlier question after its answer and what was said since."""
        before = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if not self.formatter.chat:
            told = "\n".join([answer, *(statement.told for statement in since)])
            return self.formatter.asked(question, [{"role": "user", "content": told}])
        return self.formatter.asked(question, [*self._examples(), *before, *conversation(since)])

    def _examples(self) -> list[Message]:
        """How answers are given, as a conversation before; without it, small models answer as if they were the user."""
        told = "\n".join(line.split("] ", 1)[1] for line in self.language.facts.splitlines()[:5])
        messages = [{"role": "user", "content": told}, {"role": "assistant", "content": ACKNOWLEDGED}]
        for question, answer in self.language.answers:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return messages


def conversation(read: Sequence[Statement]) -> list[Message]:
    """Statements as they are told: each by whom said it, and acknowledged where the user would speak twice."""
    messages: list[Message] = []
    for statement in read:
        for message in statement.messages:
            if messages and messages[-1]["role"] == message["role"] == "user":
                messages.append({"role": "assistant", "content": ACKNOWLEDGED})
            messages.append(message)
    if messages and messages[-1]["role"] == "user":
        messages.append({"role": "assistant", "content": ACKNOWLEDGED})
    return messages


def with_reading(piece: str, question: str, formatter: PromptFormatter, prompts: Prompts) -> list[int]:
    """The prompt of a question about a piece of a document."""
    if formatter.chat:
        return formatter.asked(fill(prompts.reading, context=piece, question=question))
    return formatter.asked(question, [{"role": "user", "content": piece}])
