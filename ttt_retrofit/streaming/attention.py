"""Attention that can be differentiated twice, for exact outer gradients by double backward.

PyTorch's fused kernels have no second derivative, and its math form keeps several tensors of all scores, heads x
queries x keys, for every layer. `tiled_attention` keeps its inputs alone: forward, backward, and the backward of the
backward go over a few queries at a time and compute the scores anew. `plain_attention` beside it is the definition.
The window's attention takes it where `ForwardContext.second_order` asks for it.
B batch rows, H heads, Q queries, K keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 2**21  # scores held at a time


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + mask) v. q: (B, H, Q, D), k and v: (B, H, K, D), mask: (B, 1, Q, K), additive."""
    return torch.softmax(scale * q @ k.mT + mask, dim=-1) @ v


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """`plain_attention`, twice differentiable in the memory of its inputs; 16-bit inputs are computed in float32."""
    result: Tensor = _Attention.apply(q, k, v, mask, scale)
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.scale = scale
        out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
        wide_k, wide_v = _wide(k), _wide(v)
        for rows in _tiles(q, k):
            out[:, :, rows] = _probabilities(_wide(q[:, :, rows]), wide_k, mask[:, :, rows], scale) @ wide_v
        return out

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        return *_Backward.apply(*ctx.saved_tensors, of_out, ctx.scale), None, None


class _Backward(torch.autograd.Function):
    """The backward pass as a function of its own, with O the output: A = dO Vᵀ - rowsum(dO ∘ O), dS = P ∘ A."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, of_out: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, mask, of_out)
        ctx.scale = scale
        wide_k, wide_v = _wide(k), _wide(v)
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(wide_k), torch.zeros_like(wide_v)
        for rows in _tiles(q, k):
            wide_q, wide_o = _wide(q[:, :, rows]), _wide(of_out[:, :, rows])
            p = _probabilities(wide_q, wide_k, mask[:, :, rows], scale)
            a = wide_o @ wide_v.mT
            of_s = p * (a - (p * a).sum(-1, keepdim=True))
            of_q[:, :, rows] = scale * of_s @ wide_k
            of_k += scale * of_s.mT @ wide_q
            of_v += p.mT @ wide_o
        return of_q, of_k.to(k.dtype), of_v.to(v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_q: Tensor, g_k: Tensor, g_v: Tensor) -> tuple[Tensor | None, ...]:
        """The tangent of forward and backward along (g_q, g_k, g_v), a dot over what is a tangent.

        Ṡ = c (g_q Kᵀ + Q g_kᵀ), Ṗ = P ∘ (Ṡ - rowsum(P ∘ Ṡ)), Ȯ = Ṗ V + P g_v, and from dS = P ∘ A:
        dṠ = Ṗ ∘ A + P ∘ (dO g_vᵀ - rowsum(dO ∘ Ȯ)).
        """
        q, k, v, mask, of_out = ctx.saved_tensors
        scale = ctx.scale
        wide_k, wide_v, g_k, g_v = _wide(k), _wide(v), _wide(g_k), _wide(g_v)
        to_q, to_out = torch.empty_like(q), torch.empty_like(of_out)
        to_k, to_v = torch.zeros_like(wide_k), torch.zeros_like(wide_v)
        for rows in _tiles(q, k):
            wide_q, wide_o, wide_g = _wide(q[:, :, rows]), _wide(of_out[:, :, rows]), _wide(g_q[:, :, rows])
            p = _probabilities(wide_q, wide_k, mask[:, :, rows], scale)
            a = wide_o @ wide_v.mT
            a -= (p * a).sum(-1, keepdim=True)
            s_dot = scale * (wide_g @ wide_k.mT + wide_q @ g_k.mT)
            p_dot = p * (s_dot - (p * s_dot).sum(-1, keepdim=True))
            out_dot = p_dot @ wide_v + p @ g_v
            of_s = p * a
            of_s_dot = p_dot * a + p * (wide_o @ g_v.mT - (wide_o * out_dot).sum(-1, keepdim=True))
            to_q[:, :, rows] = scale * (of_s_dot @ wide_k + of_s @ g_k)
            to_k += scale * (of_s_dot.mT @ wide_q + of_s.mT @ wide_g)
            to_v += p_dot.mT @ wide_o
            to_out[:, :, rows] = out_dot
        return to_q, to_k.to(k.dtype), to_v.to(v.dtype), None, to_out, None


def _tiles(q: Tensor, k: Tensor) -> Iterator[slice]:
    size = max(1, TILE // (q.shape[0] * q.shape[1] * k.shape[2]))
    for start in range(0, q.shape[2], size):
        yield slice(start, start + size)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    return torch.softmax(scale * q @ k.mT + mask, dim=-1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
