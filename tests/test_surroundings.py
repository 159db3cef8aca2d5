"""What surrounds a model leaves it as it is: another default device, positions of several axes, keyword arguments."""

import pytest
import torch
import transformers
from converted import logits, ttt
from tiny import SHAPE, tiny, tokens

from ttt_retrofit import InputError, TTTConfig, UnsupportedModelError, wrap
from ttt_retrofit.inner.context import ForwardContext, entering
from ttt_retrofit.streaming.window import ttt_sdpa_attention

STILL = TTTConfig(layers="all", chunk_size=6, sliding_window=None, inner_lr=0.0)
EYES = {"depth": 1, "num_heads": 2, "patch_size": 4, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 16}
PLACES = {"image_token_id": 94, "video_token_id": 95}


def seeing(family: str) -> transformers.PreTrainedModel:
    """A tiny model whose tokens have a position in time, height and width."""
    text = {**SHAPE, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
    config, model, changes = {
        "qwen2_vl": ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration", {"embed_dim": 16, "hidden_size": 32}),
        "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", {}),
        "qwen3_vl": ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration", {"deepstack_visual_indexes": [0]}),
        "glm4v": ("Glm4vConfig", "Glm4vForConditionalGeneration", {}),
    }[family]
    if family in ("qwen3_vl", "glm4v"):
        text["head_dim"] = 8
    made = getattr(transformers, config)(text_config=text, vision_config={**EYES, **changes}, **PLACES)
    torch.manual_seed(0)
    seer = getattr(transformers, model)(made).eval()
    with torch.no_grad():
        for parameter in seer.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.08)
    return seer


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_text_is_generated_by_models_that_count_positions_along_several_axes(family):
    model, ids = seeing(family), tokens(2, 20)
    mask = torch.ones_like(ids)
    mask[0, :5], ids[0, :5] = 0, 0
    greedy = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = logits(model, ids[1:])
    expected = [model.generate(ids, attention_mask=mask, **greedy), model.generate(ids[1:], **greedy)]
    wrap(model, STILL)
    torch.testing.assert_close(logits(model, ids[1:]), plain, atol=1e-5, rtol=0)
    assert torch.equal(model.generate(ids, attention_mask=mask, **greedy), expected[0])
    assert torch.equal(model.generate(ids[1:], **greedy), expected[1])


def test_positions_of_several_axes_are_read_where_they_agree_and_refused_where_they_do_not():
    model, ids = wrap(seeing("qwen2_5_vl"), STILL), tokens(2, 20)
    plain = logits(model, ids)
    for axes in (3, 4):
        positions = torch.arange(20).expand(axes, 2, 20).clone()
        with torch.no_grad():
            assert torch.equal(model(ids, position_ids=positions).logits, plain)
            positions[1, 0, 19] += 1
            with pytest.raises(InputError, match=rf"\({axes}, 2, 20\).*differ.*\(2, 20\)"):
                model(ids, position_ids=positions)
            mask = torch.ones_like(ids)
            mask[0, 19] = 0  # in padding they may differ
            model(ids, position_ids=positions, attention_mask=mask)


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("default", [False, True])
def test_wrapping_and_reading_under_another_default_device_change_nothing(kind, default):
    """ "meta" holds no numbers: whatever were made there by oversight would fail or be lost."""
    config, ids = ttt(kind), tokens(1, 20)
    expected, base, model = wrap(tiny("llama"), config), tiny("llama"), None
    if default:
        torch.set_default_device("meta")
        try:
            model = wrap(base, config)
            found = logits(model, ids)
        finally:
            torch.set_default_device("cpu")
    else:
        with torch.device("meta"):
            model = wrap(base, config)
            found = logits(model, ids)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert torch.equal(found, logits(expected, ids))


def test_a_mask_for_each_type_of_layer_is_refused_with_what_is_expected():
    model, ids = wrap(tiny("gemma3_text"), STILL), tokens(2, 9)
    with pytest.raises(InputError, match=r"attention_mask is a dict; expected a tensor of shape \(2, 9\)"):
        model(ids, attention_mask={"full_attention": None, "sliding_attention": None})


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("mask", [None, torch.zeros(1, 1, 5, 5).masked_fill(~torch.ones(5, 5).tril().bool(), -1e9)])
def test_attention_takes_its_arguments_by_position_and_by_keyword(second, mask):
    """Doge and AFMoE give the mask by keyword."""
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, 2
    query, key, value = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    given = {"query": query, "key": key, "value": value, "attention_mask": mask}

    def attend(*args, **kwargs):
        if not second:
            return ttt_sdpa_attention(module, *args, **kwargs)[0]
        with entering(ForwardContext(second_order=True)):
            return ttt_sdpa_attention(module, *args, **kwargs)[0]

    expected = attend(query, key, value, mask, scaling=0.3)
    assert torch.equal(attend(query, key, value, attention_mask=mask, scaling=0.3), expected)
    assert torch.equal(attend(**given, scaling=0.3, dropout=0.0), expected)


def test_layers_that_look_at_images_get_no_fast_weights():
    config = transformers.MllamaTextConfig(
        **SHAPE, cross_attention_layers=[1, 3], rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    )
    model, ids = transformers.MllamaForCausalLM(config).eval(), tokens(1, 20)
    plain = logits(model, ids)
    with pytest.raises(UnsupportedModelError, match=r"Layers \[1\] of MllamaForCausalLM attend to images"):
        wrap(model, TTTConfig(layers=[0, 1]))
    wrap(model, STILL)
    assert [site.site.layer for site in model.sites] == [0, 2]
    torch.testing.assert_close(logits(model, ids), plain, atol=1e-5, rtol=0)
