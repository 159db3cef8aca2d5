"""`IncrementalDetokenizer`: the text of an answer, token by token, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "�"  # the first tokens of a character of several decode to this


class IncrementalDetokenizer:
    """The text of one answer. Text that may be the beginning of a stop string is held back.

    Attributes
    ----------
    stopped : a stop string was found; the text ends before it.

    Parameters
    ----------
    skip_special_tokens : leave special tokens out, such as the one that ends an answer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = (), skip_special_tokens: bool = True
    ) -> None:
        self.tokenizer, self.stops, self.skip_special_tokens = tokenizer, tuple(stops), skip_special_tokens
        self.stopped = False
        self._context: list[int] = []  # the last tokens that were decoded: the text of the next ones depends on them
        self._pending: list[int] = []
        self._held = ""

    def add(self, token: int) -> str:
        """The text that this token makes certain, possibly none."""
        self._pending.append(token)
        new = self._decode_pending()
        if not new or new.endswith(UNFINISHED):
            return ""
        self._context, self._pending = self._pending, []
        return self._up_to_stop(new)

    def end(self) -> str:
        """The text that was held back, when no more tokens come."""
        rest, self._held = self._up_to_stop(self._decode_pending()) + self._held, ""
        return rest

    def _decode_pending(self) -> str:
        return self._decode(self._context + self._pending)[len(self._decode(self._context)) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=self.skip_special_tokens))

    def _up_to_stop(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [position for stop in self.stops if (position := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        partial = max((_partial_stop(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - partial :]
        return text[: len(text) - partial]


def _partial_stop(text: str, stop: str) -> int:
    """How many characters at the end of a text begin a stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
