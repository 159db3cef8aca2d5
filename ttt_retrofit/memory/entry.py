"""An entry of a memory: what is remembered of one context, and how it is laid out in tensors and JSON.

R rank, I in features, O out features, K keys, D model width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from ..util.display import Bare, Displayed, Rows, in_bytes
from .facts import Fact
from .lessons import Lesson, pack_lessons, unpack_lessons
from .notes import Note, pack_notes, unpack_notes


@dataclass(frozen=True)
class GateKeys:
    """The keys that open the gate of an entry, and the cosines between which it opens (`gates.py`)."""

    keys: Tensor  # (K, D) whitened by the memory's background, of unit length
    closed: float  # cosine up to which it is shut
    opened: float  # cosine from which it is fully open


@dataclass(frozen=True)
class Source:
    """Where an entry came from."""

    sha256: str  # of the text
    kind: str  # "text", "chat", "ids", "cache", or "added": one fact by hand
    tokens: int
    text: str | None = field(default=None, repr=False)  # only with keep_text


@dataclass(frozen=True, repr=False)
class Entry(Displayed):
    """What is remembered of one context (or of several, distilled into one)."""

    name: str
    sources: tuple[Source, ...]
    weights: dict[str, dict[str, Tensor]]  # by projection: {"a": (R, I), "b": (O, R)}
    gate: GateKeys
    lessons: tuple[Lesson, ...]
    created: float  # seconds since the epoch
    notes: tuple[Note, ...] = ()  # kept word for word, where a notepad was asked for
    learned_from: tuple[str, ...] = ()  # earlier entries that said who is called what in it, or what of whom it names
    facts: tuple[Fact, ...] = ()  # what its context told

    def _rows(self) -> Rows:
        return {
            "name": self.name,
            "of": Bare(", ".join(f"{source.kind} of {source.tokens:,} tokens" for source in self.sources) or "unknown"),
            "lessons": len(self.lessons),
            "facts": len(self.facts) or None,
            "notes": len(self.notes) or None,
            "size": in_bytes(self.nbytes),
        }

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @cached_property
    def digest(self) -> str:
        """Of what it says and to what: sha256 of its weights, notes, keys and facts."""
        content = self.named_weights() | pack_notes(self.notes) | {"keys": self.gate.keys}
        named = {name: tensor.contiguous() for name, tensor in content.items()}
        facts = json.dumps([fact.to_dict() for fact in self.facts]) if self.facts else ""
        return hashlib.sha256(tensors_to_bytes(named) + facts.encode()).hexdigest()

    def named_weights(self) -> dict[str, Tensor]:
        """The weights under one name each."""
        return {f"{path}|{name}": tensor for path, by_name in self.weights.items() for name, tensor in by_name.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything of it that is a tensor, by name; lessons are laid end to end."""
        weights = {f"weights|{name}": tensor for name, tensor in self.named_weights().items()}
        return weights | {"keys": self.gate.keys} | pack_lessons(self.lessons)[0] | pack_notes(self.notes)

    def header(self) -> dict[str, Any]:
        """Everything else of it, for JSON."""
        return {
            "name": self.name,
            "created": self.created,
            "learned_from": list(self.learned_from),
            "sources": [dataclasses.asdict(source) for source in self.sources],
            "closed": self.gate.closed,
            "opened": self.gate.opened,
            "lessons": pack_lessons(self.lessons)[1],
            "facts": [fact.to_dict() for fact in self.facts],
        }

    @classmethod
    def read(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> Entry:
        """The entry whose `header` and `tensors` these are."""
        weights: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("weights|"):
                _, path, name = key.split("|")
                weights.setdefault(path, {})[name] = tensor
        return cls(
            name=header["name"],
            sources=tuple(Source(**source) for source in header["sources"]),
            weights=weights,
            gate=GateKeys(tensors["keys"], float(header["closed"]), float(header["opened"])),
            lessons=unpack_lessons(tensors, header["lessons"]),
            created=header["created"],
            notes=unpack_notes(tensors),
            learned_from=tuple(header.get("learned_from", ())),
            facts=tuple(map(Fact.from_dict, header.get("facts", ()))),
        )

    def scaled(self, factor: float) -> Entry:
        """This entry with weights that add `factor` times as much."""
        scaled = {
            path: {name: tensor if name == "a" else tensor * factor for name, tensor in by_name.items()}
            for path, by_name in self.weights.items()
        }
        return dataclasses.replace(self, weights=scaled)
