"""How a memory is made, as options say it."""

from __future__ import annotations

from pathlib import Path

from ttt_retrofit import ConfigError, ConsolidationConfig, MemoryConfig

from .contexts import read_text
from .settings import settings

PLACES = "memory."  # before a field of MemoryConfig in a recipe


def recipe(said: list[str] | None) -> ConsolidationConfig:
    """`ConsolidationConfig` with the fields NAME=VALUE changed, and those of its `MemoryConfig` as memory.NAME=VALUE.

    Raises
    ------
    ConfigError
        For a field that neither has, or a value that does not fit.
    """
    changes = settings(said or ())
    memory = {name.removeprefix(PLACES): changes.pop(name) for name in list(changes) if name.startswith(PLACES)}
    if "memory" in changes:
        raise ConfigError(f"memory={changes['memory']!r}: give fields of MemoryConfig as memory.NAME=VALUE.")
    return ConsolidationConfig(MemoryConfig.from_dict(memory), **changes)


def read_questions(path: Path | None) -> list[str] | None:
    """The lines of a file that are not empty."""
    return None if path is None else [line.strip() for line in read_text(path).splitlines() if line.strip()]
