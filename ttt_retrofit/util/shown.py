"""Escaping of control characters in foreign text, because a terminal obeys them."""

from __future__ import annotations

import re

# C0 and C1 controls but for tab and line feed, and what changes the direction of writing.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """`text` with control characters as Python escapes, such as \\x1b."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown_in_line(text: str) -> str:
    """The same, on one line."""
    return shown(text).replace("\n", "\\n")


def shown_in_json(document: str) -> str:
    """The same JSON document, with control characters as JSON escapes."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
