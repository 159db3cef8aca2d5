"""Over memory that never moves a chunk and a token give what reading gives, as one function without a break."""

import pytest
import torch
from tiny import tiny, tokens

from ttt_retrofit import TTTConfig, wrap
from ttt_retrofit.streaming.ring import Ring

CHUNK, BEFORE = 6, 30


def converted(family, **changes):
    return wrap(tiny(family), TTTConfig(chunk_size=CHUNK, sliding_window=11, sink_tokens=2, **changes))


def spans(start, count, width):
    """Indices of `count` pieces of `width` tokens."""
    return [torch.arange(first, first + width) for first in range(start, start + count * width, width)]


def assert_as_read(ring, cache):
    ours, theirs = ring.fast.tensors(), cache.fast.tensors()
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)
    for group, kept in zip(ring.groups, cache.groups):
        for index in range(cache.counts[0] - group.window + 1, cache.counts[0]):  # what the next token sees
            assert (
                (group.indices == index).sum(1).tolist() == (kept.indices == index).sum(1).tolist() == [1] * ring.rows
            )
    for layer, kept, owner in zip(ring.layers, cache.layers, ring.group_of):
        seen = torch.isin(cache.groups[owner].indices[0], ring.groups[owner].indices[0])
        for index in cache.groups[owner].indices[0][seen][-8:]:
            there = (ring.groups[owner].indices[0] == index).nonzero().item()
            column = (cache.groups[owner].indices[0] == index).nonzero().item()
            torch.testing.assert_close(layer.keys[:, :, there], kept.keys[:, :, column], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family, rows", [("llama", 1), ("gemma3_text", 2)])
def test_chunks_and_then_tokens_over_a_ring_give_the_logits_losses_and_weights_of_reading(family, rows):
    model, ids = converted(family), tokens(rows, 60)
    cache = model.read(ids[:, :BEFORE])
    ring, targets = Ring(cache), torch.ones(rows, CHUNK - 1, dtype=torch.bool)
    for span in spans(BEFORE, 3, CHUNK):
        expected = model(ids[:, span], past_key_values=cache).logits
        logits, losses = ring.learn(model, ids[:, span], span[None], span[0], targets)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(losses, cache.loss_by_chunk[:, -1], atol=1e-5, rtol=1e-4)
    assert_as_read(ring, cache)
    tail = spans(BEFORE + 3 * CHUNK, CHUNK, 1)
    for span in tail:
        expected = model(ids[:, span], past_key_values=cache).logits
        torch.testing.assert_close(ring.read(model, ids[:, span], span[None], span[0]), expected, atol=1e-5, rtol=1e-4)
    model(ids[:, :1], past_key_values=cache)  # takes the step of the chunk that is full
    whole = torch.cat(tail)
    ring.learn(model, ids[:, whole], whole[None], whole[0], targets)
    ring.read(model, ids[:, :1], whole[-1:][None] + 1, whole[-1] + 1)
    assert_as_read(ring, cache)


@torch.no_grad()
def test_a_chunk_with_its_step_is_traced_without_a_break():
    torch.compiler.reset()
    model, ids = converted("llama"), tokens(1, 60)
    cache = model.read(ids[:, :BEFORE])
    ring, targets = Ring(cache), torch.ones(1, CHUNK - 1, dtype=torch.bool)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        learn = torch.compile(lambda *given: ring.learn(model, *given), fullgraph=True, backend="eager")
        for span in spans(BEFORE, 2, CHUNK):
            expected = model(ids[:, span], past_key_values=cache).logits
            logits, _ = learn(ids[:, span], span[None], span[0], targets)
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert_as_read(ring, cache)
