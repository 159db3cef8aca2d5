"""Attention over window and sinks as two calls that need no mask, for kernels that take a window as a number.

FlashAttention knows causal windows and no masks. Keys stand in the order of their indices: first the sinks, then the
tokens up to the last query without a gap. One call over what follows the sinks is the window. A second, small one is
the sinks, which every query sees. Each gives an output and lse, the logarithm of its sum of exponentials. The output
over all keys is the sum of both, weighted by exp(lse of one - lse of both).

FlashAttention passes no gradient through lse, and the weights depend on it. The backward pass of each part is therefore
given the output and the lse of *both*: it recomputes P = exp(S - lse), which are then the probabilities among all keys,
and dS = P ∘ (dO Vᵀ - rowsum(dO ∘ O)) is exact for its keys.
`PlainKernel` is the definition, `FlashKernel` the fast form, on CUDA.
B batch rows, H heads, G key-value heads, Q queries, K keys, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UnsupportedModelError


@dataclass(frozen=True)
class Split:
    """What every query sees: the first keys, and the last up to its own; in place of a mask."""

    sinks: int  # keys of the first call
    window: int  # tokens that a query reaches back to, itself included


class Kernel(Protocol):
    """Attention of (B, H, Q, D) over (B, G, K, D). window: None for all keys, else the last ones up to the query's own.

    With a window the last query stands at the last key.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> tuple[Tensor, Tensor]:
        """The output (B, H, Q, D), and lse (B, H, Q) in float32."""
        ...

    def backward(
        self,
        of_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        window: int | None,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of q, k and v, where `out` and `lse` may be of more keys than these."""
        ...


def split_attention(q: Tensor, k: Tensor, v: Tensor, split: Split, scale: float, kernel: Kernel) -> Tensor:
    """(B, H, Q, D) over (B, G, K, D), of which the first `split.sinks` keys are the sinks. Differentiable once."""
    result: Tensor = _SplitAttention.apply(q, k, v, split, scale, kernel)
    return result


def merged(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the keys of both parts, from that over each: outputs (B, H, Q, D), lse (B, H, Q)."""
    both = torch.logaddexp(lse, other_lse)
    weight, other_weight = (lse - both).exp()[..., None], (other_lse - both).exp()[..., None]
    return (weight * out + other_weight * other).to(out.dtype), both


class _SplitAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, split: Split, scale: float, kernel: Kernel) -> Tensor:
        s = split.sinks
        out, lse = kernel.forward(q, k[:, :, s:], v[:, :, s:], split.window, scale)
        if s:
            out, lse = merged(out, lse, *kernel.forward(q, k[:, :, :s], v[:, :, :s], None, scale))
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.split, ctx.scale, ctx.kernel = split, scale, kernel
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        s, rest = ctx.split.sinks, (out, lse)
        of_q, of_k, of_v = ctx.kernel.backward(of_out, q, k[:, :, s:], v[:, :, s:], *rest, ctx.split.window, ctx.scale)
        if s:
            other = ctx.kernel.backward(of_out, q, k[:, :, :s], v[:, :, :s], *rest, None, ctx.scale)
            of_q = of_q + other[0]
            of_k, of_v = torch.cat([other[1], of_k], dim=2), torch.cat([other[2], of_v], dim=2)
        return of_q, of_k, of_v, None, None, None


class PlainKernel:
    """The definition, which holds all scores."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> tuple[Tensor, Tensor]:
        scores = self._scores(q, k, window, scale)
        lse = scores.logsumexp(-1)
        return (scores - lse[..., None]).exp().to(v.dtype) @ _for_heads(v, q), lse

    def backward(
        self,
        of_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        window: int | None,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        p = (self._scores(q, k, window, scale) - lse[..., None]).exp()
        of_s = scale * p * (of_out @ _for_heads(v, q).mT - (of_out * out).sum(-1, keepdim=True))
        of_k, of_v = (part.unflatten(1, (k.shape[1], -1)).sum(2) for part in (of_s.mT @ q, p.mT @ of_out))
        return of_s @ _for_heads(k, q), of_k, of_v

    def _scores(self, q: Tensor, k: Tensor, window: int | None, scale: float) -> Tensor:
        scores = scale * q @ _for_heads(k, q).mT
        if window is None:
            return scores
        queries, keys = (torch.arange(x.shape[2], device=q.device) for x in (q, k))
        distance = (queries + (k.shape[2] - q.shape[2]))[:, None] - keys
        return scores.masked_fill((distance < 0) | (distance >= window), -torch.inf)


class FlashKernel:
    """FlashAttention 2 as PyTorch brings it for CUDA, over rows one after another: (B · Q, H, D)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> tuple[Tensor, Tensor]:
        check_flash(q)
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            *map(_packed, (q, k, v)),
            *_lengths(q, k),
            0.0,  # dropout
            window is not None,
            False,  # no debug mask
            scale=scale,
            **_reach(window),
        )
        return _unpacked(out, q), lse.unflatten(1, (q.shape[0], -1)).transpose(0, 1)  # (H, B · Q) -> (B, H, Q)

    def backward(
        self,
        of_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        window: int | None,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_q, of_k, of_v = torch.ops.aten._flash_attention_backward(
            *map(_packed, (of_out, q, k, v, out)),
            lse.transpose(0, 1).flatten(1).contiguous(),
            *_lengths(q, k),
            0.0,
            window is not None,
            torch.zeros(2, dtype=torch.uint64, device=q.device),  # the random state, of dropout alone
            torch.empty(0, device=q.device),
            scale=scale,
            **_reach(window),
        )
        return _unpacked(of_q, q), _unpacked(of_k, k), _unpacked(of_v, v)


# By type of device; a CPU has no FlashAttention that takes a window.
KERNELS: dict[str, Kernel] = {"cuda": FlashKernel()}


def kernel_for(device: torch.device) -> Kernel:
    """Raises `UnsupportedModelError` where FlashAttention does not run."""
    if device.type not in KERNELS:
        raise UnsupportedModelError(
            f"attn_implementation='flash_attention_2' runs on CUDA, and the model is on {device.type!r}. Move it "
            "there, or load it with attn_implementation='sdpa'."
        )
    return KERNELS[device.type]


def check_flash(q: Tensor) -> None:
    """Raise `UnsupportedModelError` for what FlashAttention has no kernel for."""
    if q.dtype not in (torch.float16, torch.bfloat16) or q.shape[3] > 256:
        raise UnsupportedModelError(
            f"FlashAttention reads float16 or bfloat16 and heads of up to 256, and was given {q.dtype} and heads of "
            f"{q.shape[3]}. Load the model with dtype=torch.bfloat16, or with attn_implementation='sdpa'."
        )


def _for_heads(x: Tensor, q: Tensor) -> Tensor:
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)


def _packed(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1).contiguous()


def _unpacked(x: Tensor, like: Tensor) -> Tensor:
    rows: Tensor = x.unflatten(0, (like.shape[0], -1))
    return rows.transpose(1, 2)


def _lengths(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """Where rows begin and end among the packed queries and keys, and how long they are."""
    rows = torch.arange(q.shape[0] + 1, dtype=torch.int32, device=q.device)
    return rows * q.shape[2], rows * k.shape[2], q.shape[2], k.shape[2]


def _reach(window: int | None) -> dict[str, int]:
    return (
        {"window_size_left": -1, "window_size_right": -1}
        if window is None
        else ({"window_size_left": window - 1, "window_size_right": 0})
    )
