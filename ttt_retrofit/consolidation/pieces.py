"""What is to be remembered, in whatever form it comes, cut into statements with what was said around them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..cache import TTTCache
from ..errors import InputError
from .words import content, names, sentences, without_announcement, without_opener, words
from .writer import Message

NEIGHBOURS = 2  # sentences shown before a statement when questions about it are written
SHORTEST = 3  # words; anything shorter states nothing


@dataclass(frozen=True)
class Statement:
    """One sentence that may hold facts."""

    text: str
    before: str  # the sentences before it
    piece: int  # the piece it stands in
    holds: bool = True  # at the end of the context: nothing that comes later changes it


@dataclass(frozen=True)
class Context:
    """A context, understood."""

    kind: str  # "text", "chat", "ids" or "cache"
    text: str
    pieces: tuple[tuple[Message, ...] | str, ...]  # messages of a conversation, or a part of a document
    statements: tuple[Statement, ...]

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


def understand(context: Any, tokenizer: PreTrainedTokenizerBase, piece_tokens: int) -> Context:
    """A text, chat messages, token ids, or a `TTTCache` that kept its text.

    Raises
    ------
    InputError
        When it is empty, of another type, or a cache that kept no text.
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
        return _chat(context, tokenizer, piece_tokens)
    if isinstance(context, Sequence) and all(isinstance(part, int) for part in context):
        return _ids("ids", list(context), tokenizer, piece_tokens)
    raise InputError(
        f"context is a {type(context).__name__}; expected a text, a list of chat messages, token ids or a TTTCache."
    )


def _ids(kind: str, ids: list[int], tokenizer: PreTrainedTokenizerBase, piece_tokens: int) -> Context:
    return _document(kind, str(tokenizer.decode(ids, skip_special_tokens=True)), tokenizer, piece_tokens)


def _document(kind: str, text: str, tokenizer: PreTrainedTokenizerBase, piece_tokens: int) -> Context:
    parts = sentences(text)
    if not parts:
        raise InputError("The context is empty: there is nothing to remember.")
    pieces: list[str] = []
    statements: list[Statement] = []
    current: list[str] = []
    length = 0
    for index, sentence in enumerate(parts):
        size = len(tokenizer(sentence, add_special_tokens=False).input_ids) + 1
        if current and length + size > piece_tokens:
            pieces.append(" ".join(current))
            current, length = [], 0
        current.append(sentence)
        length += size
        statements.append(
            Statement(without_opener(sentence), " ".join(parts[max(0, index - NEIGHBOURS) : index]), len(pieces))
        )
    pieces.append(" ".join(current))
    return Context(kind, text, tuple(pieces), tuple(s for s in statements if _states(s.text)))


def _chat(messages: Sequence[dict], tokenizer: PreTrainedTokenizerBase, piece_tokens: int) -> Context:
    turns: list[Message] = []
    for message in messages:
        role, said = message.get("role"), message.get("content")
        if isinstance(said, list):  # parts, as multimodal templates have them
            said = " ".join(part.get("text", "") for part in said if isinstance(part, dict))
        if not isinstance(role, str) or not isinstance(said, str):
            raise InputError(f"A chat message is {message!r}; expected {{'role': ..., 'content': ...}} with a text.")
        turns.append({"role": role, "content": said})
    if not any(turn["content"].strip() for turn in turns):
        raise InputError("The context is empty: no message says anything.")
    pieces: list[tuple[Message, ...]] = []
    statements: list[Statement] = []
    known: set[str] = set()
    current: list[Message] = []
    length = 0
    earlier: list[str] = []
    for turn in turns:
        size = len(tokenizer(turn["content"], add_special_tokens=False).input_ids) + 4
        # A piece begins with the user, as templates expect it.
        if current and length + size > piece_tokens and turn["role"] == "user":
            pieces.append(tuple(current))
            current, length = [], 0
        current.append(turn)
        length += size
        for sentence in sentences(turn["content"]):
            # An assistant that names nothing but what it was told states nothing new.
            repeats = turn["role"] == "assistant" and not names(sentence) - known
            if _states(sentence) and not repeats and not sentence.endswith("?"):
                statements.append(
                    Statement(without_announcement(sentence), " ".join(earlier[-NEIGHBOURS:]), len(pieces))
                )
            earlier.append(sentence)
            known |= set(words(sentence))
    pieces.append(tuple(current))
    return Context("chat", json.dumps(turns, ensure_ascii=False), tuple(pieces), tuple(statements))


def _states(sentence: str) -> bool:
    return len(words(sentence)) >= SHORTEST and bool(content(sentence))
