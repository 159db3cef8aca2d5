"""What serving engines load of a LoRA adapter: checked when one is written, since they find out at the first request.

The rules are those of the loaders: `vllm/lora` of vLLM 0.32 and `sglang/srt/lora` of SGLang (November 2026). An engine
packs projections (q, k and v into one, gate and up into one); the adapter names them apart, as the checkpoint does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ConfigError

ATTENTION = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "out_proj"}
MLP = {"gate_proj", "up_proj", "gate_up_proj", "down_proj"}
UNPACKED = {
    "fc1", "fc2", "c_fc", "c_proj", "dense", "query_key_value", "dense_h_to_4h", "dense_4h_to_h", "input_linear",
    "output_linear",
}  # fmt: skip


@dataclass(frozen=True)
class Engine:
    """The rules of one loader."""

    modules: frozenset[str]  # last parts of the names of projections that it knows
    ranks: tuple[int, ...] = ()  # its choices for the largest rank that it serves; empty: any
    within: str = ""  # pattern that every name contains
    without: str = r"\.experts\."  # pattern that no name contains
    beside: tuple[tuple[str, str], ...] = ()  # (first, second): the first is loaded only beside the second


ENGINES = {
    "vllm": Engine(frozenset(ATTENTION | MLP | UNPACKED), ranks=(1, 8, 16, 32, 64, 128, 256, 320, 512)),
    "sglang": Engine(
        frozenset(ATTENTION | MLP),
        within=r"\blayers\.\d+\.",
        without="expert",
        beside=(("up_proj", "gate_proj"), ("k_proj", "q_proj"), ("q_proj", "v_proj"), ("v_proj", "q_proj")),
    ),
}


def check_engine(engine: str, paths: Iterable[str], rank: int, transposed: bool) -> None:
    """Raise unless the engine loads an adapter of these projections and this rank.

    Raises
    ------
    ConfigError
        For an unknown engine, `Conv1D` projections, a rank that it cannot be started with, or projections that its
        loader refuses or drops.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine={engine!r}: expected one of {[*ENGINES]}, or None for PEFT.")
    rules = ENGINES[engine]
    if transposed:
        raise ConfigError(f"engine={engine!r} serves no LoRA for projections of type Conv1D (GPT-2). Use PEFT.")
    if rules.ranks and rank > rules.ranks[-1]:
        raise ConfigError(
            f"The adapter has rank {rank}, and engine={engine!r} serves at most {rules.ranks[-1]} (its largest rank is "
            f"one of {list(rules.ranks)}). Give a smaller rank: the largest singular values are kept."
        )
    paths = list(paths)
    refused = [p for p in paths if not re.search(rules.within, p) or re.search(rules.without, p)]
    refused += [p for p in paths if p not in refused and p.rpartition(".")[2] not in rules.modules]
    if refused:
        raise ConfigError(
            f"engine={engine!r} loads no LoRA of {refused[:3]}. It knows projections of decoder layers outside routed "
            f"experts that are named {sorted(rules.modules)}. Make the memory with MemoryConfig(target_modules=...) of "
            "these."
        )
    for first, second in rules.beside:
        lone = [p for p in paths if p.endswith("." + first) and f"{p.removesuffix(first)}{second}" not in paths]
        if lone:
            raise ConfigError(
                f"engine={engine!r} loads {first} only beside {second}, which is missing for {lone[:3]}. Make the "
                "memory with MemoryConfig(target_modules=...) of both."
            )
