"""What is to be remembered, in whatever form it comes."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...errors import InputError, quoted
from ...streaming.cache import TTTCache
from ..facts.turns import USER, Turn, turns_of
from .sentences import sentences
from .statements import Statement, as_json, of_document

SHOWN = 4000  # characters that tell the language of a context


@dataclass(frozen=True)
class Context:
    """A context, understood."""

    kind: str  # "text", "chat", "ids", "cache" or "added"
    text: str
    turns: tuple[Turn, ...] = ()  # of a conversation
    pieces: tuple[str, ...] = ()  # of a document
    statements: tuple[Statement, ...] = ()  # those of a conversation are found by a writer
    asked_before: tuple[tuple[str, str], ...] = ()  # questions and answers of a fact that it takes the place of

    @property
    def conversation(self) -> bool:
        return self.kind == "chat"

    @property
    def has_facts(self) -> bool:
        """A document has a text in their place."""
        return self.kind in ("chat", "added")

    @property
    def words(self) -> str:
        """A beginning of what was said, by which its language is told."""
        said = "\n".join(turn.text for turn in self.turns) if self.conversation else self.text
        return said[:SHOWN]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def added_fact(text: str, day: datetime.date, asked_before: Sequence[tuple[str, str]] = ()) -> Context:
    """One fact that the user adds by hand, in no conversation.

    Raises
    ------
    InputError
        When it says nothing.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"The fact is {quoted(text)}; expected a sentence, such as 'My dog is called Bolt.'")
    statement = Statement(" ".join(text.split()), USER, said_at=day.isoformat())
    return Context("added", statement.text, statements=(statement,), asked_before=tuple(asked_before))


def parse_context(
    context: Any, tokenizer: PreTrainedTokenizerBase, piece_tokens: int, date: datetime.date | str | None = None
) -> Context:
    """A text, chat messages, token ids, a `TTTCache` that kept its text, or what was understood already.

    date : of what carries none.

    Raises
    ------
    InputError
        When it is empty, of another type, a cache that kept no text, or has a date that cannot be read.
    """
    if isinstance(context, Context):
        return context
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
        return _chat(context, date)
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
    return Context(kind, text, pieces=tuple(" ".join(piece) for piece in pieces), statements=of_document(pieces))


def _chat(messages: Sequence[dict], date: datetime.date | str | None) -> Context:
    turns = turns_of(messages, date)
    if not turns:
        raise InputError("The context is empty: no message of the user, the assistant or a tool says anything.")
    return Context("chat", as_json(turns), turns=tuple(turns))


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
