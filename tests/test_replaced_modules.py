"""Modules that are replaced after `wrap` (dequantized, adapted, assigned) are followed, or refused by name."""

import copy

import peft
import pytest
import torch
from converted import converted, logits
from remembered import memory
from tiny import tiny, tokens
from torch import nn
from transformers import BitsAndBytesConfig

import ttt_retrofit
from ttt_retrofit import UnsupportedModelError

IDS, NEXT = tokens(1, 37), tokens(1, 3, seed=1)
KINDS = pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
DOWN = {"target_modules": ["down_proj"]}


def assign(model):
    for layer in model.model.layers:
        for name in ("up_proj", "down_proj"):
            old = getattr(layer.mlp, name)
            new = nn.Linear(old.in_features, old.out_features, bias=False)
            new.weight = old.weight
            setattr(layer.mlp, name, new)
    return model


def adapt(config):
    """By an adapter that changes nothing yet."""
    return lambda model: peft.get_peft_model(model, config).eval()


REPLACED = {
    "assigned": assign,
    "hra": adapt(peft.HRAConfig(r=2, **DOWN)),  # computes with the weight, around the projection
    "oft": adapt(peft.OFTConfig(oft_block_size=16, **DOWN)),  # changes what the projection is given
    "ia3": adapt(peft.IA3Config(feedforward_modules=["down_proj"], **DOWN)),
    "lora": adapt(peft.LoraConfig(**DOWN)),
    "a weight's": adapt(peft.LoraConfig(target_modules=[], target_parameters=["mlp.down_proj.weight"])),
    "two": lambda model: adapt(peft.LoraConfig(**DOWN))(assign(model)),
}


@torch.no_grad()
@KINDS
@pytest.mark.parametrize("how", REPLACED)
def test_fast_weights_follow_a_module_that_was_replaced(how, kind):
    expected = converted("llama", kind)
    cache = expected(IDS).past_key_values
    decoded = expected(NEXT, past_key_values=copy.deepcopy(cache)).logits
    model = converted("llama", kind)
    begun = model(IDS).past_key_values
    replaced = REPLACED[how](model)
    # In the middle of a conversation, where nothing is learned, and from the beginning.
    torch.testing.assert_close(replaced(NEXT, past_key_values=begun).logits, decoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(replaced, IDS), logits(expected, IDS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", REPLACED)
def test_memories_follow_a_module_that_was_replaced(how):
    model = converted("llama", "lora")
    model.load_memory(memory(model, 1, 2))
    spoken = logits(model, IDS)
    replaced = REPLACED[how](model)
    torch.testing.assert_close(logits(replaced, IDS), spoken, rtol=0, atol=1e-5)
    model.reset_memory()
    assert (logits(replaced, IDS) - spoken).abs().max() > 1e-2


def test_an_adapter_that_is_switched_off_and_on_again_does_not_lose_the_fast_weights():
    model = adapt(peft.HRAConfig(r=2, **DOWN))(converted())
    before = logits(model, IDS)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model, IDS), before, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(model, IDS), before, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(model.unload(), IDS), before, rtol=0, atol=1e-5)


@torch.no_grad()
def test_fast_weights_and_memories_follow_a_model_that_is_dequantized(tmp_path):
    tiny("llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    load = ttt_retrofit.AutoModelForCausalLM.from_pretrained
    model = load(tmp_path, ttt_config=converted().ttt, quantization_config=four, dtype=torch.float32).eval()
    model.load_memory(memory(model, 1))
    before, cache = model(IDS).logits, model(IDS).past_key_values
    decoded = model(NEXT, past_key_values=copy.deepcopy(cache)).logits
    model.dequantize()
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear
    torch.testing.assert_close(model(NEXT, past_key_values=cache).logits, decoded, rtol=0, atol=1e-2)
    torch.testing.assert_close(logits(model, IDS), before, rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", ["delta", "prime"])
@pytest.mark.filterwarnings("ignore")
def test_a_model_through_which_no_gradient_passes_is_refused(kind):
    integer = torch.ao.quantization.quantize_dynamic(converted("llama", kind), {nn.Linear})
    with pytest.raises(UnsupportedModelError, match=r"quantized\.dynamic.*no gradient passes.*bitsandbytes"):
        logits(integer, IDS)


@pytest.mark.parametrize("module", [nn.Linear(48, 31), nn.Identity(), nn.Sequential(nn.Linear(48, 32))])
def test_a_module_that_is_no_such_projection_is_refused_by_name(module):
    model = converted()
    model.model.layers[2].mlp.down_proj = module
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.2\.mlp\.down_proj stands a torch.*48 to 32"):
        logits(model, IDS)


def test_an_exchanged_mlp_is_refused_by_name():
    model = converted()
    model.model.layers[2].mlp = tiny("llama").model.layers[2].mlp
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.2\.mlp\.ttt is there no more"):
        logits(model, IDS)


@pytest.mark.parametrize("speaks", [False, True])
def test_a_forward_that_goes_around_a_projection_is_refused(speaks):
    model = converted()
    if speaks:
        model.load_memory(memory(model, 1))
        place = model.model.layers[2].mlp.up_proj
    else:
        place = model.model.layers[2].mlp.down_proj
    place.__class__ = type("Around", (nn.Linear,), {"__call__": lambda self, x: nn.functional.linear(x, self.weight)})
    with pytest.raises(UnsupportedModelError, match="The forward never called"):
        logits(model, IDS)
