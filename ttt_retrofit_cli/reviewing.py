"""A person's yes or no to facts, in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from ttt_retrofit import InputError
from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.util.shown import shown_in_line

from .contexts import read_text

Ask = Callable[[str], bool]


def policy_of(said: str | None) -> str | None:
    """The words of a policy, or those in the file of that name.

    Raises
    ------
    InputError
        When they are none.
    """
    if said is None:
        return None
    words = read_text(Path(said)) if "\n" not in said and Path(said).is_file() else said
    if not words.strip():
        raise InputError(f"--policy {said!r} says nothing. Give words, or a file that holds them.")
    return words.strip()


def confirmed(question: str) -> bool:
    return typer.confirm(question, default=True, err=True)


def confirm(yes: bool, question: str) -> None:
    """Ask once before something is deleted, unless `yes` was said already. Leaves with 1 at a no."""
    if not yes and not typer.confirm(shown_in_line(question), err=True):
        raise typer.Exit(1)


def one_by_one(facts: Sequence[Fact], ask: Ask = confirmed) -> list[Fact]:
    """Those that somebody wants to be kept."""
    return [fact for fact in facts if ask(f"Keep: {shown_in_line(str(fact))}")]
