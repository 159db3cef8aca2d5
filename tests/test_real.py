"""What test-time training is for, on a real pretrained model (SmolLM2-135M) and a text no default was chosen on."""

from __future__ import annotations

import json

import pytest
import torch
from converted import in_fresh_process
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import measure
from benchmarks.models import model_directory
from benchmarks.texts import TEST, text
from ttt_retrofit import TTTConfig, wrap

pytestmark = pytest.mark.real

TEXT = "persuasion-excerpt"
TOKENS = 3072
CONFIG = TTTConfig(sliding_window=512, chunk_size=256)
SMALL = TTTConfig(sliding_window=128, chunk_size=64)


@pytest.fixture(scope="module")
def directory():
    return model_directory("smollm2-135m")


@pytest.fixture(scope="module")
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def base(directory):
    return AutoModelForCausalLM.from_pretrained(directory)


@pytest.fixture(scope="module")
def ids(tokenizer):
    assert TEXT in TEST
    return tokenizer(text(TEXT), return_tensors="pt").input_ids[:, :TOKENS]


def test_learning_while_reading_beats_the_same_window_and_sinks_and_sinks_beat_none(base, ids):
    model = wrap(base, CONFIG)
    readings = {}
    for name in measure.STREAMING:
        measure.configure(model, CONFIG, name)
        readings[name] = measure.streaming(model, ids)
    window, sinks, ttt = (readings[name] for name in (measure.WINDOW, measure.SINKS, measure.TTT))
    print({name: (reading.mean, *reading.by_quarter) for name, reading in readings.items()})
    assert ttt.mean < sinks.mean < window.mean
    assert ttt.by_quarter[3] < sinks.by_quarter[3] < window.by_quarter[3]


def test_reading_keeps_a_state_of_constant_size(base, ids):
    model = wrap(base, SMALL)
    cache = model.read(ids[:, :256])
    early = cache.nbytes
    cache = model.read(ids[:, 256:768], past_key_values=cache)
    assert cache.nbytes == early
    assert cache.tokens_seen.tolist() == [768]
    assert cache.loss_by_chunk.shape == (1, 768 // SMALL.chunk_size)


def test_without_steps_and_window_the_converted_model_writes_what_the_base_writes(base, ids, tokenizer):
    prompt = ids[:, :90]
    greedy = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 40, "do_sample": False}
    expected = tokenizer.decode(base.generate(prompt, **greedy)[0])
    model = wrap(base, TTTConfig(sliding_window=None, chunk_size=64, inner_lr=0.0))
    assert tokenizer.decode(model.generate(prompt, **greedy)[0]) == expected
    model.unwrap()
    assert tokenizer.decode(base.generate(prompt, **greedy)[0]) == expected


GO_ON = """
import json, sys, torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM
from ttt_retrofit import TTTCache, TTTConfig, wrap
directory, config, state, ids = sys.argv[1], *map(json.loads, sys.argv[2:])
model = wrap(AutoModelForCausalLM.from_pretrained(directory), TTTConfig.from_dict(config))
cache, ids = TTTCache.load(state, model), torch.tensor(ids)
mask = torch.ones_like(ids)
out = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=24, do_sample=False)
print(json.dumps(out[0, ids.shape[1]:].tolist()))
"""


def test_a_conversation_saved_in_one_process_goes_on_alike_in_another(base, directory, tokenizer, tmp_path):
    model = wrap(base, SMALL)
    turns = [{"role": "user", "content": text(TEXT)[:1500] + "\n\nWho is this about?"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    assert ids.shape[1] > 2 * SMALL.sliding_window
    cache = model.read(ids[:, :-1])
    cache.save(tmp_path / "state.safetensors")
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=24, do_sample=False)
    here = out[0, ids.shape[1] :].tolist()
    arguments = (json.dumps(SMALL.to_dict()), json.dumps(str(tmp_path / "state.safetensors")), json.dumps(ids.tolist()))
    assert in_fresh_process(GO_ON, directory, *arguments) == here
    assert cache.fast.sites, "no chunk was learned from"
