"""A converted checkpoint whose weights are not those that were saved is refused; one without a record loads."""

import random

import pytest
import torch
import transformers
from converted import converted

from ttt_retrofit import AutoModelForCausalLM, CheckpointError
from ttt_retrofit.model.weights_seal import SEAL


@pytest.fixture
def saved(tmp_path):
    converted("llama", "lora").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_no_flipped_bit_of_the_weights_goes_unnoticed(saved):
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    draw = random.Random(0)
    for load in (AutoModelForCausalLM, transformers.AutoModelForCausalLM):
        for _ in range(20):
            data = bytearray(whole)
            place = draw.randrange(len(data))
            data[place] ^= 1 << draw.randrange(8)
            weights.write_bytes(data)
            with pytest.raises(CheckpointError, match=r"was altered|damaged|holds|lacks"):
                load.from_pretrained(saved)
        weights.write_bytes(whole)
        load.from_pretrained(saved)


def test_a_missing_file_is_named_and_a_record_that_is_damaged_is_too(saved):
    record = (saved / SEAL).read_text()
    (saved / SEAL).write_text(record.replace("model.safetensors", "model-2.safetensors"))
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors is missing"):
        AutoModelForCausalLM.from_pretrained(saved)
    for text in ("{", "[]", '{"format": 2, "weights": {}}', '{"format": 1, "weights": {"model.safetensors": 1}}'):
        (saved / SEAL).write_text(text)
        with pytest.raises(CheckpointError, match=f"{SEAL} is damaged"):
            AutoModelForCausalLM.from_pretrained(saved)


def test_a_checkpoint_of_an_earlier_version_loads_and_so_do_weights_changed_on_purpose(saved):
    expected = AutoModelForCausalLM.from_pretrained(saved).state_dict()
    (saved / SEAL).unlink()
    found = AutoModelForCausalLM.from_pretrained(saved).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": 1}', '{"model_type": "ttt_retrofit", "vocab_size": {}}', "[" * 9999]
)
def test_a_config_that_describes_no_model_is_named(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        AutoModelForCausalLM.from_pretrained(saved)
