"""What is done to a model after `wrap` by other libraries: offloaded, compiled, adapters by row, copies of caches."""

import copy

import accelerate
import peft
import pytest
import torch
from converted import converted, logits
from remembered import memory
from tiny import tiny, tokens
from torch.testing import assert_close

from ttt_retrofit import UnsupportedModelError, wrap

IDS = tokens(2, 37)
SPREAD = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"} | {
    f"model.layers.{index}": place for index, place in enumerate(["cpu", "disk", "cpu", "disk"])
}


def generated(model, **kwargs):
    return model.generate(IDS, max_new_tokens=10, do_sample=False, eos_token_id=None, **kwargs)


OFFLOADED = {
    "cpu": lambda model, directory: accelerate.cpu_offload(model, torch.device("cpu")),
    "disk": lambda model, directory: accelerate.disk_offload(model, directory, torch.device("cpu")),
    "spread": lambda model, directory: accelerate.dispatch_model(
        model, SPREAD, main_device="cpu", offload_dir=directory
    ),
}


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("how", OFFLOADED)
def test_a_model_that_is_offloaded_after_wrap_reads_and_remembers_as_before(how, kind, tmp_path):
    model, whole = (converted("llama", kind, inner_optimizer="sgd") for _ in range(2))
    for each in (model, whole):
        each.load_memory(memory(each, 1))
    offloaded = OFFLOADED[how](model, tmp_path)
    # To rounding: norms that are offloaded go back as the family wrote them.
    assert_close(logits(offloaded, IDS), logits(whole, IDS))
    assert torch.equal(generated(offloaded), generated(whole))
    assert_close(*(each.read(IDS[0].tolist()).loss_by_chunk for each in (model, whole)))
    offloaded.load_memory(memory(whole, 2))
    whole.load_memory(memory(whole, 2))
    assert_close(logits(offloaded, IDS), logits(whole, IDS))


COMPILED = {
    "function": torch.compile,
    "method": lambda model: model.compile() or model,
    "its norm": lambda model: model.model.norm.compile(backend="eager") or model,
}


def replaced_by_a_compiled_layer(model):
    model.model.layers[1] = torch.compile(model.model.layers[1])


PARTS = {
    "a layer": lambda model: model.model.layers[2].compile(),
    "the decoder": lambda model: model.model.compile(),
    "an mlp": lambda model: model.model.layers[0].mlp.compile(),
    "another layer": replaced_by_a_compiled_layer,
}


@pytest.mark.parametrize("how", COMPILED)
def test_a_compiled_model_reads_and_remembers_as_before(how):
    torch.compiler.reset()
    model, plain = converted(), converted()
    compiled = COMPILED[how](model)
    for made in (None, memory(plain, 1)):  # a memory that is loaded after it was compiled, too
        if made is not None:
            model.load_memory(made)
            plain.load_memory(made)
        torch.testing.assert_close(logits(compiled, IDS), logits(plain, IDS), rtol=0, atol=1e-4)
        assert torch.equal(generated(compiled), generated(plain))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_compiled_by_itself_is_refused_by_name(part):
    model = converted()
    PARTS[part](model)
    with pytest.raises(UnsupportedModelError, match="is compiled by itself"):
        logits(model, IDS)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_each_row_has_its_own_adapter_however_rows_are_padded_and_sinks_are_moved(padded):
    def adapted():
        torch.manual_seed(0)
        # Positions end at 40, so that sinks are moved.
        model = wrap(tiny("llama", max_position_embeddings=40), converted().ttt)
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = peft.get_peft_model(model, config, adapter_name="one")
        model.add_adapter("other", config)
        return model.eval()

    ids, names = tokens(3, 90), ["one", "__base__", "other"]
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :13], mask[2, :5] = 0, 0
    model = adapted()
    together = model(input_ids=ids[:, :50], attention_mask=mask[:, :50], adapter_names=names)
    after = model(
        input_ids=ids[:, 50:],
        attention_mask=mask[:, 50:],
        past_key_values=together.past_key_values,
        adapter_names=names,
    ).logits
    assert together.past_key_values.sinks.anchors != [0, 0, 0]
    for row, name in enumerate(names):
        alone = ids[row : row + 1, 13 * padded * (row == 0) + 5 * padded * (row == 2) :]
        expected = model(input_ids=alone, adapter_names=[name]).logits[0, -40:]
        torch.testing.assert_close(after[row], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("inside", [True, False])
def test_a_cache_that_was_copied_in_inference_mode_is_gone_on_from(inside):
    model = converted()
    cache = model.read(IDS)
    more = torch.cat([IDS, tokens(2, 5, seed=3)], dim=1)
    expected = model.generate(more, past_key_values=copy.deepcopy(cache), max_new_tokens=20, do_sample=False)
    with torch.inference_mode():
        copied = copy.deepcopy(cache)
    with torch.inference_mode(inside):
        assert torch.equal(model.generate(more, past_key_values=copied, max_new_tokens=20, do_sample=False), expected)
