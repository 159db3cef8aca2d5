"""LoRA on top of a converted model trains, saves and loads; the fast weights go on working beneath it."""

import copy

import pytest
import torch
import transformers
from converted import TTT, converted, in_fresh_process, logits, ttt
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    inject_adapter_in_model,
    prepare_model_for_kbit_training,
)
from tiny import tiny, tokens
from transformers import BitsAndBytesConfig

import ttt_retrofit
from ttt_retrofit import CheckpointError, UnsupportedModelError, wrap

IDS = tokens(2, 37)
KINDS = pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
EVERYWHERE = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": TaskType.CAUSAL_LM}


def adapted(kind: str, **changes):
    torch.manual_seed(0)
    return get_peft_model(converted("llama", kind), LoraConfig(**{**EVERYWHERE, **changes}))


def train_a_step(model, lr: float = 0.05) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr)
    model.train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    model.eval()


@KINDS
def test_an_untrained_adapter_changes_nothing(kind):
    torch.testing.assert_close(logits(adapted(kind), IDS), logits(converted("llama", kind), IDS), rtol=0, atol=2e-3)


@KINDS
def test_a_trained_adapter_loads_onto_a_fresh_converted_model(kind, tmp_path):
    model = adapted(kind)
    before = logits(model, IDS)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    train_a_step(model)
    trained = logits(model, IDS)
    assert (trained - before).abs().max() > 1e-2
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    model.save_pretrained(tmp_path)
    fresh = PeftModel.from_pretrained(converted("llama", kind), tmp_path).eval()
    assert torch.equal(logits(fresh, IDS), trained)


@KINDS
def test_fast_weights_work_beneath_an_adapter(kind):
    model = adapted(kind)
    train_a_step(model)
    with torch.no_grad():
        frozen = model(IDS, learn_from="none").logits
        out = model(IDS)
    assert (out.logits[:, 8:] - frozen[:, 8:]).abs().max() > 1e-2
    torch.testing.assert_close(out.logits[:, :8], frozen[:, :8], rtol=0, atol=1e-5)
    # The hook sits inside the adapted projection; merging the adapter into it must not change what is learned.
    merged = model.merge_and_unload()
    assert isinstance(merged, ttt_retrofit.model.modeling.TTTMixin)
    torch.testing.assert_close(logits(merged, IDS), out.logits, rtol=0, atol=2e-3)


def test_all_linear_leaves_the_ttt_parameters_alone():
    model = adapted("lora", target_modules="all-linear")
    assert not [name for name, _ in model.named_parameters() if ".ttt." in name and "lora_A" in name]
    train_a_step(model)


@KINDS
def test_ttt_parameters_train_and_save_as_modules_to_save(kind, tmp_path):
    model = adapted(kind, modules_to_save=["ttt"])
    before = logits(model, IDS)
    ours = {name: p.clone() for name, p in model.named_parameters() if ".ttt." in name and p.requires_grad}
    assert ours
    train_a_step(model)
    moved = {name for name, p in model.named_parameters() if name in ours and not torch.equal(p, ours[name])}
    assert any(name.endswith("log_lr") for name in moved)
    for part in model.base_model.model.kind.learned_start:
        assert any(name.endswith(f"start_{part}") for name in moved)
    trained = logits(model, IDS)
    assert (trained - before).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    fresh = PeftModel.from_pretrained(converted("llama", kind), tmp_path).eval()
    assert torch.equal(logits(fresh, IDS), trained)
    merged = fresh.merge_and_unload()
    torch.testing.assert_close(logits(merged, IDS), trained, rtol=0, atol=2e-3)
    assert not [name for name, _ in merged.named_parameters() if "modules_to_save" in name]


def test_an_adapted_model_generates_and_reads():
    model = adapted("delta")
    out = model.generate(IDS, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert out.shape == (2, 49)
    assert model.read(IDS).loss_by_chunk.shape == (2, 4)


@torch.no_grad()
def test_a_conversation_hears_of_an_adapter_that_is_merged_or_trained_meanwhile():
    model, ids = adapted("delta", init_lora_weights=False), tokens(1, 20)
    projection = model.base_model.model.model.layers[0].mlp.down_proj.base_layer
    cache = model(ids).past_key_values
    for change in (
        model.merge_adapter,
        model.unmerge_adapter,
        model.merge_and_unload,
        lambda: projection.weight.mul_(2),
    ):
        model(ids[:, :1], past_key_values=cache)
        change()
        fresh = copy.deepcopy(cache)
        fresh.fast = fresh.fast.detach()  # which keeps nothing that was prepared
        found, expected = (model(ids[:, :1], past_key_values=talk).logits for talk in (cache, fresh))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_an_adapter_trains_under_gradient_checkpointing():
    plain, checkpointed = adapted("delta"), adapted("delta")
    checkpointed.gradient_checkpointing_enable()
    for model in (plain, checkpointed):
        model.train()
        model(input_ids=IDS, labels=IDS).loss.backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), checkpointed.named_parameters()):
        if a.requires_grad:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_an_adapter_trains_on_a_4_bit_base(tmp_path):
    tiny("llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "base")
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    load = ttt_retrofit.AutoModelForCausalLM.from_pretrained

    def fresh():
        return load(tmp_path / "base", ttt_config=ttt("lora"), quantization_config=four, dtype=torch.float32)

    torch.manual_seed(0)
    model = get_peft_model(prepare_model_for_kbit_training(fresh()), LoraConfig(**EVERYWHERE))
    before = logits(model.eval(), IDS)
    train_a_step(model)
    trained = logits(model, IDS)
    assert (trained - before).abs().max() > 1e-2
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(fresh(), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(again, IDS), trained, rtol=0, atol=2e-3)


LOAD = """
import json, sys, torch, transformers, ttt_retrofit
from safetensors.torch import load_file
expected = load_file(sys.argv[2])
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
with torch.no_grad():
    difference = (model(expected["ids"]).logits - expected["logits"]).abs().max().item()
print(json.dumps([type(model).__qualname__, difference]))
"""


@pytest.mark.slow
def test_an_adapter_directory_loads_its_converted_base(tmp_path):
    from safetensors.torch import save_file

    converted("llama", "lora").save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(**EVERYWHERE))
    train_a_step(model)
    model.save_pretrained(tmp_path / "adapter")
    save_file({"ids": IDS, "logits": logits(model, IDS)}, tmp_path / "expected")
    name, difference = in_fresh_process(LOAD, tmp_path / "adapter", tmp_path / "expected")
    assert name == "TTTLlamaForCausalLM" and difference < 2e-3


def test_adapters_added_through_transformers_are_saved_as_adapters(tmp_path):
    model = converted("llama", "lora")
    model.add_adapter(LoraConfig(**EVERYWHERE))
    train_a_step(model)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not (tmp_path / "config.json").exists() and not (tmp_path / "modeling_ttt_retrofit.py").exists()
    with pytest.raises(CheckpointError, match=r"a PEFT adapter and no model.*PeftModel\.from_pretrained"):
        ttt_retrofit.AutoModelForCausalLM.from_pretrained(tmp_path)
    fresh = converted("llama", "lora")
    fresh.load_adapter(tmp_path)
    torch.testing.assert_close(logits(fresh, IDS), logits(model, IDS), rtol=0, atol=2e-3)


def test_a_peft_model_is_refused():
    model = get_peft_model(tiny("llama"), LoraConfig(**EVERYWHERE))
    keys = list(model.state_dict())
    with pytest.raises(UnsupportedModelError, match=r"PeftModelForCausalLM.*Wrap the base first"):
        wrap(model, TTT)
    assert list(model.state_dict()) == keys


def test_injected_adapters_are_refused():
    for model in (
        inject_adapter_in_model(LoraConfig(**EVERYWHERE), tiny("llama")),
        get_peft_model(tiny("llama"), LoraConfig(**EVERYWHERE)).base_model.model,
    ):
        keys = list(model.state_dict())
        with pytest.raises(UnsupportedModelError, match=r"PEFT adapters, such as model\.layers\.0.*wrap"):
            wrap(model, TTT)
        assert type(model) is transformers.LlamaForCausalLM and list(model.state_dict()) == keys
    native = tiny("llama")
    native.add_adapter(LoraConfig(**EVERYWHERE))
    with pytest.raises(UnsupportedModelError, match=r"PEFT adapters"):
        wrap(native, TTT)


def test_a_merged_adapter_may_be_wrapped():
    model = get_peft_model(tiny("llama"), LoraConfig(**EVERYWHERE))
    train_a_step(model)
    merged = model.merge_and_unload()
    plain = logits(copy.deepcopy(merged), IDS)
    torch.testing.assert_close(logits(wrap(merged, TTT), IDS)[:, :8], plain[:, :8], rtol=0, atol=1e-5)


def test_unwrapping_beneath_an_adapter_leaves_the_adapter():
    model = adapted("lora", modules_to_save=["ttt"])
    train_a_step(model)
    model.base_model.model.unwrap()
    assert type(model.base_model.model) is transformers.LlamaForCausalLM
    plain = get_peft_model(tiny("llama"), LoraConfig(**EVERYWHERE))
    adapter = {name: p for name, p in model.state_dict().items() if "lora_" in name}
    plain.load_state_dict(adapter, strict=False)
    assert adapter and torch.equal(logits(model, IDS), logits(plain.eval(), IDS))


def test_a_copy_for_the_adapter_does_not_copy_projections():
    model = adapted("delta", modules_to_save=["ttt"])
    linears = {id(module) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    sites = model.base_model.model.sites
    assert sites and all(id(site._hooked.module) in linears for site in sites)
