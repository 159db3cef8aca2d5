"""Models spread over devices: converted while loading they read as any other; wrapped afterwards they are refused."""

import accelerate
import pytest
import torch
import transformers
from converted import TTT, converted, logits, ttt
from tiny import tiny, tokens

import ttt_retrofit
from ttt_retrofit import UnsupportedModelError, wrap

SPREAD = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.layers.3": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}
KINDS = ("delta", "lora", "prime")


def reads_alike(spread, whole) -> None:
    ids = tokens(2, 37)
    torch.testing.assert_close(logits(spread, ids), logits(whole, ids), rtol=0, atol=1e-5)
    caches = [model.read(ids) for model in (spread, whole)]
    assert caches[0].loss_by_chunk.shape == (2, 4)
    torch.testing.assert_close(caches[0].loss_by_chunk, caches[1].loss_by_chunk)
    prompt = tokens(1, 11)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    assert torch.equal(spread.generate(prompt, **options), whole.generate(prompt, **options))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny("llama").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_is_converted_onto_one_device(base, kind):
    model = ttt_retrofit.AutoModelForCausalLM.from_pretrained(base, ttt_config=ttt(kind), device_map={"": "cpu"})
    reads_alike(model, wrap(tiny("llama"), ttt(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_is_converted_over_cpu_and_disk(base, tmp_path, kind):
    model = ttt_retrofit.AutoModelForCausalLM.from_pretrained(
        base, ttt_config=ttt(kind), device_map=SPREAD, offload_folder=tmp_path
    )
    assert model.get_submodule("model.layers.3.mlp.down_proj").weight.is_meta
    assert not any(p.is_meta for name, p in model.state_dict().items() if ".ttt." in name)
    reads_alike(model, wrap(tiny("llama"), ttt(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_checkpoint_is_spread_over_cpu_and_disk(tmp_path, kind):
    whole = converted("llama", kind)
    whole.save_pretrained(tmp_path / "saved")
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(tmp_path / "saved", device_map=SPREAD, offload_folder=tmp_path / "offload")
    reads_alike(model, whole)


def test_what_is_spread_saves_and_comes_back_whole(base, tmp_path):
    spread = ttt_retrofit.AutoModelForCausalLM.from_pretrained(
        base, ttt_config=ttt("lora"), device_map=SPREAD, offload_folder=tmp_path / "offload"
    )
    spread.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = tokens(1, 30)
    assert torch.equal(logits(again, ids), logits(wrap(tiny("llama"), ttt("lora")), ids))


def refused_untouched(model) -> None:
    forward, keys, cls = model.forward, list(model.state_dict()), type(model)
    before = logits(model, tokens(1, 20))
    with pytest.raises(UnsupportedModelError, match=r"dispatched already.*from_pretrained\(name, ttt_config"):
        wrap(model, TTT)
    assert type(model) is cls and model.forward == forward and list(model.state_dict()) == keys
    assert not hasattr(model.config, "ttt") and torch.equal(logits(model, tokens(1, 20)), before)


def test_a_model_that_accelerate_dispatched_is_refused_untouched(tmp_path):
    refused_untouched(accelerate.dispatch_model(tiny("llama"), SPREAD, main_device="cpu", offload_dir=tmp_path))


def test_a_model_that_was_loaded_over_devices_is_refused_untouched(base, tmp_path):
    load = transformers.AutoModelForCausalLM.from_pretrained
    refused_untouched(load(base, device_map=SPREAD, offload_folder=tmp_path))


def test_a_model_that_was_loaded_onto_one_device_is_wrapped(base):
    model = wrap(transformers.AutoModelForCausalLM.from_pretrained(base, device_map={"": "cpu"}), TTT)
    reads_alike(model, wrap(tiny("llama"), TTT))
