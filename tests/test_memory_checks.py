"""What is refused before it is loaded: edited headers, weights of other widths, banks half of which have gates."""

import dataclasses
import json

import pytest
import torch
from converted import TTT, converted
from peft import LoraConfig, get_peft_model
from remembered import memory
from safetensors.torch import load_file, save_file
from tiny import tiny

from ttt_retrofit import CheckpointError, ConfigError, Memory, wrap
from ttt_retrofit.memory.memory_file import HEADER, HEADER_DIGEST


def edit(directory, change, keep_digest: bool = True) -> None:
    """Change what a header says, as by hand."""
    header = json.loads((directory / HEADER).read_text())
    change(header)
    if not keep_digest:
        del header[HEADER_DIGEST]
    (directory / HEADER).write_text(json.dumps(header))


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["entries"][0].update(closed=-1.0),
        lambda header: header["entries"].pop(),
        lambda header: header["config"].update(gated=False),
        lambda header: header.update(layer="model.layers.0"),
        lambda header: header.update(base="0" * 64),
        lambda header: header["entries"][0]["sources"][0].update(text="something else"),
    ],
)
def test_an_edited_header_is_refused(tmp_path, change):
    memory(converted(), 1, 2).save(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(CheckpointError, match=f"altered or cut short: the sha256 of {HEADER}"):
        Memory.load(tmp_path)


def test_a_header_may_be_laid_out_anew_and_one_without_a_checksum_still_loads(tmp_path):
    made = memory(converted(), 1)
    made.save(tmp_path)
    for keep_digest in (True, False):
        edit(tmp_path, lambda header: header.update(sorted(header.items())), keep_digest)
        assert Memory.load(tmp_path).names() == made.names()


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(report="good"),
        lambda header: header.update(config={"rank": 0}),
        lambda header: header.update(tensors=""),
        lambda header: header["entries"][0].update(lessons=[["fact", 3]]),
        lambda header: header["entries"][0].update(lessons=[["fact", 3, 10**6, 2, False]]),
    ],
)
def test_a_header_of_another_shape_is_no_memory(tmp_path, change):
    memory(converted(), 1).save(tmp_path)
    edit(tmp_path, change, keep_digest=False)
    with pytest.raises(CheckpointError, match="cannot be read as a memory"):
        Memory.load(tmp_path)


def test_a_file_is_no_memory(tmp_path):
    (tmp_path / "memory.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"{HEADER} is missing"):
        Memory.load(tmp_path / "memory.safetensors")


def wider():
    """As `converted("llama")`, with wider MLPs."""
    return wrap(tiny("llama", intermediate_size=64), TTT)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "qwen3_moe"])
def test_a_memory_fits_the_model_it_was_made_for(family):
    model, layers = converted(family), (0, 3) if family == "qwen3_moe" else (1, 2)
    memory(model, 1, target_modules=("down", "attention"), layers=layers).check_fits(model)


def test_a_memory_still_fits_when_peft_has_put_adapters_around_the_projections():
    model = converted()
    made = memory(model, 1)
    get_peft_model(model, LoraConfig(r=2, target_modules=["down_proj"]))
    made.check_fits(model)


def test_a_memory_of_other_widths_does_not_fit():
    with pytest.raises(CheckpointError, match=r"for model\.layers\.1\.mlp\.gate_proj, which in .* is \(48, 32\)"):
        memory(wider(), 1).check_fits(converted())


def test_a_memory_of_other_places_does_not_fit():
    model = converted()
    with pytest.raises(CheckpointError, match=r"has its gates at transformer\.h\.1, which"):
        memory(converted("gpt2"), 1).check_fits(model)
    made = memory(model, 1)
    made.entries[0].weights["model.layers.1.mlp"] = made.entries[0].weights["model.layers.1.mlp.down_proj"]
    with pytest.raises(CheckpointError, match=r"for model\.layers\.1\.mlp, which in .* is no projection"):
        made.check_fits(model)


def test_a_gate_of_another_width_does_not_fit():
    model = converted()
    made = memory(model, 1)
    gate = dataclasses.replace(made.entries[0].gate, keys=torch.zeros(3, 5))
    with pytest.raises(CheckpointError, match="gate of entry 'entry1' is for hidden states of widths"):
        dataclasses.replace(made, entries=(dataclasses.replace(made.entries[0], gate=gate),)).check_fits(model)


def test_a_memory_goes_on_fitting_where_only_the_configuration_changed():
    model = converted()
    made = memory(model, 1)
    model.config.pad_token_id, model.config.something_new = 5, "in a later release"
    model.load_memory(made)


def test_an_adapter_of_other_widths_is_refused(tmp_path):
    memory(wider(), 1, gated=False).to_lora(tmp_path)
    with pytest.raises(CheckpointError, match="made for another model"):
        Memory.from_lora(tmp_path, converted())


def test_an_adapter_that_lacks_a_factor_is_refused(tmp_path):
    model, path = converted(), tmp_path / "adapter_model.safetensors"
    memory(model, 1, gated=False).to_lora(tmp_path)
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if name.endswith("lora_A.weight")))
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="expected two matrices"):
        Memory.from_lora(tmp_path, model)


def test_a_memory_with_gates_and_one_without_are_not_combined():
    model = converted()
    gated, ungated = memory(model, 1), memory(model, 2, gated=False)
    for pair in ([gated, ungated], [ungated, gated]):
        with pytest.raises(ConfigError, match="one bank has gates or has none"):
            Memory.combine(pair)
    assert Memory.combine([ungated, ungated]).names() == ["entry2", "entry2-2"]
