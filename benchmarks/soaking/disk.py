"""Codes in the files of a store: as text, and as the tokens of lessons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ttt_retrofit import Memory
from ttt_retrofit.memory.memory_file import HEADER
from ttt_retrofit.serving.directories import read_identity, user_directories

from .writer import CODE

IN_BYTES = re.compile(CODE.pattern.encode())


def codes_of(store: Path, tokenizer: Any) -> Iterator[tuple[str, str, str]]:
    """The user whose directory it is, a file, and a code that it holds."""
    for directory in user_directories(store):
        identity = read_identity(directory) or "nobody"
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            found = {match[0].decode() for match in IN_BYTES.finditer(path.read_bytes())}
            if path.name == HEADER:
                found |= _in_lessons(Memory.load(path.parent), tokenizer)
            yield from ((identity, path.relative_to(directory).as_posix(), code) for code in sorted(found))


def _in_lessons(memory: Memory, tokenizer: Any) -> set[str]:
    lessons = (lesson for entry in memory.entries for lesson in entry.lessons)
    texts = (str(tokenizer.decode([*one.prompt, *one.answer], skip_special_tokens=True)) for one in lessons)
    return {match[0] for text in texts for match in CODE.finditer(text)}
