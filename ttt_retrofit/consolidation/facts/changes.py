"""Which earlier facts a later one changes: a writer compares them two by two.

The verdict is a digit or a dash, so the examples serve every language.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any

from ...util.messages import Message
from .related import Related
from .turns import USER
from .writers import FactWriter

COMPARED = 3  # earlier facts that one is compared with
CHANGED = "1"
LONGEST = 4  # tokens of a verdict


def changed(
    told: Sequence[tuple[int, str, str]],
    writer: FactWriter,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, int]:
    """The facts that no longer hold, each with the last one that says so.

    told : the message, who said it, and what, in order. What the user said is changed by nobody else, and what one
        message says holds together.
    """
    related = Related([text for _, _, text in told])
    pairs = [
        (earlier, later)
        for later, (message, speaker, text) in enumerate(told)
        for earlier in related.to(text, COMPARED, before=later)
        if message != told[earlier][0] and speaker in (told[earlier][1], USER)
    ]
    progress(0, len(pairs))
    verdicts = writer.complete([comparing(told[a][2], told[b][2]) for a, b in pairs], LONGEST) if pairs else []
    return {earlier: later for (earlier, later), said in zip(pairs, verdicts) if said.strip().startswith(CHANGED)}


def comparing(earlier: str, later: str) -> list[Message]:
    """The prompt about one pair."""
    asked = _asked()
    messages: list[Message] = [{"role": "system", "content": asked["changes"].strip()}]
    for known, new, verdict in asked["changed"]:
        messages += [_pair(known, new), {"role": "assistant", "content": verdict}]
    return [*messages, _pair(earlier, later)]


def _pair(earlier: str, later: str) -> Message:
    return {"role": "user", "content": f"[{CHANGED}] {earlier}\nNew: {later}"}


@cache
def _asked() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "facts.toml").read_text())
