"""Models by name, as benchmarks read and ask them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ttt_retrofit import TTTConfig, wrap

from ..models import model_directory
from ..texts import text


def base_model(name: str, dtype: str | torch.dtype = "auto", device: str | torch.device = "cpu") -> Any:
    """The plain model, ready to read."""
    return AutoModelForCausalLM.from_pretrained(model_directory(name), dtype=dtype).eval().to(device)


def tokenizer_of(name: str) -> Any:
    return AutoTokenizer.from_pretrained(model_directory(name))


def ids_of(name: str, title: str) -> Tensor:
    """(T,) of a text."""
    return torch.tensor(tokenizer_of(name)(text(title)).input_ids)


def carrier(name: str, **settings: Any) -> Any:
    """A model that carries memories and does not learn while it reads, in bfloat16."""
    return wrap(base_model(name, torch.bfloat16), TTTConfig(learn_from="none", **settings))
