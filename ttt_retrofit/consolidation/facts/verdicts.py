"""What a writer judges: whether a later fact ends an earlier one, and whether an answer says what was told.

A verdict is a digit or a dash, so examples in one language serve all of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal

from ...util.messages import Message
from .related import Related
from .turns import USER
from .writers import FactWriter

COMPARED = 3  # earlier facts that one is compared with
YES = "1"
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
    verdicts = _verdicts("changes", [(told[earlier][2], told[later][2]) for earlier, later in pairs], writer)
    return {earlier: later for (earlier, later), yes in zip(pairs, verdicts) if yes}


def supported(answers: Sequence[tuple[str, str, str]], writer: FactWriter) -> list[bool]:
    """Whether each answer says what was told. answers : what was told, a question, and its answer."""
    return _verdicts("supports", answers, writer)


def _verdicts(kind: Literal["changes", "supports"], asked: Sequence[tuple[str, ...]], writer: FactWriter) -> list[bool]:
    prompts = [judging(kind, *parts) for parts in asked]
    given = writer.complete(prompts, LONGEST) if prompts else []
    return [verdict.strip().startswith(YES) for verdict in given]


def judging(kind: Literal["changes", "supports"], *parts: str) -> list[Message]:
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
