"""Rotary frequencies that follow the call (LongRoPE, dynamic NTK) stay what they are while a model reads."""

import pytest
import torch
from tiny import tiny, tokens

from ttt_retrofit import InputError, TTTConfig, wrap

SWITCH = 32  # tokens up to which one set of frequencies is meant for
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": SWITCH,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
CASES = {
    "phi3": {"rope_parameters": LONG, "max_position_embeddings": 512},
    "llama": {"rope_parameters": DYNAMIC, "max_position_embeddings": SWITCH},
    "minicpm3": {
        "rope_parameters": {**LONG, "short_factor": [1.0, 1.1], "long_factor": [2.0, 3.0]},
        "max_position_embeddings": 512,
    },
    "gemma3_text": {
        "rope_parameters": {"full_attention": LONG, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "max_position_embeddings": 512,
    },
}
TTT = {"chunk_size": 8, "sliding_window": 12, "sink_tokens": 2, "relative_lr": 0.02}


def made(family):
    changes = dict(CASES[family])
    if family == "phi3":
        changes["original_max_position_embeddings"] = SWITCH
    return tiny(family, **changes)


@pytest.mark.parametrize("family", CASES)
def test_up_to_the_switch_it_is_the_bases_and_beyond_it_refused_without_a_window(family):
    base = made(family)
    model = wrap(made(family), TTTConfig(**TTT | {"sliding_window": None}, learn_from="none"))
    ids = tokens(2, SWITCH + 1)
    torch.testing.assert_close(model(ids[:, :-1]).logits, base(ids[:, :-1]).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match=f"33 tokens are more than the {SWITCH} that .* one set of rotary frequencies"):
        model(ids)
    cache = model.read(ids[:, :-1])
    with pytest.raises(InputError, match="sliding_window"):
        model(ids[:, -1:], past_key_values=cache)


@pytest.mark.slow
@pytest.mark.parametrize("family", CASES)
def test_past_the_switch_the_result_does_not_depend_on_calls_or_on_what_others_read(family):
    model = wrap(made(family), TTTConfig(**TTT))
    ids = tokens(2, 3 * SWITCH)
    whole = model(ids).logits
    for size in (1, 7, 24):
        cache, parts = None, []
        for start in range(0, ids.shape[1], size):
            output = model(ids[:, start : start + size], past_key_values=cache)
            cache, parts = output.past_key_values, [*parts, output.logits]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", CASES)
def test_generating_over_the_switch_keeps_the_state(family):
    model = wrap(made(family), TTTConfig(**TTT))
    ids = tokens(1, SWITCH - 4)
    cache = model.new_cache()
    written = model.generate(ids, past_key_values=cache, max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert cache.tokens_seen.tolist() == [SWITCH + 15]
    assert torch.equal(model(written[:, :-1]).logits.argmax(-1)[0, SWITCH - 5 :], written[0, SWITCH - 4 :])


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("family", CASES)
def test_without_a_window_generating_ends_where_the_switch_is(family, beams):
    model = wrap(made(family), TTTConfig(**TTT | {"sliding_window": None}))
    ids = tokens(2, SWITCH - 4)
    written = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None, num_beams=beams)
    assert written.shape[1] == SWITCH + 1  # the last one is written, and never read


@pytest.mark.parametrize("family", CASES)
def test_unwrapped_frequencies_follow_the_call_again(family, tmp_path):
    ids = tokens(1, 2 * SWITCH)
    expected = made(family)(ids).logits
    model = wrap(made(family), TTTConfig(**TTT))
    model.read(ids)
    model.save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(reloaded(ids).logits, model(ids).logits)
    for converted in (model, reloaded):
        assert torch.equal(converted.unwrap()(ids).logits, expected)
