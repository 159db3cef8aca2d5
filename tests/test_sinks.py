"""Sinks stay within the trained distance, at the same ranks however tokens are split."""

import pytest
import torch
from tiny import tiny

from ttt_retrofit import TTTCache, TTTConfig, wrap

TRAINED, TOKENS = 40, 150
CONFIG = TTTConfig(chunk_size=8, sliding_window=16, sink_tokens=2, inner_lr=1e-2)


@pytest.fixture
def model():
    base = tiny("llama")
    base.config.max_position_embeddings = TRAINED
    return wrap(base, CONFIG)


@pytest.fixture
def ids():
    return torch.randint(0, 97, (2, TOKENS), generator=torch.Generator().manual_seed(3))


def read(model, ids, step, **kwargs):
    cache, logits = None, []
    with torch.no_grad():
        for start in range(0, ids.shape[1], step):
            out = model(ids[:, start : start + step], past_key_values=cache, use_cache=True, **kwargs)
            cache = out.past_key_values
            logits.append(out.logits)
    return torch.cat(logits, dim=1), cache


@pytest.mark.slow
@pytest.mark.parametrize("learn_from", ["all", "none"])
@pytest.mark.parametrize("step", [1, 7, 13, TOKENS])
def test_moving_the_sinks_does_not_depend_on_how_tokens_were_split(model, ids, step, learn_from):
    expected, _ = read(model, ids, 8, learn_from=learn_from)
    found, cache = read(model, ids, step, learn_from=learn_from)
    assert cache.sinks.anchors[0] > 0
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_no_token_is_further_from_the_sinks_than_the_model_was_trained_for(model, ids):
    cache = None
    with torch.no_grad():
        for start in range(TOKENS):
            cache = model(ids[:, start : start + 1], past_key_values=cache, use_cache=True).past_key_values
            assert all(start - anchor < TRAINED for anchor in cache.sinks.anchors)


def test_moved_sinks_are_the_first_tokens_read_at_the_new_positions(model, ids):
    _, cache = read(model, ids, TOKENS)
    anchor = cache.sinks.anchors[0]
    plain = model.unwrap()
    with torch.no_grad():
        positions = torch.arange(2)[None] + anchor
        fresh = plain(ids[:, :2], position_ids=positions, use_cache=True).past_key_values
    for kept, new in zip(cache.layers, fresh.layers):
        torch.testing.assert_close(kept.past()[0][:, :, :2], new.keys)
        torch.testing.assert_close(kept.past()[1][:, :, :2], new.values)


def test_moved_sinks_are_saved_and_loaded(model, ids, tmp_path):
    _, cache = read(model, ids[:, :100], 100)
    cache.save(tmp_path / "conversation.safetensors")
    again = TTTCache.load(tmp_path / "conversation.safetensors", model)
    with torch.no_grad():
        expected = model(ids[:, 100:], past_key_values=cache).logits
        found = model(ids[:, 100:], past_key_values=again).logits
    assert torch.equal(found, expected)


def test_moving_the_sinks_of_a_padded_batch_leaves_rows_that_have_ended_alone(model, ids):
    short = 40  # whole chunks, as far as the model was trained: the sinks move before the next token, not before
    mask = torch.ones_like(ids)
    mask[1, :-short] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    more = ids[:, :1]
    with torch.no_grad():
        cache = model(ids, attention_mask=mask, position_ids=positions).past_key_values
        assert cache.sinks.anchors[0] > 0 == cache.sinks.anchors[1]
        found = model(more, position_ids=positions[:, -1:] + 1, past_key_values=cache).logits[1]
        alone = model(ids[1:, -short:]).past_key_values
        torch.testing.assert_close(found, model(more[1:], past_key_values=alone).logits[0], atol=1e-5, rtol=0)
