"""What a writer judges: whether a fact was told, whether a later one ends it, whether an answer says what was told, and
whether a policy allows to keep it.

A verdict is a digit or a dash, so examples in one language serve all of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

from ...util.messages import Message
from .related import Related
from .turns import USER
from .writers import FactWriter

Kind = Literal["changes", "supports", "tells"]
Asked = Kind | Literal["allows"]
TRUSTED = 0.75  # share of known cases that a writer must judge rightly; chance is a half
COMPARED = 3  # earlier facts that one is compared with
YES = "1"
LONGEST = 4  # tokens of a verdict


@dataclass
class Judge:
    """A writer as a judge. It is believed as far as it judges known cases rightly, which small ones do not."""

    writer: FactWriter
    believed: dict[Kind, bool] = field(default_factory=dict)

    def changed(
        self,
        told: Sequence[tuple[int, str, str]],
        progress: Callable[[int, int], None] = lambda done, total: None,
        since: int = 0,
    ) -> dict[int, int]:
        """The facts that no longer hold, each with the last one that says so; none of a judge that is not believed.

        told : the message, who said it, and what, in order. What the user said is changed by nobody else, and what one
            message says holds together.
        since : the first fact of which it is asked what it ends.
        """
        related = Related([text for _, _, text in told])
        pairs = [
            (earlier, later)
            for later, (message, speaker, text) in enumerate(told)
            if later >= since
            for earlier in related.to(text, COMPARED, before=later)
            if message != told[earlier][0] and speaker in (told[earlier][1], USER)
        ]
        progress(0, len(pairs))
        verdicts = self._verdicts("changes", [(told[earlier][2], told[later][2]) for earlier, later in pairs], False)
        return {earlier: later for (earlier, later), yes in zip(pairs, verdicts) if yes}

    def supported(self, answers: Sequence[tuple[str, str, str]]) -> list[bool]:
        """Whether each answer says what was told; of a judge that is not believed, they all do.

        answers : what was told, a question, and its answer.
        """
        return self._verdicts("supports", answers, True)

    def told(self, facts: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether each fact was told, and not asked, imagined or ordered. facts : what was said, and a fact of it."""
        return self._verdicts("tells", facts, True)

    def allowed(self, policy: str, facts: Sequence[str]) -> list[bool]:
        """Whether a policy allows to keep each fact. Any judge is asked: what it does not allow is refused."""
        return self._given("allows", [(policy, fact) for fact in facts])

    def _verdicts(self, kind: Kind, asked: Sequence[tuple[str, ...]], otherwise: bool) -> list[bool]:
        if not asked:
            return []
        return self._given(kind, asked) if self.trusted(kind) else [otherwise] * len(asked)

    def trusted(self, kind: Kind) -> bool:
        """Whether it judges known cases of a kind rightly."""
        if kind not in self.believed:
            known = _asked()[kind]["known"]
            given = self._given(kind, [case[:-1] for case in known])
            right = sum(yes == (verdict == YES) for yes, (*_, verdict) in zip(given, known))
            self.believed[kind] = right >= TRUSTED * len(known)
        return self.believed[kind]

    def _given(self, kind: Asked, asked: Sequence[Sequence[str]]) -> list[bool]:
        verdicts = self.writer.complete([judging(kind, *parts) for parts in asked], LONGEST)
        return [verdict.strip().startswith(YES) for verdict in verdicts]


def judging(kind: Asked, *parts: str) -> list[Message]:
    """The prompt about some parts, in the form that `verdicts.toml` gives."""
    asked = _asked()[kind]
    messages: list[Message] = [{"role": "system", "content": asked["instruction"].strip()}]
    for *example, verdict in asked["examples"]:
        messages += [_filled(asked["form"], example), {"role": "assistant", "content": verdict}]
    return [*messages, _filled(asked["form"], parts)]


def _filled(form: str, parts: Sequence[str]) -> Message:
    return {"role": "user", "content": form.strip().format(*parts)}


@cache
def _asked() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "verdicts.toml").read_text())
