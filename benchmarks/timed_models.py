"""Models whose costs are measured: real ones by name, and published shapes with random weights.

Random weights cost what trained ones do, and say nothing about quality.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from .harness.loading import base_model, ids_of
from .models import SOURCES

# What the published config.json says; the rotary embedding's own scaling is left out, which costs nothing to have.
SHAPES = {
    "llama-3.1-8b": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, bos_token_id=128000, eos_token_id=128001,
    ),
}  # fmt: skip
TIMED = (*SOURCES, *SHAPES)


def in_words(name: str) -> str:
    return f"{name} (its shapes, weights random, bfloat16)" if name in SHAPES else name


@lru_cache(maxsize=1)  # one process may ask for many rows of it, and each hands it back as it came
def loaded(name: str, device: str) -> Any:
    """The plain model, ready to read."""
    if name not in SHAPES:
        return base_model(name, device=device)
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(SHAPES[name], dtype=torch.bfloat16).eval()


@lru_cache(maxsize=1)
def token_ids(name: str, of_text: str) -> Tensor:
    """(T,) of a text; of no text where there is no tokenizer."""
    if name in SHAPES:
        return torch.randint(SHAPES[name].vocab_size, (2**16,), generator=torch.Generator().manual_seed(0))
    return ids_of(name, of_text)
