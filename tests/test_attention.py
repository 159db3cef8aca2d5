"""Attention that can be differentiated twice: the tiled form is the plain one."""

import pytest
import torch

from ttt_retrofit.streaming import attention
from ttt_retrofit.streaming.attention import plain_attention, tiled_attention

B, H, Q, K, D, SCALE = 2, 3, 5, 9, 4, 0.4


def inputs(dtype=torch.float64):
    """Queries, keys, values, and the mask of a window with a sink: later keys, and some earlier ones, are unseen."""
    shapes = [(B, H, Q, D), (B, H, K, D), (B, H, K, D)]
    q, k, v = (torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes)
    query, key = torch.arange(K - Q, K)[:, None], torch.arange(K)
    seen = (key <= query) & ((query - key < 4) | (key < 1))
    mask = torch.zeros(1, 1, Q, K, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min).expand(B, 1, Q, K)
    return q, k, v, mask


@pytest.fixture(params=[1, 2 * B * H * K, 2**20])
def tile(request, monkeypatch):
    """One query at a time, two, all."""
    monkeypatch.setattr(attention, "TILE", request.param)


def test_output_and_both_derivatives_are_those_of_the_plain_form(tile):
    q, k, v, mask = inputs()
    seeds = [torch.randn_like(t) for t in (q, k, v)]
    found = []
    for form in (plain_attention, tiled_attention):
        out = form(q, k, v, mask, SCALE)
        first = torch.autograd.grad(out.square().sum(), (q, k, v), create_graph=True)
        total = sum((g * s).sum() for g, s in zip(first, seeds)) + out.sum()
        found.append([out, *first, *torch.autograd.grad(total, (q, k, v))])
    for slow, fast in zip(*found):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_both_derivatives_match_finite_differences(tile):
    q, k, v, mask = inputs()

    def form(*parts):
        return tiled_attention(*parts, mask, SCALE)

    assert torch.autograd.gradcheck(form, (q, k, v))
    assert torch.autograd.gradgradcheck(form, (q, k, v))


def test_16_bits_are_computed_in_32():
    q, k, v, mask = inputs(torch.bfloat16)
    out = tiled_attention(q, k, v, mask, SCALE)
    exact = plain_attention(q.float(), k.float(), v.float(), mask.float(), SCALE)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=1e-2, atol=1e-2)


def test_no_tensor_of_scores_is_kept():
    q, k, v, mask = inputs()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.shape), t)[1], lambda t: t):
        out = tiled_attention(q, k, v, mask, SCALE)
        torch.autograd.grad(out.square().sum(), (q, k, v), create_graph=True)
    assert (B, H, Q, K) not in saved
