"""Sentences of a text, in any language: `sentencex` knows the marks and the abbreviations of each."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sentencex import segment

from ..facts.languages import nearest

# The end of a line so long that only its length ended it.
WRAPPED = re.compile(r"(?<=[^\n]{50})(?<![.!? \t])[ \t]*\n(?=[ \t]*[\w\"'(])(?![ \t]*\d+[.)])")
GOES_ON = re.compile(r"(?:^|[\s(])[^\W\d_]\.$|[。！？][」』”）]$")  # after the "M." of "M. Dupont", and what is quoted


def sentences(text: str) -> list[str]:
    """The sentences of a text; lines end them too, unless the text was wrapped."""
    lines = [" ".join(line.split()) for line in WRAPPED.sub(" ", text).splitlines()]
    return [sentence for line in lines if line for sentence in _of_line(line, nearest(line).code)]


def _of_line(line: str, language: str) -> Iterator[str]:
    begun = ""
    for part in segment(language, line):
        begun += part
        if not GOES_ON.search(begun.rstrip()):
            yield begun.strip()
            begun = ""
    if begun:
        yield begun.strip()
