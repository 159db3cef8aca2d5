"""How questions are answered: who is asked, after which examples, having read what.

The teacher is the model that learns. Another writer answers in words, and the teacher says how likely it finds each of
their tokens. Without one, the teacher answers itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...util.messages import Message, exchanges
from ...util.prompt_formatter import PromptFormatter
from ..config import ConsolidationConfig
from ..facts.languages import Language
from ..facts.writers import FactWriter, beginnings, first_line
from ..prompts import Prompts, fill
from ..writer import Answer, Writer
from .statements import Statement

BATCH = 64
ACKNOWLEDGED = "OK."


@dataclass(frozen=True)
class Asked:
    """A question with what is read before it."""

    question: str
    before: tuple[Message, ...] = ()
    of_user: bool = False  # what is read is in the first person of the user


@dataclass(frozen=True)
class Asking:
    """Who answers, and how."""

    teacher: Writer
    writer: FactWriter | None  # that is not the teacher
    formatter: PromptFormatter
    prompts: Prompts
    language: Language
    config: ConsolidationConfig

    def answers(self, asked: Sequence[Asked]) -> list[Answer]:
        """An answer to each, every token with the teacher's logits."""
        if self.writer is None:
            return self._by_teacher(asked)
        prompts = [[*one.before, {"role": "user", "content": one.question}] for one in asked]
        texts = self.writer.complete(prompts, self.config.answer_tokens)
        said = [self.formatter.said("" if one.of_user and self._as_user(text) else first_line(text))
                for one, text in zip(asked, texts)]  # fmt: skip
        ids = [self._ids(one) for one in asked]
        return self.teacher.scored(ids, said, BATCH, self.config.kept_logits)

    def _as_user(self, text: str) -> bool:
        return self.language.speaks(text)

    def _by_teacher(self, asked: Sequence[Asked]) -> list[Answer]:
        found: dict[int, Answer] = {}
        for numbers, of_user in _alike([one.of_user for one in asked]):
            given = self.teacher.answer(
                [self._ids(asked[n]) for n in numbers],
                self.config.answer_tokens,
                BATCH,
                self.config.kept_logits,
                line=not self.formatter.chat,
                never=[self.speakers] * len(numbers) if of_user else (),
            )
            found |= dict(zip(numbers, given))
        return [found[n] for n in range(len(asked))]

    def text(self, answer: Answer) -> str:
        return self.teacher.text(answer)

    @property
    def abstention(self) -> str:
        """How what was never said is declined, in the language of what was said."""
        return self.prompts.declining(self.language)

    def _ids(self, one: Asked) -> list[int]:
        return self.formatter.asked(one.question, one.before)

    def about(self, read: Sequence[Statement], question: str, part: str = "") -> Asked:
        """After examples of answers, and statements of a conversation as they were told; with the part of them that the
        answer is to hold, where it is given.
        """
        question = f"{question}\n→ {part}" if part else question
        of_user = any(statement.said_by == "User" for statement in read)
        if not self.formatter.chat:
            told = "\n".join(statement.told for statement in read)
            return Asked(question, ({"role": "user", "content": told},), of_user)
        return Asked(question, (*self._examples(bool(part)), *conversation(read)), of_user)

    def reading(self, text: str, question: str) -> Asked:
        """After a part of a document."""
        if self.formatter.chat:
            return Asked(fill(self.prompts.reading, context=text, question=question))
        return Asked(question, ({"role": "user", "content": text},))

    def again(self, question: str, answer: str, since: Sequence[Statement]) -> Asked:
        """An earlier question after its answer and what was said since."""
        before = exchanges([(question, answer)])
        if not self.formatter.chat:
            told = "\n".join([answer, *(statement.told for statement in since)])
            return Asked(question, ({"role": "user", "content": told},))
        return Asked(question, (*self._examples(), *before, *conversation(since)))

    def _examples(self, parts: bool = False) -> tuple[Message, ...]:
        """How answers are given, as a conversation before; without it, small models answer as if they were the user."""
        told = "\n".join(line.split("] ", 1)[1] for line in self.language.facts.splitlines()[:5])
        messages: list[Message] = [{"role": "user", "content": told}, {"role": "assistant", "content": ACKNOWLEDGED}]
        for question, answer in self.language.answers:
            hint = f"\n→ {self.language.part_of[question]}" if parts else ""
            messages += [{"role": "user", "content": question + hint}, {"role": "assistant", "content": answer}]
        return tuple(messages)

    @cached_property
    def speakers(self) -> list[int]:
        """Tokens of the words by which people speak of themselves. Small models answer as if they were the user."""
        tokenizer, words = self.formatter.tokenizer, sorted(self.language.first_person)
        if self.language.spaces:
            return beginnings(words, tokenizer)
        texts = {ids: str(tokenizer.convert_tokens_to_string([token])) for token, ids in tokenizer.get_vocab().items()}
        return sorted(ids for ids, text in texts.items() if any(word in text for word in words))


def _alike(kinds: Sequence[bool]) -> Iterator[tuple[list[int], bool]]:
    """The numbers of either kind."""
    for kind in (False, True):
        numbers = [n for n, other in enumerate(kinds) if other is kind]
        if numbers:
            yield numbers, kind


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
