"""A base is named by every value of its weights; what was made before, by a sample of them, still loads."""

import dataclasses
import json

import accelerate
import peft
import pytest
import torch
from converted import converted
from remembered import memory
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny, tokens

from ttt_retrofit import CheckpointError, InputError, Memory
from ttt_retrofit.streaming.cache import TTTCache
from ttt_retrofit.util import fingerprint as module
from ttt_retrofit.util.fingerprint import SAMPLED_VALUES, fingerprint, same_base

IDS = tokens(1, 20)


def changed_beyond_the_sample(model):
    """As it is, but for all values that the sample does not hold."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".ttt." not in name:
                weight.view(-1)[SAMPLED_VALUES:] *= 1.5
    return model


@pytest.mark.parametrize("place", [0, -1, 1000])
def test_one_value_of_any_weight_makes_another_base(place):
    before = fingerprint(tiny("llama"))
    for number, _ in enumerate(tiny("llama").parameters()):
        model = tiny("llama")
        weight = list(model.parameters())[number]
        with torch.no_grad():
            weight.view(-1)[place % weight.numel()] += 1e-3
        assert not same_base(fingerprint(model), before)


def test_values_that_change_places_make_another_base():
    model, before = tiny("llama"), fingerprint(tiny("llama"))
    with torch.no_grad():
        weight = model.model.layers[2].mlp.up_proj.weight
        weight.copy_(weight.flip(0))
    assert not same_base(fingerprint(model), before)


def test_a_change_in_place_is_noticed_and_nothing_is_read_twice(monkeypatch):
    model, read = tiny("llama"), []
    compute = module._checksum
    monkeypatch.setattr(module, "_checksum", lambda weight: read.append(weight) or compute(weight))
    before = fingerprint(model)
    assert len(read) == len(list(model.parameters())) and fingerprint(model) == before
    del read[:]
    with torch.no_grad():
        model.lm_head.weight[5, 5] += 1
    assert fingerprint(model) != before and len(read) == 1
    model.lm_head.weight = torch.nn.Parameter(torch.ones(97, 32))
    fingerprint(model)
    assert len(read) == 2


@pytest.mark.parametrize("size", [1, 31, 2**16, 2**16 + 1, 2**20 + 3])
def test_a_dtype_that_holds_the_same_values_makes_no_other_base(size):
    half = torch.nn.Linear(size, 1, bias=False).bfloat16()
    wide = torch.nn.Linear(size, 1, bias=False)
    wide.weight = torch.nn.Parameter(half.weight.detach().float())
    assert fingerprint(wide) == fingerprint(half)
    wide.weight.data[0, -1] *= 1 + 2**-20
    again = torch.nn.Linear(size, 1, bias=False)
    again.weight = wide.weight
    assert fingerprint(again) != fingerprint(half)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(target_modules=["down_proj"], modules_to_save=["lm_head"]),
        peft.LoraConfig(target_modules=["down_proj"], use_dora=True),
        peft.HRAConfig(target_modules=["up_proj"]),
        peft.OFTConfig(target_modules=["q_proj"], oft_block_size=16),
        peft.IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=lambda config: str(config.peft_type),
)
def test_an_adapter_makes_no_other_base(config):
    model = converted("llama", "lora")
    before = fingerprint(model)
    assert before == fingerprint(tiny("llama"))
    peft.get_peft_model(model, config)
    assert fingerprint(model) == before


def test_an_offloaded_base_is_the_same(tmp_path):
    before = fingerprint(tiny("llama"))
    assert same_base(fingerprint(accelerate.cpu_offload(tiny("llama"), "cpu")), before)
    assert same_base(fingerprint(accelerate.disk_offload(tiny("llama"), tmp_path, "cpu")), before)
    other = tiny("llama")
    with torch.no_grad():
        other.lm_head.weight[96, 31] += 1
    assert not same_base(fingerprint(accelerate.cpu_offload(other, "cpu")), before)


def test_a_base_of_which_all_but_the_sample_changed_refuses_memories_and_caches(tmp_path):
    model = converted()
    made, cache = memory(model, 1), model.read(IDS)
    cache.save(tmp_path / "cache")
    made.save(tmp_path / "memory")
    other = changed_beyond_the_sample(converted())
    with pytest.raises(CheckpointError, match="made for 'tiny'"):
        other.load_memory(tmp_path / "memory")
    with pytest.raises(CheckpointError, match="another base"):
        TTTCache.load(tmp_path / "cache", other)
    with pytest.raises(InputError, match="other weights"):
        other(IDS, past_key_values=cache)


def test_what_was_saved_with_a_sample_alone_still_loads(tmp_path):
    model = converted()
    sample = fingerprint(model).partition(".")[0]
    dataclasses.replace(memory(model, 1), base=sample).save(tmp_path / "memory")
    cache = model.read(IDS)
    cache.save(tmp_path / "new")
    with safe_open(tmp_path / "new", "pt") as file:
        header, tensors = json.loads(file.metadata()["ttt_cache"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "cache", metadata={"ttt_cache": json.dumps(header | {"base": sample})})
    fresh = converted()
    fresh.load_memory(tmp_path / "memory")
    fresh(tokens(1, 2), past_key_values=TTTCache.load(tmp_path / "cache", fresh))
    old, new = Memory.load(tmp_path / "memory"), memory(model, 2)
    assert Memory.combine([new, old]).names() == ["entry2", "entry1"]
    with torch.no_grad():
        fresh.get_input_embeddings().weight[0] += 1
    with pytest.raises(CheckpointError):
        fresh.load_memory(tmp_path / "memory")


def test_a_loaded_memory_goes_on_speaking_when_its_model_is_trained():
    model = converted()
    model.load_memory(memory(model, 1))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[9, 9] += 1e-3
    model.bind_ttt()  # nothing is kept ready
    model(IDS)
    with pytest.raises(CheckpointError):
        model.load_memory(memory(converted(), 1))
