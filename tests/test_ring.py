"""Over keys and values in a ring, reading and decoding give what they give without; a chunk is one traced function."""

import copy

import pytest
import torch
from tiny import tiny, tokens

from ttt_retrofit import TTTCache, TTTConfig, wrap

CHUNK, BEFORE = 6, 27  # the window is full before the first chunk that is compared


def converted(family="llama", static_shapes=True, **changes):
    model = wrap(tiny(family), TTTConfig(chunk_size=CHUNK, sliding_window=11, sink_tokens=2, **changes))
    model.static_shapes = static_shapes
    return model


def gone_on(model, cache, ids, *widths, **how):
    """The logits of calls of these widths, one after another."""
    with torch.no_grad():
        calls = ids[:, : sum(widths)].split(widths, dim=1)
        return torch.cat([model(call, past_key_values=cache, **how).logits for call in calls], dim=1)


def assert_alike(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, equal_nan=True)


def assert_same_state(ours, theirs):
    assert_alike(ours.loss_by_chunk, theirs.loss_by_chunk)
    assert_alike(ours.fast.tensors(), theirs.fast.tensors())
    assert (ours.counts, ours.columns) == (theirs.counts, theirs.columns)
    assert ours.nbytes == pytest.approx(theirs.nbytes, rel=0.02)


@pytest.mark.parametrize(
    "family, rows, changes",
    [
        ("llama", 1, {}),
        ("gemma3_text", 2, {}),
        ("gemma3n_text", 1, {"fast_weights": "subspace", "rank": 4, "inner_optimizer": "normalized_sgd"}),
        ("llama", 2, {"inner_rule": "in_place", "inner_optimizer": "sgd", "relative_lr": None, "inner_lr": 1e-5}),
    ],
)
def test_chunks_parts_and_tokens_are_read_in_a_ring_as_they_are_without(family, rows, changes):
    found = []
    for static in (False, True):
        model, ids = converted(family, static, **changes), tokens(rows, 100)
        cache = model.read(ids[:, :BEFORE])
        logits = [gone_on(model, cache, ids[:, BEFORE:], 20, 4, *[1] * 15, 2)]
        logits.append(gone_on(model, cache, ids[:, BEFORE + 41 :], 9, 1, learn_from="none"))
        logits.append(gone_on(model, cache, ids[:, BEFORE + 51 :], 13))
        assert (cache.ring is not None) is static
        found.append((torch.cat(logits, dim=1), cache))
    assert_alike(found[1][0], found[0][0])
    assert_same_state(found[1][1], found[0][1])


def test_what_a_ring_does_not_hold_is_read_as_before_and_the_ring_taken_up_again():
    found = []
    for static in (False, True):
        model, ids = converted(static_shapes=static), tokens(2, 120)
        cache = model.read(ids[:, :BEFORE])
        logits = [gone_on(model, cache, ids[:, BEFORE:], 8, 1)]
        logits.append(gone_on(model, cache, ids[:, BEFORE + 9 :], 5, output_hidden_states=True))
        assert cache.ring is None
        logits.append(gone_on(model, cache, ids[:, BEFORE + 14 :], 8))
        assert (cache.ring is not None) is static
        mask = torch.ones(2, cache.columns + 9, dtype=torch.long)
        mask[0, -9:-6] = 0
        logits.append(gone_on(model, cache, ids[:, BEFORE + 22 :], 9, attention_mask=mask)[:, 3:])
        logits.append(gone_on(model, cache, ids[:, BEFORE + 31 :], 9))
        assert cache.ring is None  # rows are no longer in step
        found.append((torch.cat(logits, dim=1), cache))
    assert_alike(found[1][0], found[0][0])
    assert_same_state(found[1][1], found[0][1])


def test_sinks_are_moved_for_a_ring_too():
    found = []
    for static in (False, True):
        model, ids = converted(static_shapes=static), tokens(1, 100)
        model.config.max_position_embeddings = 30
        cache = model.read(ids)
        assert cache.sinks.anchors[0] > 40 and (cache.ring is not None) is static
        found.append(gone_on(model, cache, ids, 4))
    assert_alike(*found)


def test_a_conversation_in_a_ring_is_saved_copied_put_aside_and_begun_anew(tmp_path):
    model, ids = converted(), tokens(1, 90)
    cache = model.read(ids[:, :BEFORE])
    gone_on(model, cache, ids[:, BEFORE:], 9)
    copied, kept = copy.deepcopy(cache), cache.snapshot()
    assert cache.ring is not None and kept.ring is None
    cache.save(tmp_path / "talk.safetensors")
    loaded = TTTCache.load(tmp_path / "talk.safetensors", model)
    expected = gone_on(model, cache, ids[:, BEFORE + 9 :], 10, 1)
    for other in (copied, kept, loaded):
        assert_alike(gone_on(model, other, ids[:, BEFORE + 9 :], 10, 1), expected)
        assert_same_state(other, cache)
    cache.reset()
    assert cache.ring is None and cache.nbytes == 0
    assert_alike(gone_on(model, cache, ids, 40), model(ids[:, :40]).logits)


@pytest.mark.parametrize("how", [{"do_sample": False}, {"num_beams": 2}])
def test_generate_says_the_same_over_a_ring(how):
    ids, said = tokens(1, 40), []
    for static in (False, True):
        model = converted(static_shapes=static)
        cache = model.new_cache()
        said.append(model.generate(ids, past_key_values=cache, max_new_tokens=14, min_new_tokens=14, **how))
        assert (cache.ring is not None) is static
    assert torch.equal(*said)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_a_chunk_with_its_step_is_traced_without_a_break(backend):
    torch.compiler.reset()
    model, ids = converted(), tokens(1, 60)
    cache = model.read(ids[:, :30])
    ring, fast, targets = copy.deepcopy(cache.roll()), copy.deepcopy(cache.fast), torch.ones(1, CHUNK - 1, dtype=bool)

    def learn(ids, positions, start):
        output, losses, new = ring.learn(model, fast, ids, positions, start, targets)
        return output.logits, losses, new.tensors()

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        learn = torch.compile(learn, fullgraph=True, backend=backend)
        for first in (30, 30 + CHUNK):
            span = torch.arange(first, first + CHUNK)
            logits, losses, state = learn(ids[:, span], span[None], span[0])
            assert_alike(logits, gone_on(model, cache, ids[:, span], CHUNK))
            assert_alike(losses, cache.loss_by_chunk[:, -1])
            fast.steps.copy_(state.pop("steps"))
    assert_alike(fast.tensors(), cache.fast.tensors())
