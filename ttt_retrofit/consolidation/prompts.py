"""The prompts of `prompts.toml`, or of a file in its place."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..util.files import read_regular
from .facts.languages import Language, languages

KEPT = 5  # one in so many of the general requests is kept for verification
FIELDS = {
    "overviewed": {"told"},
    "overviewed_document": {"told"},
    "reading": {"context", "question"},
    "plain": {"context", "question"},
}

# Of earlier versions, whose files still load.
REMOVED = {
    *("quote", "quoted", "quote_document", "quoted_document", "kind", "kinds", "conversation", "document", "turned"),
    *("named", "refusals", "usual", "introduced", "common"),
}


@dataclass(frozen=True)
class Prompts:
    """What the model is asked while it studies; see the comments in `prompts.toml`."""

    overview: tuple[str, ...]
    overviewed: str
    overview_document: tuple[str, ...]
    overviewed_document: str
    summarise: str
    reading: str
    plain: str
    unknown: tuple[str, ...]
    abstention: str
    general: tuple[str, ...]
    replied: str
    unrelated: tuple[str, ...]

    @property
    def kept_general(self) -> tuple[str, ...]:
        """The general requests that are asked in verification, and nowhere else."""
        return self.general[KEPT - 1 :: KEPT]

    def declining(self, language: Language) -> str:
        """The answer to what was never said. Examples of other languages than the first have their own."""
        return self.abstention if language is languages()[0] else language.unknown

    @classmethod
    def load(cls, path: str | os.PathLike | None = None) -> Prompts:
        """Read a file, or the library's own.

        Raises
        ------
        ConfigError
            When the file is no TOML, or keys or placeholders are missing.
        """
        name = str(path) if path is not None else "prompts.toml"
        try:
            own = resources.files(__package__).joinpath(name)
            values = tomllib.loads((own.read_bytes() if path is None else read_regular(Path(path))).decode())
        except (OSError, ValueError, RecursionError) as error:  # of TOML and of UTF-8, or what is no file
            raise ConfigError(f"The prompts in {name} cannot be read: {error}") from error
        expected = {field.name for field in dataclasses.fields(cls)}
        missing, unknown = sorted(expected - set(values)), sorted(set(values) - expected - REMOVED)
        if missing or unknown:
            raise ConfigError(f"The prompts in {name} lack {missing} and have unknown keys {unknown}.")
        for key, placeholders in FIELDS.items():
            absent = [p for p in sorted(placeholders) if "{" + p + "}" not in values[key]]
            if absent:
                raise ConfigError(f"The prompt {key!r} in {name} lacks the placeholders {absent}.")
        known = {key: value for key, value in values.items() if key in expected}
        fields: dict[str, Any] = {k: v.strip("\n") if isinstance(v, str) else tuple(v) for k, v in known.items()}
        return cls(**fields)


def fill(template: str, **values: str) -> str:
    """`template` with its placeholders replaced; braces in the values stay as they are."""
    return re.sub(rf"\{{({'|'.join(values)})\}}", lambda found: values[found[1]], template)
