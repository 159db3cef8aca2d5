"""The least a read must cost: multiply-accumulates per token, counted from the matrices of a model.

Forward through everything; for the update, backward through the head and the layers above the lowest TTT site, and one
more product per fast matrix; In-Place TTT's rule has that product alone. What is counted is what cannot be left out,
elementwise work and memory traffic is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ttt_retrofit import TTTConfig
from ttt_retrofit.inner.discovery import decoder_layers, find_sites
from ttt_retrofit.inner.fast_weights import fast_weights
from ttt_retrofit.inner.inner_rules import inner_rule

# Attention does two products of queries x keys x head size forward. Its backward pass does five: the scores again, and
# one for each of the gradients of scores, queries, keys and values.
ATTENTION_FORWARD, ATTENTION_BACKWARD = 2, 5


@dataclass(frozen=True)
class Arithmetic:
    """Multiply-accumulates per token."""

    forward: float
    update: float

    @property
    def ratio(self) -> float:
        """The least that reading with updates can cost, in units of reading without."""
        return (self.forward + self.update) / self.forward


def count(model: Any, config: TTTConfig) -> Arithmetic:
    """For a plain `model` read under `config`, one row, once the window is full."""
    _, layers = decoder_layers(model)
    text = model.config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    assert config.sliding_window is not None
    # Keys that a chunk's product covers: the sinks and window before it, and itself.
    keys = config.sink_tokens + config.sliding_window - 1 + config.chunk_size
    product = heads * head_size * keys
    head = model.get_output_embeddings()
    head_cost = head.in_features * head.out_features
    linear = [
        sum(m.in_features * m.out_features for m in layer.modules() if isinstance(m, nn.Linear)) for layer in layers
    ]
    forward = head_cost + sum(linear) + len(layers) * ATTENTION_FORWARD * product

    sites = find_sites(model, config)
    lowest = min(site.layer for site in sites)
    above = sum(linear[lowest + 1 :]) + (len(layers) - lowest - 1) * ATTENTION_BACKWARD * product
    kind = fast_weights(config)
    fast = sum(rows * columns for site in sites for rows, columns in kind.shapes(site).values())
    backward = head_cost + above if inner_rule(config).backward else 0
    return Arithmetic(forward, backward + fast)
