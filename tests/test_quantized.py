"""bitsandbytes bases, on the CPU: fast weights beside 4- and 8-bit projections, in full precision."""

import copy

import bitsandbytes as bnb
import pytest
import torch
import transformers
from consolidated import consolidate
from converted import in_fresh_process, logits, perturb, ttt
from safetensors.torch import save_file
from tiny import tiny, tokens
from transformers import BitsAndBytesConfig

import ttt_retrofit
from ttt_retrofit import MemoryConfig, wrap

FOUR = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
EIGHT = BitsAndBytesConfig(load_in_8bit=True)
LAYERS = {4: bnb.nn.Linear4bit, 8: bnb.nn.Linear8bitLt}
BOTH = pytest.mark.parametrize("bits, quantization", [(4, FOUR), (8, EIGHT)])
KINDS = pytest.mark.parametrize("kind", ["delta", "lora", "prime", "subspace"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    # bitsandbytes quantizes blocks of 64 values.
    tiny("llama", hidden_size=64, intermediate_size=128).save_pretrained(folder)
    return folder


def quantized(base, quantization, kind, **changes):
    return ttt_retrofit.AutoModelForCausalLM.from_pretrained(
        base, ttt_config=ttt(kind, **changes), quantization_config=quantization, dtype=torch.float32
    )


def load_plain(base, quantization):
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(base, quantization_config=quantization, dtype=torch.float32)


@pytest.mark.slow
@BOTH
@KINDS
def test_the_base_is_quantized_and_the_fast_weights_are_not(base, bits, quantization, kind):
    model = quantized(base, quantization, kind)
    assert all(type(layer.mlp.down_proj) is LAYERS[bits] for layer in model.model.layers)
    ours = {name: tensor for name, tensor in model.named_parameters() if ".ttt." in name}
    assert ours and all(type(t) is torch.nn.Parameter and t.dtype == torch.float32 for t in ours.values())
    fast = model.read(tokens(2, 24)).fast.tensors()
    assert all(t.dtype == torch.float32 for t in fast.values() if t.is_floating_point())


@pytest.mark.slow
@BOTH
@KINDS
def test_fast_weights_change_the_logits_of_a_quantized_base(base, bits, quantization, kind):
    model = quantized(base, quantization, kind)
    ids = tokens(2, 37)
    learned, out = logits(model, ids), model(ids, learn_from="none")
    assert torch.equal(learned[:, :8], out.logits[:, :8])  # nothing was learned before the first chunk's end
    assert (learned[:, 8:] - out.logits[:, 8:]).abs().max() > 1e-2
    # Within the window nothing else differs from the base. Its 4-bit form has a faster, rougher kernel on some CPUs.
    plain = load_plain(base, quantization)
    plain = plain.dequantize() if bits == 4 else plain
    torch.testing.assert_close(out.logits[:, :16], logits(plain, ids)[:, :16], rtol=0, atol=1e-4)


@KINDS
@pytest.mark.parametrize("used_before", [False, True])
def test_a_4_bit_base_learns_as_its_dequantized_twin(base, kind, used_before):
    """On some CPUs bitsandbytes runs a kernel without a backward pass, once a layer was used for inference."""
    plain = load_plain(base, FOUR)
    ids = tokens(2, 37)
    if used_before:
        logits(plain, ids)
    quantized_model = wrap(plain, ttt(kind))
    dense = wrap(copy.deepcopy(quantized_model).unwrap().dequantize(), ttt(kind))
    torch.testing.assert_close(logits(quantized_model, ids), logits(dense, ids), rtol=0, atol=1e-4)


@BOTH
@KINDS
def test_a_quantized_instance_is_wrapped_as_while_loading(base, bits, quantization, kind):
    wrapped, loaded = wrap(load_plain(base, quantization), ttt(kind)), quantized(base, quantization, kind)
    ids = tokens(2, 37)
    assert torch.equal(logits(wrapped, ids), logits(loaded, ids))


@BOTH
def test_the_norm_of_a_quantized_projection_is_measured(base, bits, quantization):
    dense = wrap(base, ttt("delta"), dtype=torch.float32)
    model = quantized(base, quantization, "delta")
    for (name, here), (_, there) in zip(model.named_buffers(), dense.named_buffers()):
        if name.endswith("base_norm"):
            assert here / there == pytest.approx(1, abs=0.03)


@BOTH
def test_a_quantized_base_generates(base, bits, quantization):
    out = quantized(base, quantization, "delta").generate(
        tokens(2, 21), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    assert out.shape == (2, 33)


RELOAD = """
import json, sys, torch, transformers, ttt_retrofit
from safetensors.torch import load_file
report = []
for folder in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    expected = load_file(folder + "/expected.st")
    with torch.no_grad():
        difference = (model(expected["ids"]).logits - expected["logits"]).abs().max().item()
    report.append([type(model.model.layers[0].mlp.down_proj).__name__, difference])
print(json.dumps(report))
"""


@pytest.mark.slow
def test_quantized_checkpoints_reload_exactly_in_a_fresh_process(base, tmp_path):
    ids, folders, expected = tokens(2, 37), [], []
    for bits, quantization in ((4, FOUR), (8, EIGHT)):
        for kind in ("delta", "lora", "prime"):
            model = perturb(quantized(base, quantization, kind))
            folders.append(tmp_path / f"{bits}-{kind}")
            model.save_pretrained(folders[-1])
            save_file({"ids": ids, "logits": logits(model, ids)}, folders[-1] / "expected.st")
            expected.append([LAYERS[bits].__name__, 0.0])
    assert in_fresh_process(RELOAD, *folders) == expected


def test_bfloat16_compute_reads(base):
    compute = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = ttt_retrofit.AutoModelForCausalLM.from_pretrained(
        base, ttt_config=ttt("lora"), quantization_config=compute, dtype=torch.bfloat16
    )
    out = model(tokens(2, 37))
    assert out.logits.dtype == torch.bfloat16 and out.past_key_values.loss_by_chunk.isfinite().all()
    assert all(p.dtype == torch.float32 for name, p in model.named_parameters() if ".ttt." in name)


def test_only_ttt_parameters_train_on_a_quantized_base(base):
    model = quantized(base, FOUR, "lora").train()
    ids = tokens(2, 37)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        if name.endswith(("start_a", "start_b")):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0


@pytest.mark.slow
@BOTH
def test_a_quantized_base_can_remember(tmp_path, base, bits, quantization):
    model = ttt_retrofit.AutoModelForCausalLM.from_pretrained(
        base, ttt_config=ttt(chunk_size=8, sliding_window=64), quantization_config=quantization, dtype=torch.float32
    )
    ids = tokens(1, 20)
    before = model(ids).logits
    memory = consolidate(model, directory=tmp_path / "work", memory=MemoryConfig(rank=2, layers=(2, 3)))
    assert memory.report.steps == 3
    assert torch.equal(model(ids, memories=[None]).logits, before)
