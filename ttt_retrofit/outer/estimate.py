"""Memory and time of an outer loop, in bytes and hours, by arithmetic over the shapes of a model.

Time is multiply-accumulates over what the devices deliver. With F the forward of a token, split where the fast weights
begin into what is below and above them, B the backward pass of what is above, and G two products per fast matrix, for
its own gradient and that of its input:

    none          F + B + G                 plain fine-tuning
    first_order   F + B + G                 one read
    exact         F + B + G, and back above the fast weights: F_above + B + G by differences, or by double backward
                  (16 bits) F_above + B + G and twice that for the gradient of the gradient

`truncated` goes back through its last chunks only; `gradient_checkpointing` reads exact chunks once more, and computes
the forward of `none` twice. Memory is that of the weights; of the gradients and two Adam moments of what is trained; of
the state kept at the start of each chunk; and of the graph of one chunk (for `none`, of all chunks). Elementwise work,
and the overhead of the framework, is left out: expect a tenth to a third more.

With `shard` a device holds its share of the frozen weights, and, whole, what is trained, all that is no decoder layer
(embeddings, head), the layer in use and the next. For every forward of a chunk it receives the other shares, and for
every backward pass those of the layers above the fast weights once more. Double backward keeps these layers whole, and
receives them once for the chunks that are gone back through together. `none` receives less than is counted, and with
`gradient_checkpointing` all its layers are whole in the backward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..config import TTTConfig
from ..inner.discovery import decoder_layers, find_sites
from ..inner.fast_weights import fast_weights
from ..inner.inner_optimizers import inner_optimizer
from .choices import Gradients

# Attention multiplies queries x keys x head size twice forward, and five times backward (the scores again, and one each
# for scores, queries, keys and values).
ATTENTION_FORWARD, ATTENTION_BACKWARD = 2, 5
HIDDENS, WIDES, LOGITS = 10, 4, 3  # tensors of widths D, F and V that the graph of a layer, an MLP and the loss keep
FULL = 4  # bytes of float32


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a run."""

    parameters: int  # of the model
    trained: int
    memory: dict[str, float]  # bytes on each device, by what they are for
    operations_per_token: float  # multiply-accumulates
    hours: float  # without the time that receiving weights takes where it is longer than computing
    received_per_token: float  # bytes of weights that a device receives for each token that it reads; 0 unless sharded

    @property
    def gigabytes(self) -> float:
        """On each device, in all."""
        return sum(self.memory.values()) / 1e9


def estimate(
    config: PreTrainedConfig,
    ttt: TTTConfig,
    *,
    tokens: int,
    sequence_length: int,
    gradients: Gradients = "exact",
    truncate_chunks: int = 4,
    gradient_checkpointing: bool = False,
    sequences_per_device: int = 1,
    devices: int = 1,
    shard: bool = False,
    operations_per_second: float,
    utilisation: float = 0.3,
    compute_bytes: int = 2,
    weight_bytes: float = 2.0,
) -> Estimate:
    """Memory and time of training the start and rates of the fast weights, the base frozen.

    Parameters
    ----------
    config : of the base; no weight is loaded.
    tokens : to train on, in all. Each device reads its own sequences.
    shard : `TTTTrainingConfig.shard`. Otherwise each device holds a whole model.
    operations_per_second : floating-point operations per second of one device, as its maker states them (a
        multiply-accumulate is two).
    utilisation : the share of them that is reached. The default is assumed, not measured: time a few steps.
    compute_bytes : 4 for float32, where differences are used; 2 for bfloat16 and its double backward.
    weight_bytes : of the frozen base: 4, 2, or about 0.55 in 4 bits. What is trained is kept in float32.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config(decoder=True)
    _, layers = decoder_layers(model)
    sites, kind = find_sites(model, ttt), fast_weights(ttt)
    shapes = [shape for site in sites for shape in kind.shapes(site).values()]
    fast = sum(rows * columns for rows, columns in shapes)
    lowest = min(site.layer for site in sites)
    above = len(layers) - lowest

    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    window = sequence_length if ttt.sliding_window is None else ttt.sliding_window + ttt.sink_tokens
    keys = min(window + ttt.chunk_size, sequence_length)
    attention = heads * head_size * keys
    chosen = getattr(text, "num_experts_per_tok", None)
    linear = [_linear(layer, chosen) for layer in layers]
    head = text.hidden_size * text.vocab_size
    forward_below = sum(linear[:lowest]) + ATTENTION_FORWARD * attention * lowest
    forward_above = sum(linear[lowest:]) + ATTENTION_FORWARD * attention * above + head
    backward = sum(linear[lowest:]) + ATTENTION_BACKWARD * attention * above + head + 2 * fast

    chunks = max(sequence_length // ttt.chunk_size, 1)
    exact = {"exact": chunks, "truncated": min(truncate_chunks, chunks)}.get(gradients, 0)
    once = forward_above + backward
    back = once if compute_bytes == FULL else 3 * once
    again = forward_below + once if gradient_checkpointing else 0.0
    per_token = forward_below + once + exact / chunks * (back + again)
    if gradients == "none" and gradient_checkpointing:
        per_token += forward_below + forward_above

    rows = sequences_per_device
    optimizer = inner_optimizer(ttt.inner_optimizer)
    state = FULL * sum(optimizer.carried(shape) for shape in shapes)  # per row, as the trained starts are not
    kept = (getattr(text, "num_key_value_heads", None) or heads) * head_size * 2 * keys * len(layers) * compute_bytes
    boundary = state + fast * FULL + 2 * kept + ttt.chunk_size * text.hidden_size * compute_bytes
    held = 2 * math.ceil(math.sqrt(exact)) if gradient_checkpointing else exact
    widest = max(site.in_features for site in sites)
    activations = above * (HIDDENS * text.hidden_size + WIDES * max(widest, text.hidden_size)) * compute_bytes
    chunk = ttt.chunk_size * (activations + LOGITS * text.vocab_size * FULL)
    if exact and compute_bytes != FULL:
        chunk *= 3  # the graph of the gradient besides that of the loss; attention keeps its inputs alone
    if gradients == "none":
        chunk *= 1 if gradient_checkpointing else chunks
    parameters = sum(parameter.numel() for parameter in model.parameters())
    memory = {
        "weights": parameters * weight_bytes,
        "trained, gradients and Adam": 4 * fast * FULL,
        "reading": rows * (state + kept),
        "states kept": rows * held * float(boundary),
        "graph": rows * float(chunk),
    }
    if gradients == "none":
        memory["reading"] = rows * float(kept)
    seconds = tokens * 2 * per_token / (operations_per_second * utilisation * devices)
    received = 0.0
    if shard:
        projections = 0 if kind.learned_start else fast  # those that are trained, as the start of full matrices
        by_layer = [sum(p.numel() for p in layer.parameters()) for layer in layers]
        around, under = parameters - sum(by_layer), sum(by_layer[:lowest])
        passed = sum(by_layer[lowest:]) - projections  # by a gradient
        everything = around + under + passed
        twice = bool(exact) and compute_bytes != FULL  # double backward
        memory["weights"] = (everything / devices + projections) * weight_bytes
        whole = passed if twice else everything if gradients == "none" and gradient_checkpointing else 0
        memory["weights received"] = min(around + 2 * max(by_layer) + whole, everything) * weight_bytes
        reads = 1 + bool(gradient_checkpointing) * exact / chunks  # of each chunk, as in use
        backs = exact / chunks * (everything + passed)
        if twice:
            together = math.ceil(math.sqrt(exact)) if gradient_checkpointing else exact
            backs = exact / chunks * (under + (around + passed) / together)
        each = (reads * (everything + passed) + backs) * weight_bytes * (devices - 1) / devices
        received = each / (ttt.chunk_size * rows)
    return Estimate(parameters, fast + len(sites), memory, per_token, seconds / 3600, received)


def _linear(layer: nn.Module, chosen: int | None) -> int:
    """Multiply-accumulates of a token in the projections of a decoder layer; of its experts, `chosen` of them."""
    matrices = sum(p.numel() for p in layer.parameters() if p.ndim == 2)
    experts = [p.shape for p in layer.parameters() if p.ndim == 3]  # (experts, rows, columns)
    return matrices + sum((chosen or number) * rows * columns for number, rows, columns in experts)
