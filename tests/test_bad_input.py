"""Bad input raises a named error that says what was found and what to do, and leaves the model as it was."""

import copy

import pytest
import torch
import transformers
from tiny import snapshot, tiny, tokens
from torch import nn

from ttt_retrofit import ConfigError, InputError, TTTConfig, TTTError, UnsupportedModelError, wrap

CONFIG = TTTConfig(layers="all", chunk_size=6, sliding_window=10, sink_tokens=2, inner_lr=1e-2)


def without_mlps():
    model = tiny("llama")
    for layer in model.model.layers:
        layer.mlp = nn.Identity()
    return model


def dispatched():
    model = tiny("llama")
    model.hf_device_map = {"model.embed_tokens": "cpu", "model.layers": 0}
    return model


def flash():
    model = tiny("llama")
    model.config._attn_implementation_internal = "flash_attention_3"
    return model


UNWRAPPABLE = {
    "layers out of range": (lambda: tiny("llama"), {"layers": [9]}, ConfigError, "0 to 3"),
    "unknown module": (lambda: tiny("llama"), {"target_modules": "foo"}, ConfigError, "foo.*mlp.down_proj"),
    "no gate": (lambda: tiny("gpt2"), {"target_modules": "gate"}, ConfigError, "gate.*mlp.c_proj"),
    "rank too large": (lambda: tiny("llama"), {"fast_weights": "lora", "rank": 40}, ConfigError, "rank <= 32"),
    "no MLP": (without_mlps, {}, UnsupportedModelError, r"mlp \(Identity\)"),
    "no block for prime": (lambda: tiny("opt"), {"fast_weights": "prime"}, UnsupportedModelError, "'delta' or 'lora'"),
    "experts only": (lambda: tiny("mixtral"), {}, UnsupportedModelError, "mlp.experts.*prime"),
    "dispatched": (dispatched, {}, UnsupportedModelError, "from_pretrained"),
    "flash attention": (flash, {}, UnsupportedModelError, "flash_attention_3.*sdpa"),
    "encoder-decoder": (lambda: tiny("t5"), {}, UnsupportedModelError, "position_ids"),
}


@pytest.mark.parametrize("case", UNWRAPPABLE)
def test_what_cannot_be_wrapped_is_left_as_it_was(case):
    build, changes, error, message = UNWRAPPABLE[case]
    model = build()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        wrap(model, TTTConfig(**{**CONFIG.to_dict(), **changes}))
    assert snapshot(model) == before


def test_wrapping_twice_is_refused_and_the_first_conversion_stays():
    model = wrap(tiny("llama"), CONFIG)
    before = snapshot(model)
    with pytest.raises(ConfigError, match="unwrap"):
        wrap(model, CONFIG)
    assert snapshot(model) == before


@pytest.mark.parametrize("thing", [nn.Linear(3, 3), None, 3, {"model": 1}])
def test_wrapping_a_non_model_is_refused(thing):
    with pytest.raises(UnsupportedModelError, match=f"found {type(thing).__name__}"):
        wrap(thing, CONFIG)


def test_wrapping_a_backbone_is_refused():
    model = tiny("llama").model
    before = snapshot(model)
    with pytest.raises(UnsupportedModelError, match="LlamaModel is not a causal language model"):
        wrap(model, CONFIG)
    assert snapshot(model) == before


def test_a_configuration_of_another_kind_is_refused():
    model = tiny("llama")
    before = snapshot(model)
    with pytest.raises(ConfigError, match="TTTConfig, found dict"):
        wrap(model, CONFIG.to_dict())
    assert snapshot(model) == before


# ---------------------------------------------------------------------- inputs

INPUTS = {
    "no tokens": ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "empty.*at least one"),
    "no ids": ({}, "input_ids is missing"),
    "floats": ({"input_ids": torch.rand(1, 5)}, r"torch\.float32.*integers"),
    "booleans": ({"input_ids": torch.ones(1, 5, dtype=torch.bool)}, r"torch\.bool.*integers"),
    "one dimension": ({"input_ids": tokens(1, 5)[0]}, r"\(5,\).*\(batch, tokens\)"),
    "three dimensions": ({"input_ids": tokens(1, 5)[None]}, r"\(1, 1, 5\)"),
    "beyond the vocabulary": ({"input_ids": torch.tensor([[3, 97]])}, r"97.*0 to 96"),
    "negative": ({"input_ids": torch.tensor([[3, -1]])}, r"-1.*0 to 96"),
    "embeddings": ({"inputs_embeds": torch.rand(1, 5, 32)}, "inputs_embeds.*input_ids"),
    "mask too long": (
        {"input_ids": tokens(1, 5), "attention_mask": torch.ones(1, 7)},
        r"\(1, 7\); expected \(1, 5\)",
    ),
    "mask of other rows": (
        {"input_ids": tokens(2, 5), "attention_mask": torch.ones(1, 5)},
        r"\(1, 5\); expected \(2, 5\)",
    ),
    "mask of four dimensions": (
        {"input_ids": tokens(1, 5), "attention_mask": torch.ones(1, 1, 5, 5)},
        r"\(1, 1, 5, 5\)",
    ),
    "all padding": (
        {"input_ids": tokens(1, 5), "attention_mask": torch.zeros(1, 5, dtype=torch.long)},
        "no real token",
    ),
    "positions of another length": (
        {"input_ids": tokens(1, 5), "position_ids": torch.arange(4)[None]},
        r"position_ids has shape \(1, 4\); expected \(1, 5\)",
    ),
    "attentions of several chunks": ({"input_ids": tokens(1, 20), "output_attentions": True}, "within one chunk"),
    "hidden states of padding": (
        {"input_ids": tokens(1, 5), "attention_mask": torch.tensor([[0, 1, 1, 1, 1]]), "output_hidden_states": True},
        "without padding",
    ),
    "unknown learn_from": ({"input_ids": tokens(1, 5), "learn_from": "promt"}, "promt.*'all', 'prompt', 'none'"),
    "a list as cache": ({"input_ids": tokens(1, 5), "past_key_values": []}, "list, expected a TTTCache"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_wrong_inputs_are_refused_with_what_was_expected(case):
    inputs, message = INPUTS[case]
    model = wrap(tiny("llama"), CONFIG)
    before = snapshot(model)
    with torch.no_grad(), pytest.raises(InputError, match=message):
        model(**inputs)
    assert snapshot(model) == before
    with torch.no_grad():
        assert torch.isfinite(model(tokens(1, 20)).logits).all()


@pytest.mark.parametrize("case", INPUTS)
def test_wrong_inputs_leave_the_conversation_as_it_was(case):
    model, more = wrap(tiny("llama"), CONFIG), tokens(1, 20, seed=1)
    inputs = dict(INPUTS[case][0])
    with torch.no_grad():
        talk, other = (model(tokens(1, 9)).past_key_values for _ in range(2))
        with pytest.raises(InputError):
            model(**{"past_key_values": talk, **inputs})
        assert talk.columns == 9
        assert torch.equal(model(more, past_key_values=talk).logits, model(more, past_key_values=other).logits)


READS = {
    "empty text": ("", "0 tokens.*not empty"),
    "no ids": ([], "0 tokens.*at least 2"),
    "one token": ([5], "1 token, expected at least 2"),
    "one token a row": (torch.tensor([[5], [6]]), "1 token, expected at least 2"),
    "floats": ([1.5, 2.5, 3.5], r"torch\.float32.*integers"),
    "several texts": (["a", "b"], "list that is no table of token ids"),
    "rows of several lengths": ([[1, 2, 3], [4, 5]], "rows of ids of one length"),
    "None": (None, "NoneType.*text or token ids"),
}


@pytest.mark.parametrize("case", READS)
def test_reading_nothing_is_refused(case):
    context, message = READS[case]
    model = wrap(tiny("llama"), CONFIG)
    with pytest.raises(InputError, match=message):
        model.read(context, tokenizer=lambda text, **_: transformers.BatchEncoding({"input_ids": []}))


def test_text_without_a_tokenizer_says_to_pass_one():
    with pytest.raises(InputError, match="tokenizer="):
        wrap(tiny("llama"), CONFIG).read("some text")


def test_what_is_refused_is_refused_before_anything_is_read():
    model, ids = wrap(tiny("llama"), CONFIG), tokens(1, 40)
    cache = model.read(tokens(1, 8))
    wrong = ids.clone()
    wrong[0, -1] = 10**6
    for call in (
        lambda: model.read(wrong, past_key_values=cache),
        lambda: model.read(ids[0], attention_mask=torch.ones(40), past_key_values=cache),
        lambda: model.read(ids, attention_mask=torch.ones(1, 39), past_key_values=cache),
    ):
        with pytest.raises(InputError):
            call()
    assert cache.tokens_seen.tolist() == [8]


def test_the_balance_of_experts_is_refused_not_left_out():
    model, ids = wrap(tiny("qwen2_moe"), CONFIG), tokens(1, 20)
    with pytest.raises(InputError, match="output_router_logits"):
        model(ids, output_router_logits=True)
    model.config.output_router_logits = True
    with pytest.raises(InputError, match="output_router_logits"):
        model(ids, labels=ids)
    assert model.read(ids).tokens_seen.tolist() == [20]  # no loss is asked for


@pytest.mark.parametrize("side", ["left", "right"])
def test_reading_passes_over_chunks_of_padding(side):
    model, ids, mask = wrap(tiny("llama"), CONFIG), tokens(2, 20), torch.ones(2, 20)
    mask[:, slice(8) if side == "left" else slice(12, 20)] = 0
    cache = model.read(ids, attention_mask=mask)
    assert cache.tokens_seen.tolist() == [12, 12] and cache.columns == 20
    alone = model.read(ids[:, mask[0] == 1])
    assert torch.allclose(cache.loss_by_chunk, alone.loss_by_chunk, atol=1e-5)
    with pytest.raises(InputError, match="no real token"):
        model.read(ids, attention_mask=torch.zeros(2, 20), past_key_values=cache)
    assert cache.columns == 20


def test_one_token_may_follow_others():
    model = wrap(tiny("llama"), CONFIG)
    cache = model.read(tokens(1, 8))
    assert model.read([5], past_key_values=cache).tokens_seen.tolist() == [9]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_any_integer_type_is_read(dtype):
    model, ids = wrap(tiny("llama"), CONFIG), tokens(1, 20)
    with torch.no_grad():
        for split in (20, 7):
            cache = None
            for part in ids.to(dtype).split(split, dim=1):
                cache = model(part, past_key_values=cache).past_key_values
            assert cache.fast.steps.tolist() == [3]


def test_a_cache_of_another_batch_is_refused():
    model = wrap(tiny("llama"), CONFIG)
    cache = model.read(tokens(2, 8))
    with pytest.raises(InputError, match="2 rows but the input has 1"):
        model.read(tokens(1, 8), past_key_values=cache)


def train(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


@pytest.mark.parametrize("other", [{}, {"num_key_value_heads": 4}])
def test_a_cache_of_other_weights_is_refused(other):
    model, strange = wrap(tiny("llama"), CONFIG), wrap(tiny("llama", **other), CONFIG)
    train(strange)
    cache = strange.read(tokens(1, 8))
    for call in (model.read, model, model.generate):
        with pytest.raises(InputError, match="other weights"):
            call(tokens(1, 20), past_key_values=cache)
    assert cache.tokens_seen.tolist() == [8]


def test_a_cache_stays_valid_in_a_twin_in_a_copy_and_while_the_model_is_trained():
    model, twin = wrap(tiny("llama"), CONFIG), wrap(tiny("llama"), CONFIG)
    cache = twin.read(tokens(1, 8), past_key_values=model.read(tokens(1, 8)))
    copied, own = copy.deepcopy((twin, cache))
    for reader, talk in ((twin, cache), (copied, own)):
        train(reader)
        assert reader.read(tokens(1, 8), past_key_values=talk).tokens_seen.tolist() == [24]


def test_a_cache_of_another_configuration_is_refused():
    model = wrap(tiny("llama"), CONFIG)
    cache = model.read(tokens(1, 8))
    model.configure_ttt(chunk_size=5)
    with pytest.raises(InputError, match="chunk_size=6 there, 5 here"):
        model.read(tokens(1, 8), past_key_values=cache)


@pytest.mark.parametrize("change", [{"rank": 3}, {"layers": "all"}, {"target_modules": "up"}, {"fast_weights": "lora"}])
def test_what_decides_the_parameters_cannot_be_reconfigured(change):
    model = wrap(tiny("llama"), CONFIG)
    with pytest.raises(ConfigError, match="unwrap"):
        model.configure_ttt(**change)
    assert model.ttt == CONFIG


@pytest.mark.parametrize("change", [{"chunk_size": 11}, {"inner_lr": -1.0}, {"chunksize": 4}])
def test_a_wrong_reconfiguration_changes_nothing(change):
    model = wrap(tiny("llama"), CONFIG)
    with pytest.raises(ConfigError):
        model.configure_ttt(**change)
    assert model.ttt == CONFIG and model.config.ttt == CONFIG.to_dict()


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_reading_past_the_learned_positions_is_refused(family):
    model = wrap(tiny(family, max_position_embeddings=32), CONFIG)
    cache = model.read(tokens(1, 30))
    for more in (3, 40):
        with pytest.raises(InputError, match=rf"{30 + more} tokens.*32 positions"):
            model.read(tokens(1, more), past_key_values=cache)
    assert model.read(tokens(1, 2), past_key_values=cache).tokens_seen.tolist() == [32]


def test_merging_without_a_memory_is_refused():
    model = wrap(tiny("llama"), CONFIG)
    before = snapshot(model)
    with pytest.raises(ConfigError, match="no memory"):
        model.unwrap(merge=True)
    assert snapshot(model) == before


def test_every_error_is_a_value_error():
    assert issubclass(TTTError, ValueError)
    assert all(issubclass(error, TTTError) for error in (ConfigError, InputError, UnsupportedModelError))
