"""What a store still holds of a deleted fact: its sentences as text, and as token ids, in any file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttt_retrofit import Memory
from ttt_retrofit.memory.memory_file import HEADER

from .conversations import Fact
from .harness.english import holds, words

INTEGERS = ("<i4", "<i8", "<u2")  # as ids are stored, and as they might be


@dataclass(frozen=True)
class Left:
    """What is searched for.

    Attributes
    ----------
    texts : sentences that tell the fact.
    ids : the same as tokens, and the questions and answers of lessons that tell its value.
    value : the words of what a right answer holds.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    value: tuple[str, ...]
    tokenizer: Any

    @classmethod
    def of(cls, memory: Memory, facts: Sequence[str], fact: Fact, tokenizer: Any) -> Left:
        """Of a fact of a conversation, which some facts of a memory tell."""
        texts = {fact.said, *(one.text for one in memory.facts(None) if one.id in facts)}
        value = tuple(words(fact.answer))
        ids = {
            tuple(tokenizer(space + text, add_special_tokens=False).input_ids) for text in texts for space in ("", " ")
        }
        lessons = [x for entry in memory.entries for x in entry.lessons if not {*facts}.isdisjoint(x.facts or ())]
        parts = [part for lesson in lessons for part in (lesson.prompt, lesson.answer)]
        ids |= {part for part in parts if holds(str(tokenizer.decode(part, skip_special_tokens=True)), value)}
        return cls(tuple(sorted(texts)), tuple(sorted(ids)), value, tokenizer)

    def found(self, directory: Path) -> list[str]:
        """Where, by the names of files; of a version also how many of its lessons tell the value."""
        found = []
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            name, content = path.relative_to(directory).as_posix(), path.read_bytes()
            written = [form for text in self.texts for form in (text.encode(), json.dumps(text).encode()[1:-1])]
            if any(form in content for form in written):
                found.append(f"text in {name}")
            if path.suffix == ".json" and self._value_in(content.decode()):
                found.append(f"value in {name}")
            if any(form in content for ids in self.ids for form in _in_bytes(ids)):
                found.append(f"ids in {name}")
            if path.name == HEADER:
                lessons = self._lessons(Memory.load(path.parent))
                found += [f"{len(lessons)} lessons of {name}"] if lessons else []
        return found

    def _value_in(self, text: str) -> bool:
        """Whether the value is a word of a text; of a number this says nothing."""
        name = r"\W+".join(map(re.escape, self.value))
        return not name.isdigit() and re.search(rf"(?<!\w){name}(?!\w)", text, re.IGNORECASE) is not None

    def _lessons(self, memory: Memory) -> list[str]:
        every = (lesson for entry in memory.entries for lesson in entry.lessons)
        told = (str(self.tokenizer.decode([*x.prompt, *x.answer], skip_special_tokens=True)) for x in every)
        return [text for text in told if holds(text, self.value)]


def _in_bytes(ids: Sequence[int]) -> list[bytes]:
    """Token ids in all integers that they fit into."""
    return [np.array(ids, dtype).tobytes() for dtype in INTEGERS if max(ids) <= np.iinfo(dtype).max]
