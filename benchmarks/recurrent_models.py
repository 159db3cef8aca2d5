"""Recurrent and linear models at the width and depth of SmolLM2-135M, with random weights, and how each is stepped.

Transformers' own classes on its own torch paths; Titans from the package `titans-pytorch` if it is installed. What is
not width or depth is as in the smallest published model of the kind, or the class's default. Random weights cost what
trained ones do, and say nothing about quality.
B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from ttt_retrofit import TTTCache, TTTConfig, wrap

from .measure import FULL, PRESETS, SINKS, TTT

WIDTH, DEPTH, VOCABULARY, FEED_FORWARD = 576, 30, 49152, 1536
HEADS, HEAD_SIZE, KEY_VALUE_HEADS = 9, 64, 3
SHARED = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "tie_word_embeddings": True,
}
LINEAR = ["linear_attention"] * DEPTH
ATTENTION = {"num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS, "intermediate_size": FEED_FORWARD}

# Model, ids (B, T), state before them or None, tokens before them -> logits of the last token (B, 1, V), state.
Step = Callable[[Any, Tensor, Any, int], tuple[Tensor, Any]]


@dataclass(frozen=True)
class System:
    build: Callable[[], Any]
    step: Step
    note: str


def attention_step(model: Any, ids: Tensor, state: Any, before: int) -> tuple[Tensor, Any]:
    out = model(input_ids=ids, past_key_values=state, use_cache=True, logits_to_keep=1)
    return out.logits, out.past_key_values


def mamba2_step(model: Any, ids: Tensor, state: Any, before: int) -> tuple[Tensor, Any]:
    out = model(input_ids=ids, cache_params=state, use_cache=True, logits_to_keep=1)
    return out.logits, out.cache_params


def rwkv_step(model: Any, ids: Tensor, state: Any, before: int) -> tuple[Tensor, Any]:
    out = model(input_ids=ids, state=state, use_cache=True, logits_to_keep=1)
    return out.logits, out.state


def delta_net_step(model: Any, ids: Tensor, state: Any, before: int) -> tuple[Tensor, Any]:
    """Positions and masks are given, because the class asks a layer of full attention for them, and there is none."""
    positions = torch.arange(before, before + ids.shape[1], device=ids.device)[None]
    masks = {"linear_attention": None, "full_attention": None}
    out = model(
        input_ids=ids,
        past_key_values=state,
        use_cache=True,
        logits_to_keep=1,
        position_ids=positions,
        attention_mask=masks,
    )
    return out.logits, out.past_key_values


def titans_step(model: Any, ids: Tensor, state: Any, before: int) -> tuple[Tensor, Any]:
    """The package wants all tokens at every step, of which it embeds all and runs the last."""
    seen, cache = (ids, None) if state is None else (torch.cat([state[0], ids], dim=1), state[1])
    logits, (index, keys_values, memories) = model(seen, cache=cache, return_cache=True, disable_flex_attn=True)
    # The updates of every chunk come back too, and are not read again.
    return logits[:, -1:], (seen, (index, keys_values, [memory._replace(updates=None) for memory in memories]))


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SHARED, **ATTENTION))


def mamba2() -> Any:
    heads = 2 * WIDTH // HEAD_SIZE
    return Mamba2ForCausalLM(Mamba2Config(**SHARED, num_heads=heads, head_dim=HEAD_SIZE, n_groups=1))


def gated_delta_net() -> Any:
    sizes = {f"linear_num_{of}_heads": HEADS for of in ("key", "value")}
    sizes |= {f"linear_{of}_head_dim": HEAD_SIZE for of in ("key", "value")}
    dense = {"mlp_only_layers": list(range(DEPTH)), "layer_types": LINEAR, "head_dim": HEAD_SIZE}
    return Qwen3NextForCausalLM(Qwen3NextConfig(**SHARED, **ATTENTION, **sizes, **dense))


def rwkv() -> Any:
    return RwkvForCausalLM(RwkvConfig(**SHARED))


def lightning_attention() -> Any:
    dense = {"num_local_experts": 1, "num_experts_per_tok": 1, "layer_types": LINEAR}
    return MiniMaxForCausalLM(MiniMaxConfig(**SHARED, **ATTENTION, **dense))


def titans() -> Any:
    from titans_pytorch import MemoryAsContextTransformer

    model = MemoryAsContextTransformer(
        num_tokens=VOCABULARY, dim=WIDTH, depth=DEPTH, segment_len=128, dim_head=HEAD_SIZE, heads=HEADS
    )
    model.to_logits.weight = model.token_emb.weight
    return model


def wrapped(config: TTTConfig) -> Callable[[], Any]:
    return lambda: wrap(llama().eval(), config)


def systems(window: int) -> dict[str, System]:
    """Full attention, the recurrent ones, and what this library makes of the first, under a window."""
    ours = {f"{TTT} ({preset})": TTTConfig.preset(preset, sliding_window=window) for preset in PRESETS}
    ours = {SINKS: TTTConfig(sliding_window=window, learn_from="none")} | ours
    return {
        FULL: System(llama, attention_step, "Llama; its state grows with the context"),
        "Mamba 2": System(mamba2, mamba2_step, "no feed-forward layers"),
        "Gated DeltaNet": System(gated_delta_net, delta_net_step, "Qwen3-Next without its layers of full attention"),
        "RWKV": System(rwkv, rwkv_step, "RWKV-4"),
        "linear attention": System(lightning_attention, attention_step, "MiniMax's lightning attention, one expert"),
        "Titans": System(
            titans, titans_step, "titans-pytorch: memory as context, segments of 128; makes logits of all it reads"
        ),
        **{name: System(wrapped(config), attention_step, f"window {window}") for name, config in ours.items()},
    }


def state_bytes(state: Any, own: Set[int] = frozenset()) -> int:
    """Bytes of all tensors of a state, whatever holds them, but those at the addresses `own`: of the model's weights.

    Titans' states point to where its memories begin, which is a part of the model.
    """
    if isinstance(state, Tensor):
        return 0 if state.data_ptr() in own else state.nbytes
    if isinstance(state, TTTCache):
        return state.nbytes
    if isinstance(state, Cache | DynamicLayer | LinearAttentionLayer):
        state = vars(state)
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(state_bytes(part, own) for part in parts)
