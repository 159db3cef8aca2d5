"""What is to be remembered, in whatever form it comes, cut into statements with what was said around them."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..memory.facts import Fact
from ..streaming.cache import TTTCache
from ..util.messages import STUDIED, Message, studied, text_of
from .facts.turns import Turn, speaker_of, turns_of
from .words import content, names, sentences, without_announcement, without_opener, words

TEXT = "Text"  # who says what stands in a document
NEIGHBOURS = 2  # sentences shown before a statement when questions about it are written
SHORTEST = 3  # words; anything shorter states nothing
OF_A_TURN = 4  # tokens that a template puts around a message


@dataclass(frozen=True)
class Statement:
    """One sentence that may hold facts."""

    text: str
    before: str  # the sentences before it
    piece: int  # the piece it stands in
    holds: bool = True  # at the end of the context: nothing that comes later changes it
    said_by: str = TEXT  # "User", "Assistant", "Tool", the name of a speaker, or `TEXT`
    message: int = 0  # of the conversation, from 0
    said_at: str | None = None  # ISO 8601

    @property
    def told(self) -> str:
        """As a writer of questions reads it."""
        return f"{self.said_by}: {self.text}"

    @property
    def source(self) -> str:
        """All the words that questions about it may take from it."""
        return f"{self.before} {self.text} {self.said_by}"

    def fact(self, source: str) -> Fact:
        """As a person sees it. source: sha256 of the context."""
        return Fact.of(self.text, speaker_of(self.said_by), self.said_at, [self.message], source)


@dataclass(frozen=True)
class Context:
    """A context, understood."""

    kind: str  # "text", "chat", "ids" or "cache"
    text: str
    pieces: tuple[tuple[Message, ...] | str, ...]  # messages of a conversation, or a part of a document
    statements: tuple[Statement, ...]
    turns: tuple[Turn, ...] = ()  # of a conversation, what tools returned included

    @property
    def conversation(self) -> bool:
        return self.kind == "chat"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def without(self, outdated: Collection[int]) -> Context:
        """The same, where the statements of these numbers do not hold."""
        statements = (replace(s, holds=number not in outdated) for number, s in enumerate(self.statements))
        return replace(self, statements=tuple(statements))


def parse_context(
    context: Any, tokenizer: PreTrainedTokenizerBase, piece_tokens: int, date: datetime.date | str | None = None
) -> Context:
    """A text, chat messages, token ids, or a `TTTCache` that kept its text.

    date : of messages that carry none; today when not given.

    Raises
    ------
    InputError
        When it is empty, of another type, a cache that kept no text, or has a date that cannot be read.
    """
    if isinstance(context, str):
        return _document("text", context, tokenizer, piece_tokens)
    if isinstance(context, TTTCache):
        if context.text is None:
            raise InputError(
                "This TTTCache kept no text, so there is nothing to study. Read with "
                "past_key_values=model.new_cache().keep_text(), or pass the text or the messages themselves."
            )
        if len(context.text) > 1:
            raise InputError(
                f"This TTTCache holds {len(context.text)} conversations. Consolidate them one by one: "
                "pass the token ids cache.text[row]."
            )
        return _ids("cache", context.text[0] if context.text else [], tokenizer, piece_tokens)
    if isinstance(context, Tensor):
        if context.ndim == 2 and context.shape[0] == 1:
            context = context[0]
        if context.ndim != 1 or context.is_floating_point():
            raise InputError(
                f"context has shape {tuple(context.shape)}; expected token ids of one text, (T,) or (1, T)."
            )
        return _ids("ids", context.tolist(), tokenizer, piece_tokens)
    if isinstance(context, Sequence) and context and all(isinstance(part, dict) for part in context):
        return _chat(context, tokenizer, piece_tokens, date)
    if isinstance(context, Sequence) and all(isinstance(part, int) for part in context):
        return _ids("ids", list(context), tokenizer, piece_tokens)
    raise InputError(
        f"context is a {type(context).__name__}; expected a text, a list of chat messages, token ids or a TTTCache."
    )


def _ids(kind: str, ids: list[int], tokenizer: PreTrainedTokenizerBase, piece_tokens: int) -> Context:
    return _document(kind, str(tokenizer.decode(ids, skip_special_tokens=True)), tokenizer, piece_tokens)


def _document(kind: str, text: str, tokenizer: PreTrainedTokenizerBase, piece_tokens: int) -> Context:
    parts = _sentences(text, tokenizer, piece_tokens)
    if not parts:
        raise InputError("The context is empty: there is nothing to remember.")
    pieces = _packed(parts, tokenizer, piece_tokens)
    statements: list[Statement] = []
    earlier: list[str] = []
    for number, piece in enumerate(pieces):
        for sentence in piece:
            statements.append(Statement(without_opener(sentence), " ".join(earlier[-NEIGHBOURS:]), number))
            earlier.append(sentence)
    stated = tuple(statement for statement in statements if _states(statement.text))
    return Context(kind, text, tuple(" ".join(piece) for piece in pieces), stated)


def _chat(
    messages: Sequence[dict],
    tokenizer: PreTrainedTokenizerBase,
    piece_tokens: int,
    date: datetime.date | str | None,
) -> Context:
    spoken = studied(messages)
    turns = turns_of(messages, date)
    if not spoken:
        raise InputError("The context is empty: no message of the user or the assistant says anything.")
    pieces: list[tuple[Message, ...]] = []
    statements: list[Statement] = []
    known: set[str] = set()
    current: list[Message] = []
    length = 0
    earlier: list[str] = []
    for turn, message, said, size in _parts(turns, messages, tokenizer, piece_tokens):
        # A piece begins with the user, as templates expect it, unless what was said in between is as long as one.
        if current and length + size > piece_tokens * (1 if message["role"] == "user" else 2):
            pieces.append(tuple(current))
            current, length = [], 0
        current.append(message)
        length += size
        for sentence in said:
            # An assistant that names nothing but what it was told states nothing new.
            repeats = message["role"] == "assistant" and not names(sentence) - known
            if _states(sentence) and not repeats and not sentence.endswith("?"):
                statements.append(
                    Statement(
                        without_announcement(sentence),
                        " ".join(earlier[-NEIGHBOURS:]),
                        len(pieces),
                        said_by=turn.said_by,
                        message=turn.place,
                        said_at=turn.date.isoformat(),
                    )
                )
            earlier.append(sentence)
            known |= set(words(sentence))
    pieces.append(tuple(current))
    return Context("chat", json.dumps(spoken, ensure_ascii=False), tuple(pieces), tuple(statements), tuple(turns))


def _parts(
    turns: Sequence[Turn], messages: Sequence[dict], tokenizer: PreTrainedTokenizerBase, most: int
) -> Iterator[tuple[Turn, Message, list[str], int]]:
    """What users and assistants say, with sentences and tokens; what is longer than a piece comes as several."""
    for turn in turns:
        role = messages[turn.place]["role"]
        if role not in STUDIED:
            continue
        text = text_of(messages[turn.place], turn.place)
        said, size = _sentences(text, tokenizer, most), _tokens(text, tokenizer)
        if size <= most:
            yield turn, {"role": role, "content": text}, said, size + OF_A_TURN
            continue
        for part in _packed(said, tokenizer, most):
            joined = " ".join(part)
            yield turn, {"role": role, "content": joined}, part, _tokens(joined, tokenizer) + OF_A_TURN


def _packed(said: Sequence[str], tokenizer: PreTrainedTokenizerBase, most: int) -> list[list[str]]:
    """Sentences in groups of at most so many tokens, or one sentence each."""
    groups: list[list[str]] = [[]]
    length = 0
    for sentence in said:
        size = _tokens(sentence, tokenizer) + 1
        if groups[-1] and length + size > most:
            groups.append([])
            length = 0
        groups[-1].append(sentence)
        length += size
    return groups


def _sentences(text: str, tokenizer: PreTrainedTokenizerBase, most: int) -> list[str]:
    """The sentences of a text; one of more than about `most` tokens, such as a dump of data, is cut."""
    found: list[str] = []
    for sentence in sentences(text):
        cuts = max(1, -(-_tokens(sentence, tokenizer) // most))
        size = -(-len(sentence) // cuts)
        found += (sentence[first : first + size] for first in range(0, len(sentence), size))
    return found


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def _states(sentence: str) -> bool:
    return len(words(sentence)) >= SHORTEST and bool(content(sentence))
