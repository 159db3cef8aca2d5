"""Window and sinks as two calls without a mask: the same attention as under the mask, with the same gradients."""

import pytest
import torch
from tiny import tiny, tokens

from ttt_retrofit import TTTConfig, UnsupportedModelError, wrap
from ttt_retrofit.inner.context import ForwardContext, entering
from ttt_retrofit.streaming import split_attention as split
from ttt_retrofit.streaming.attention import plain_attention
from ttt_retrofit.streaming.window import Attended, ttt_flash_mask, visible

NAME = "flash_attention_2"
PARTS = (slice(0, 3), slice(3, 12))


@pytest.fixture
def on_cpu(monkeypatch):
    """The definition in place of the CUDA kernel."""
    monkeypatch.setitem(split.KERNELS, "cpu", split.PlainKernel())


def causal(row, head, query, key):
    return key <= query


@pytest.mark.parametrize(("queries", "sinks", "window"), [(6, 3, 9), (1, 3, 9), (6, 0, 9), (9, 3, 9), (6, 0, 17)])
def test_two_calls_equal_attention_under_the_mask(queries, sinks, window):
    torch.manual_seed(0)
    keys, first = sinks + window - 1 + queries, 40
    last = torch.arange(first, first + keys - sinks)
    indices = torch.cat([torch.arange(sinks), last])[None].expand(2, -1)
    seen = visible(causal, Attended(indices[:, -queries:], indices, window, sinks, padded=False))
    mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    leaves = [torch.randn(2, h, n, 8, dtype=torch.float64) for h, n in ((4, queries), (2, keys), (2, keys))]
    of_out = torch.randn(2, 4, queries, 8, dtype=torch.float64)

    def run(attention):
        q, k, v = (leaf.clone().requires_grad_() for leaf in leaves)
        out = attention(q, k, v)
        return out, *torch.autograd.grad(out, (q, k, v), of_out)

    def under_mask(q, k, v):
        return plain_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), mask, 0.3)

    found = run(lambda q, k, v: split.split_attention(q, k, v, split.Split(sinks, window), 0.3, split.PlainKernel()))
    torch.testing.assert_close(found, run(under_mask), atol=1e-12, rtol=0)


def test_one_call_is_merged_from_two_by_pytorchs_own_kernel():
    """PyTorch's kernel for CPUs gives lse, as FlashAttention does, and takes it back as FlashAttention's does."""
    torch.manual_seed(0)
    q, k, v, of_out = (torch.randn(1, 2, n, 8) for n in (5, 12, 12, 5))
    ops = torch.ops.aten
    whole, lse = ops._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    parts = [ops._scaled_dot_product_flash_attention_for_cpu(q, k[:, :, p], v[:, :, p]) for p in PARTS]
    out, both = split.merged(*parts[0], *parts[1])
    torch.testing.assert_close((out, both), (whole, lse))
    backward = ops._scaled_dot_product_flash_attention_for_cpu_backward
    of_q, of_k, of_v = backward(of_out, q, k, v, whole, lse, 0.0, False)
    of_parts = [backward(of_out, q, k[:, :, p], v[:, :, p], out, both, 0.0, False) for p in PARTS]
    torch.testing.assert_close(of_parts[0][0] + of_parts[1][0], of_q)
    for index, expected in ((1, of_k), (2, of_v)):
        torch.testing.assert_close(torch.cat([part[index] for part in of_parts], 2), expected)
    plain = split.PlainKernel().backward(of_out, q, k, v, whole, lse, None, 8**-0.5)
    torch.testing.assert_close(plain, (of_q, of_k, of_v))


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_model_reads_and_learns_as_with_sdpa(on_cpu, family, padded):
    ids, mask = tokens(2, 30), torch.ones(2, 30, dtype=torch.long)
    if padded:
        mask[1, :5] = 0
    config = TTTConfig(layers="all", chunk_size=4, sliding_window=7, sink_tokens=2, inner_optimizer="sgd", inner_lr=0.1)
    logits = []
    for name in ("sdpa", NAME):
        model = tiny(family)
        model.config._attn_implementation_internal = name
        with torch.no_grad():
            cache = wrap(model, config)(ids[:, :9], attention_mask=mask[:, :9]).past_key_values
            logits.append(model(ids[:, 9:], attention_mask=mask, past_key_values=cache).logits)
        assert model.unwrap().config._attn_implementation == name
    torch.testing.assert_close(logits[0][mask[:, 9:].bool()], logits[1][mask[:, 9:].bool()], atol=1e-5, rtol=0)


def test_a_mask_is_made_only_where_sinks_and_window_do_not_say_all(on_cpu):
    def made(first, queries, **changes):
        indices = torch.arange(first + queries)[None]
        attended = Attended(indices[:, first:], indices, window=7, sinks=2, padded=changes.pop("padded", False))
        context = ForwardContext(attended=lambda: attended, second_order=changes.pop("second_order", False))
        with entering(context):
            kwargs = {"mask_function": causal, "dtype": torch.float32, **changes}
            return ttt_flash_mask(queries, first + queries, **kwargs)

    assert made(0, 6) is None  # plain causal
    assert made(3, 4) == split.Split(0, 7)  # all is within the window
    assert made(8, 4) == split.Split(2, 7)
    for mask in (made(1, 7), made(8, 4, padded=True), made(8, 4, second_order=True), made(8, 4, local_size=5)):
        assert isinstance(mask, torch.Tensor)
    assert isinstance(made(8, 4, allow_is_causal_skip=False), torch.Tensor)


def test_flash_attention_is_refused_where_it_does_not_run():
    model = tiny("llama")
    model.config._attn_implementation_internal = NAME
    model = wrap(model, TTTConfig(chunk_size=4, sliding_window=7))
    with torch.no_grad(), pytest.raises(UnsupportedModelError, match="runs on CUDA, and the model is on 'cpu'"):
        model(tokens(1, 8))
    with pytest.raises(UnsupportedModelError, match="float16 or bfloat16"):
        split.check_flash(torch.zeros(1, 1, 1, 64))
