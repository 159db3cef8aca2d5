"""Sliding window and attention sinks for any family, without touching its modelling code.

The window lives in a mask function and an attention function registered with transformers under `ttt_sdpa`,
`ttt_eager` and `ttt_flash_attention_2`. A family builds its own causal or sliding pattern; the mask function evaluates
that pattern on *indices* (a token's index counts its row's real tokens from 0; that of padding is -1) and narrows it to
window and sinks. Counting real tokens instead of columns is what makes padding, eviction and ragged batches invisible
to the result.
B batch rows, Q queries, K keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from ..errors import UnsupportedModelError
from ..inner.context import current
from .attention import tiled_attention
from .split_attention import Split, kernel_for, split_attention

PREFIX = "ttt_"
SUPPORTED = ("sdpa", "eager", "flash_attention_2")


@dataclass(frozen=True)
class Attended:
    """What the tokens of one forward may look at, for one group of layers that keep the same tokens."""

    query_indices: Tensor  # (B, Q)
    key_indices: Tensor  # (B, K), padding -1
    window: int | None
    sinks: int
    padded: bool  # whether any index may be -1, known without reading the tensors


def _attended() -> Attended:
    # transformers calls the mask function with sizes, never with the cache: that is reached through the context.
    context = current()
    if context is None or context.attended is None:
        raise UnsupportedModelError(
            "Layers of a converted model, or of a plain one that was loaded with its attn_implementation, were called "
            "without a converted model around them: they would see no window and learn nothing. Call the model, or its "
            "base_model for hidden states. A reference that TRL loads by the policy's path is converted where that is: "
            "save the converted model, and load the policy from there. unwrap() gives back the plain model."
        )
    attended: Attended = context.attended()
    return attended


def visible(pattern: Callable[..., Tensor], attended: Attended) -> Tensor:
    """Which key each query sees: (B, 1, Q, K) bool. pattern: transformers' (batch, head, query, key) -> bool."""
    query, key = attended.query_indices[:, None, :, None], attended.key_indices[:, None, None, :]
    rows = torch.arange(query.shape[0], device=query.device)[:, None, None, None]
    seen = pattern(rows, rows.new_zeros(1, 1, 1, 1), query, key)
    if attended.window is not None:
        # Sinks are seen even where a family's own window, wider than ours, has left them behind.
        seen = (seen & (query - key < attended.window)) | ((key < attended.sinks) & (key <= query))
    if attended.padded:
        # Padding is never seen. It sees everything itself: what it computes is thrown away, but must not be NaN.
        seen = (seen & (key >= 0)) | (query < 0)
    return seen


def _unmasked(attended: Attended, q_length: int, kv_length: int, local_size: int | None) -> bool:
    """Whether the pattern is plain causal attention, for which fused kernels need no mask."""
    reach = min(size for size in (attended.window, local_size, kv_length) if size is not None)
    return not attended.padded and kv_length <= reach and q_length in (1, kv_length)


def ttt_sdpa_mask(
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> Tensor | None:
    """The mask for `ttt_sdpa`: (B, 1, Q, K), bool or additive, or None for plain causal attention."""
    attended = _attended()
    if allow_is_causal_skip and _unmasked(attended, q_length, kv_length, local_size):
        return None
    seen = visible(mask_function, attended)
    # PyTorch's kernel for CPUs would turn a bool mask into an additive one in every layer.
    return _additive(seen, kwargs["dtype"]) if seen.device.type == "cpu" else seen


def ttt_eager_mask(dtype: torch.dtype = torch.float32, **kwargs: Any) -> Tensor | None:
    """The mask for `ttt_eager`: (B, 1, Q, K), 0 where a key is seen, the dtype's minimum elsewhere."""
    return _additive(visible(kwargs["mask_function"], _attended()), dtype)


def ttt_flash_mask(
    q_length: int, kv_length: int, local_size: int | None = None, allow_is_causal_skip: bool = True, **kwargs: Any
) -> Split | Tensor | None:
    """What `ttt_flash_attention_2` needs: the sinks and the window where those say all, else the mask of `ttt_sdpa`.

    They do not under padding, under a window of the family's own that is narrower, and where a query is itself a sink.
    Exact outer gradients need a mask as well.
    """
    context, attended = current(), _attended()
    kernel_for(attended.query_indices.device)  # raises where there is none
    window = kv_length if attended.window is None else min(attended.window, kv_length)
    sinks = attended.sinks if window < kv_length else 0
    plain = allow_is_causal_skip and not attended.padded and (local_size is None or kv_length <= local_size)
    if plain and kv_length > q_length >= 1 and kv_length - q_length >= sinks and not (context and context.second_order):
        return Split(sinks, window)
    return ttt_sdpa_mask(
        q_length, kv_length, local_size=local_size, allow_is_causal_skip=allow_is_causal_skip, **kwargs
    )


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen, the dtype's minimum elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def ttt_sdpa_attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """transformers' scaled-dot-product attention, twice differentiable where that is asked for."""
    context = current()
    if context is not None and context.second_order:
        return _twice_differentiable_attention(module, *args, **kwargs), None
    if _grouped_on_cpu(module, *args, **kwargs):
        return _grouped_attention(*args, **kwargs), None
    return sdpa_attention_forward(module, *args, **kwargs)


# Families call these by position or by keyword, so the parameters bear transformers' names.
def _grouped_on_cpu(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> bool:
    """Whether PyTorch's kernel for CPUs can read shared keys as they are; transformers repeats them under a mask."""
    plain = not args and all(kwargs.get(name) is None for name in ("softcap", "position_bias", "cache"))
    grouped = query.shape[1] > key.shape[1] and query.shape[2] > 1 and attention_mask is not None
    return plain and grouped and query.device.type == "cpu"


def _grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> Tensor:
    """(B, heads, Q, D) over (B, key-value heads, K, D) -> (B, Q, heads, D)."""
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).contiguous()


def _twice_differentiable_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """(B, heads, Q, D) over (B, key-value heads, K, D) -> (B, Q, heads, D)."""
    if dropout or position_bias is not None or kwargs.get("softcap") is not None:
        # Rare: PyTorch's own form, which keeps the scores of every layer.
        rest = {"dropout": dropout, "scaling": scaling, "position_bias": position_bias, **kwargs}
        with sdpa_kernel(SDPBackend.MATH):
            return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)[0]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    mask = attention_mask
    if mask is None:  # `_unmasked`: plain causal attention
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        mask = _additive(seen.tril(key.shape[2] - query.shape[2])[None, None], query.dtype)
    elif mask.dtype == torch.bool:
        mask = _additive(mask, query.dtype)
    out = tiled_attention(query, key, value, mask, query.shape[3] ** -0.5 if scaling is None else scaling)
    return out.transpose(1, 2).contiguous()


def ttt_flash_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Split | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(B, heads, Q, D) over (B, key-value heads, K, D) -> (B, Q, heads, D)."""
    if not isinstance(attention_mask, Split):
        return ttt_sdpa_attention(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    found = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if found or dropout or query.shape[3] != value.shape[3]:
        raise UnsupportedModelError(
            f"{type(module).__name__} asks attention for {found or 'dropout, or values of another width'}, which "
            "flash_attention_2 does not carry under a window with sinks. Load it with attn_implementation='sdpa'."
        )
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    out = split_attention(query, key, value, attention_mask, scale, kernel_for(query.device))
    return out.transpose(1, 2).contiguous(), None


def ttt_eager_attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """The eager attention of the family that `module` belongs to: soft caps and sinks of its own differ."""
    for cls in type(module).__mro__:
        family = sys.modules.get(cls.__module__)
        if family is not None and "eager_attention_forward" in vars(family):
            output: tuple[Tensor, Tensor | None] = family.eager_attention_forward(module, *args, **kwargs)
            return output
    raise UnsupportedModelError(
        f"{type(module).__name__} has no eager_attention_forward in its module {type(module).__module__}. "
        "Load the model with attn_implementation='sdpa'."
    )


AttentionMaskInterface.register(f"{PREFIX}sdpa", ttt_sdpa_mask)
AttentionMaskInterface.register(f"{PREFIX}eager", ttt_eager_mask)
AttentionMaskInterface.register(f"{PREFIX}flash_attention_2", ttt_flash_mask)
AttentionInterface.register(f"{PREFIX}sdpa", ttt_sdpa_attention)
AttentionInterface.register(f"{PREFIX}eager", ttt_eager_attention)
AttentionInterface.register(f"{PREFIX}flash_attention_2", ttt_flash_attention)


def windowed_name(model: PreTrainedModel, base: str) -> str:
    """The registered name that stands for `base`, or an error that says which names work."""
    if not type(model)._supports_attention_backend:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not use transformers' attention interface, through which window, sinks and "
            "padding are applied. Models whose class sets `_supports_attention_backend` can be converted."
        )
    name = base.removeprefix(PREFIX)
    if name not in SUPPORTED:
        raise UnsupportedModelError(
            f"attn_implementation={base!r} cannot carry a per-row window with sinks. "
            f"Load the model with attn_implementation set to one of {list(SUPPORTED)}."
        )
    return PREFIX + name


def set_windowed_attention(model: PreTrainedModel) -> None:
    """Route the attention of a model and its submodels through the window."""
    for config in _attention_configs(model):
        config._attn_implementation_internal = windowed_name(model, config._attn_implementation or "eager")


def restore_attention(model: PreTrainedModel) -> None:
    """The inverse of `set_windowed_attention`."""
    for config in _attention_configs(model):
        config._attn_implementation_internal = (config._attn_implementation or "eager").removeprefix(PREFIX)


def _attention_configs(model: PreTrainedModel) -> list[Any]:
    text = model.config.get_text_config(decoder=True)
    return [model.config] if text is model.config else [model.config, text]


assert f"{PREFIX}sdpa" in ALL_MASK_ATTENTION_FUNCTIONS
