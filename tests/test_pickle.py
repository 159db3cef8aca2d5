"""Converted models are copied and pickled like any other, and a copy shares nothing with its original."""

import copy
import pickle

import pytest
import torch
from converted import converted, in_fresh_process, logits
from safetensors.torch import save_file
from tiny import tokens

IDS = tokens(2, 37)
CASES = pytest.mark.parametrize(
    "family, kind", [("llama", "delta"), ("gpt2", "lora"), ("llama", "prime"), ("gemma3", "lora")]
)


@CASES
def test_a_copy_computes_the_same_and_is_its_own(family, kind):
    model = converted(family, kind)
    expected = logits(model, IDS)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert type(twin) is type(model) and torch.equal(logits(twin, IDS), expected)
    assert twin.unwrap() is twin


@CASES
def test_a_pickle_computes_the_same(family, kind):
    model = converted(family, kind)
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model) and torch.equal(logits(again, IDS), logits(model, IDS))


LOAD = """
import json, pickle, sys
from safetensors.torch import load_file
expected = load_file(sys.argv[2])
report = []
for name in sys.argv[3:]:
    import torch
    with open(f"{sys.argv[1]}/{name}", "rb") as file:
        model = pickle.load(file)
    with torch.no_grad():
        report.append([type(model).__qualname__, (model(expected["ids"]).logits - expected[name]).abs().max().item()])
print(json.dumps(report))
"""


def test_a_pickle_is_read_in_a_fresh_process(tmp_path):
    expected = {"ids": IDS}
    for family in ("llama", "gpt2"):
        model = converted(family, "lora")
        expected[family] = logits(model, IDS)
        (tmp_path / family).write_bytes(pickle.dumps(model))
    save_file(expected, tmp_path / "expected")
    report = in_fresh_process(LOAD, tmp_path, tmp_path / "expected", "llama", "gpt2")
    assert report == [["TTTLlamaForCausalLM", 0.0], ["TTTGPT2LMHeadModel", 0.0]]


def test_a_cache_is_copied_with_its_fast_weights():
    model = converted()
    cache = model.read(IDS)
    twin = copy.deepcopy(cache)
    more = tokens(2, 9, seed=1)
    with torch.no_grad():
        first = model(more, past_key_values=cache).logits
        assert torch.equal(model(more, past_key_values=twin).logits, first)
