"""The window: what is seen, what is kept, and that families' own windows stay in effect."""

import pytest
import torch
from tiny import SUPPORTED, WINDOW, tiny, tokens

from ttt_retrofit import TTTConfig, UnsupportedModelError, wrap

READING = {"layers": "all", "chunk_size": 4, "learn_from": "none"}


def windowed(family, window, sinks=0, **changes):
    return wrap(tiny(family, **changes), TTTConfig(**READING, sliding_window=window, sink_tokens=sinks))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("split", [None, 7, 1])
def test_llama_under_a_window_equals_mistral(split, attention):
    window, ids = 6, tokens(2, 30)
    mistral = tiny("mistral", attention, sliding_window=window)
    llama = tiny("llama", attention)
    llama.load_state_dict(mistral.state_dict())
    llama = wrap(llama, TTTConfig(**READING, sliding_window=window, sink_tokens=0))
    cache, logits = None, []
    with torch.no_grad():
        expected = mistral(ids, use_cache=False).logits
        for part in ids.split(split or 30, dim=1):
            output = llama(part, past_key_values=cache)
            cache = output.past_key_values
            logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [WINDOW, 24, None])
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "cohere2", "olmo3", "exaone4", "mistral"])
def test_a_window_no_smaller_than_the_familys_own_leaves_its_sliding_layers_alone(family, window):
    """Sliding layers stay as trained, without sinks; only the others are narrowed, and only by a smaller window."""
    ids = tokens(1, 24)
    model = windowed(family, window, sinks=2)
    types = model.config.layer_types if "layer_types" in SUPPORTED[family] else ["sliding_attention"] * 4
    cache = model.new_cache()
    for group, kind in zip((cache.groups[index] for index in cache.group_of), types):
        if kind == "sliding_attention":
            assert (group.window, group.sinks) == (WINDOW, 0)
        else:
            assert group.window == window
    with torch.no_grad():
        logits = model(ids).logits
        expected = model.unwrap()(ids).logits
    changed = (logits - expected).abs().amax(-1)[0]
    if family == "mistral" or window in (24, None):
        assert changed.max() < 1e-5
    else:
        assert changed[:window].max() < 1e-5 and changed[window + 2 :].max() > 1e-4


@pytest.mark.parametrize("family", ["gemma2", "mistral", "cohere2"])
def test_a_smaller_window_narrows_the_familys_sliding_layers_too(family):
    cache = windowed(family, 5, sinks=2).new_cache()
    assert all((group.window, group.sinks) == (5, 2) for group in cache.groups)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3", "phi3"])
def test_the_output_follows_sinks_and_window_and_nothing_else(family, attention):
    """One layer, so that nothing reaches further than one step of attention."""
    window, sinks, length = 6, 2, 20
    model = tiny(family, attention, num_hidden_layers=1)
    model = wrap(model, TTTConfig(**READING, sliding_window=window, sink_tokens=sinks))
    ids = tokens(1, length)
    with torch.no_grad():
        before = model(ids).logits[0, -1]
        seen = []
        for place in range(length):
            other = ids.clone()
            other[0, place] = 90
            seen.append(bool((model(other).logits[0, -1] - before).abs().max() > 1e-6))
    assert seen == [True] * sinks + [False] * (length - sinks - window) + [True] * window


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "cohere2", "gpt2", "gpt_neox", "granite"])
def test_eager_equals_sdpa(family):
    ids, mask = tokens(2, 22), torch.ones(2, 22, dtype=torch.long)
    mask[1, :5] = 0
    config = TTTConfig(layers="all", chunk_size=4, sliding_window=7, sink_tokens=2, inner_optimizer="sgd", inner_lr=0.1)
    with torch.no_grad():
        logits = [wrap(tiny(family, name), config)(ids, attention_mask=mask).logits for name in ("eager", "sdpa")]
    torch.testing.assert_close(logits[0][mask.bool()], logits[1][mask.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2_moe"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_state_stops_growing_once_the_window_is_full(family, kind, padded):
    config = TTTConfig(layers="all", chunk_size=8, sliding_window=12, sink_tokens=2, fast_weights=kind, rank=4)
    model, cache, sizes = wrap(tiny(family), config), None, []
    mask = torch.ones(2, 16, dtype=torch.long)
    if padded:
        mask[1, :3] = 0
    with torch.no_grad():
        for seed in range(12):
            cache = model(tokens(2, 16, seed), attention_mask=mask, past_key_values=cache).past_key_values
            sizes.append(cache.nbytes)
    # Ragged rows keep a few ranks more or less from call to call.
    assert len(set(sizes[4:])) == 1 or (padded and max(sizes[8:]) <= max(sizes[4:8])), sizes
    # Sinks, window and the unfinished chunk; ragged rows may have another chunk in the columns beside it.
    assert max(layer.keys.shape[2] for layer in cache.layers) <= 2 + 11 + 8 * (1 + padded)


def test_single_tokens_leave_no_more_state_than_chunks():
    config = TTTConfig(layers="all", chunk_size=8, sliding_window=12, sink_tokens=2)
    model, ids, sizes = wrap(tiny("llama"), config), tokens(1, 80), set()
    cache = None
    with torch.no_grad():
        for place in range(80):
            cache = model(ids[:, place : place + 1], past_key_values=cache).past_key_values
            if place >= 40:
                sizes.add(sum(layer.nbytes for layer in cache.layers))
    assert len(sizes) == 1


def test_without_a_window_keys_are_all_kept():
    model, ids = windowed("llama", None), tokens(1, 50)
    with torch.no_grad():
        cache = model(ids).past_key_values
    assert all(layer.length == 50 for layer in cache.layers)


def test_the_window_stays_when_attention_is_set_anew():
    model, ids = windowed("llama", 6, sinks=2), tokens(1, 30)
    with torch.no_grad():
        expected = model(ids).logits
        for name in ("eager", "sdpa"):
            model.set_attn_implementation(name)
            torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=0)
    with pytest.raises(UnsupportedModelError, match=r"flash_attention_3.*sdpa"):
        model.set_attn_implementation({"": "flash_attention_3"})
    assert model.config._attn_implementation == "ttt_sdpa"
    assert model.unwrap().config._attn_implementation == "sdpa"
