"""Sentences of a text, in any language: cut after their marks, and never so that a fragment is left."""

from __future__ import annotations

import re

# The end of a line so long that only its length ended it.
WRAPPED = re.compile(r"(?<=[^\n]{50})(?<![.!? \t])[ \t]*\n(?=[ \t]*[\w\"'(])(?![ \t]*\d+[.)])")
# The end of a sentence; of scripts without spaces, without one.
ENDED = re.compile(r"(?<=[.!?…।؟۔])[\"')\]]*\s+|(?<=[。！？])(?![」』”）。！？])\s*|\n+")
# Letters and digits; a part with fewer belongs to the part before it, such as "Klein." after "Prof.".
FRAGMENT = 12
ABBREVIATED = re.compile(r"(?:^|[\s(])[^\W\d_]{1,4}\.$")  # a word so short before a full stop may be one
LONGEST = 120  # characters of a sentence that may go on behind it


def sentences(text: str) -> list[str]:
    """The sentences of a text; lines end them too, unless the text was wrapped."""
    text = WRAPPED.sub(" ", text)
    parts = [part.strip() for part in ENDED.split(text) if part and part.strip()]
    found: list[str] = []
    for part in parts:
        if found and _continues(found[-1], part, text):
            found[-1] = f"{found[-1]} {part}"
        else:
            found.append(part)
    return found


def _continues(before: str, part: str, text: str) -> bool:
    """Whether no sentence ended: behind an abbreviation, or a fragment is left. A line break always ends one."""
    if len(before) > LONGEST or f"{before} {part}" not in text:
        return False
    alone = sum(character.isalnum() for character in part) < FRAGMENT and part[0].isascii()
    return bool(ABBREVIATED.search(before)) or (alone and before.endswith("."))
