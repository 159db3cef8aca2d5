"""Converted tiny models whose every TTT parameter matters, and a fresh process to load them in."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import torch
from tiny import tiny
from transformers import PreTrainedModel
from words import SPECIAL

from ttt_retrofit import TTTConfig, wrap

# Several chunks within a few dozen tokens, a window that evicts, and steps large enough to be seen.
TTT = TTTConfig(layers="all", rank=4, chunk_size=8, sliding_window=16, sink_tokens=2, inner_lr=1e-2)


def ttt(kind: str = "delta", **changes: Any) -> TTTConfig:
    return TTTConfig(**{**TTT.to_dict(), "fast_weights": kind, **changes})


def perturb(model: PreTrainedModel) -> PreTrainedModel:
    """Move what the outer loop learns away from its defaults, differently in every parameter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ttt." in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter.device), alpha=0.1)
    return model


def converted(family: str = "llama", kind: str = "delta", **changes: Any) -> Any:
    return perturb(wrap(tiny(family), ttt(kind, **changes)))


def speaker(family: str = "llama", **changes: Any) -> Any:
    """A converted model that always says words, never nothing: with them, studying and remembering can be tried."""
    made = converted(family, **{"chunk_size": 8, "sliding_window": 64, **changes})
    made.generation_config.suppress_tokens = list(range(len(SPECIAL)))
    return made


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


def in_fresh_process(script: str, *arguments: object) -> Any:
    """Run a script in a new interpreter; what it prints last is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])
