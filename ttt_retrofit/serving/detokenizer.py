"""Text out of tokens as they come, up to a text that ends it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "�"  # what the first tokens of a character of several decode to


class Spelling:
    """The text of one answer. What may still turn out to be the beginning of a stop is held back.

    Attributes
    ----------
    stopped : a stop was met; the text ends before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self.stopped = False
        self._before: list[int] = []  # the last tokens that were spelled: how the next ones join on to them
        self._new: list[int] = []
        self._held = ""

    def add(self, token: int) -> str:
        """What is certain now and was not before."""
        self._new.append(token)
        new = self._spelled()
        if not new or new.endswith(UNFINISHED):
            return ""
        self._before, self._new = self._new, []
        return self._checked(new)

    def end(self) -> str:
        """What was held back, when no more tokens come."""
        rest, self._held = self._checked(self._spelled()) + self._held, ""
        return rest

    def _spelled(self) -> str:
        return self._decoded(self._before + self._new)[len(self._decoded(self._before)) :]

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _checked(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        met = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if met:
            self.stopped, self._held = True, ""
            return text[: min(met)]
        begun = max((_begun(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text begin a stop."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
