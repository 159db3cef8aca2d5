"""Settings given as NAME=VALUE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ttt_retrofit.errors import ConfigError


def settings(said: Sequence[str]) -> dict[str, Any]:
    """["inner_lr=1e-3", "layers=upper"] as a dictionary; values are JSON, Python's True, False and None, or else words.

    Raises
    ------
    ConfigError
        For what is not NAME=VALUE.
    """
    found: dict[str, Any] = {}
    for part in said:
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise ConfigError(f"Found the setting {part!r}, expected NAME=VALUE, such as inner_lr=1e-3.")
        found[name] = _value(value)
    return found


def _value(said: str) -> Any:
    # As a word, "False" would count as true. None has one spelling: "none" is a word that some fields take.
    if said.lower() in ("true", "false"):
        return said.lower() == "true"
    if said == "None":
        return None
    try:
        return json.loads(said)
    except json.JSONDecodeError:
        return said
