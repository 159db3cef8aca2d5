"""Memories made by hand for tiny models, whose gates are half open on random text."""

from __future__ import annotations

from typing import Any

import torch

from ttt_retrofit.memory import Entry, Memory, MemoryConfig
from ttt_retrofit.memory.entry import GateKeys, Source
from ttt_retrofit.memory.gates import Background
from ttt_retrofit.memory.lessons import Lesson
from ttt_retrofit.memory.projections import find_placement
from ttt_retrofit.util.fingerprint import fingerprint


def entry(model: Any, config: MemoryConfig, seed: int, closed: float = -0.4, opened: float = 0.4) -> Entry:
    generator = torch.Generator().manual_seed(seed)
    width = model.config.get_text_config(decoder=True).hidden_size

    def draw(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    weights = {}
    for place in find_placement(model, config).projections:
        weights[place.path] = {"a": draw(config.rank, place.in_features), "b": draw(place.out_features, config.rank)}
    keys = torch.nn.functional.normalize(draw(3, width), dim=-1)
    lesson = Lesson(
        "fact", (5, 6, 7), (8, 9), torch.tensor([[8, 3], [9, 4]], dtype=torch.int32), torch.zeros(2, 2).half()
    )
    source = Source(f"{seed:064d}", "text", 12)
    return Entry(f"entry{seed}", (source,), weights, GateKeys(keys, closed, opened), (lesson,), float(seed))


def digests(made: Memory) -> dict[str, str]:
    """What tells the entries of two memories apart, by name."""
    return {entry.name: entry.digest for entry in made.entries}


def memory(model: Any, *seeds: int, gated: bool = True, **changes: Any) -> Memory:
    """One entry for each seed."""
    config = MemoryConfig(**{"rank": 2, "layers": (1, 2, 3), "gated": gated, **changes})
    width = model.config.get_text_config(decoder=True).hidden_size
    background = Background(torch.zeros(width), torch.eye(width)[:, :2], torch.full((2,), 0.5))
    entries = tuple(entry(model, config, seed) for seed in seeds)
    return Memory(fingerprint(model), "tiny", config, find_placement(model, config).layer, background, entries)
