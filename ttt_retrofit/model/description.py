"""What a model is and how it would read, from its configuration alone: no weight is loaded."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ..config import TTTConfig
from ..errors import UnsupportedModelError
from ..inner.discovery import Site, find_sites
from ..inner.fast_weights import fast_weights
from ..inner.inner_optimizers import inner_optimizer
from ..inner.inner_rules import inner_rule
from ..streaming.kv import layout
from .auto import TTTConfigMixin

FLOAT32 = 4  # bytes, in which fast weights are kept


@dataclass(frozen=True)
class Description:
    """A model and its sizes."""

    family: str
    layers: int
    parameters: int
    sites: list[Site]
    parameters_that_learn: int  # of one row
    fast_bytes: int  # fast weights of one row and the moments of their optimizer
    kv_bytes: int | None  # keys and values of one row; None where some are kept of every token
    full_attention_bytes_per_token: int


def describe(config: Any, ttt: TTTConfig) -> Description:
    """What a model of this configuration, of a base or of a converted model, is when it reads as `ttt` says.

    Raises
    ------
    UnsupportedModelError
        When transformers has no causal language model for it, or nothing in it can learn so.
    """
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedModelError(
            f"{config.name_or_path}: {config.model_type} has no causal language model in transformers."
        )
    width = torch.empty(0, dtype=config.dtype or torch.float32, device="cpu").element_size()
    with torch.device("meta"):  # in 16 bits, the one width that every kernel takes without data
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.bfloat16)
    if isinstance(config, TTTConfigMixin):
        model = model.unwrap()
    text = model.config.get_text_config(decoder=True)
    sites = find_sites(model, ttt)
    inner_rule(ttt).check_model(sites, model.get_input_embeddings())
    learn, by_token = parameters_that_learn(sites, ttt), _bytes_of_a_token(model, width)
    _, kinds, of_layers = layout(text, ttt)
    groups = [kinds[index] for index in of_layers]
    unbounded = any(group.capacity is None for group in groups)
    return Description(
        family=text.model_type,
        layers=text.num_hidden_layers,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        sites=sites,
        parameters_that_learn=learn,
        fast_bytes=FLOAT32 * numbers_carried(sites, ttt),
        kv_bytes=None if unbounded else sum(size * (group.capacity or 0) for size, group in zip(by_token, groups)),
        full_attention_bytes_per_token=sum(by_token),
    )


def parameters_that_learn(sites: Iterable[Site], ttt: TTTConfig) -> int:
    """Fast weights of one row."""
    return sum(rows * columns for rows, columns in _shapes(sites, ttt))


def numbers_carried(sites: Iterable[Site], ttt: TTTConfig) -> int:
    """Fast weights of one row and what their optimizer keeps."""
    optimizer = inner_optimizer(ttt.inner_optimizer)
    return sum(optimizer.carried(shape) for shape in _shapes(sites, ttt))


def _shapes(sites: Iterable[Site], ttt: TTTConfig) -> list[tuple[int, int]]:
    kind = fast_weights(ttt)
    return [shape for site in sites for shape in kind.shapes(site).values()]


def _bytes_of_a_token(model: Any, width: int) -> list[int]:
    """What each layer keeps of one token, at `width` bytes a number: asked of the family's forward, without data."""
    model.config.pad_token_id = None  # else some families look for it among tokens that have no value
    with torch.no_grad():
        kept = model(torch.zeros(1, 1, dtype=torch.long, device="meta"), use_cache=True).past_key_values
    return [
        width * (layer.keys.numel() + layer.values.numel()) if layer.keys is not None else 0 for layer in kept.layers
    ]
