"""A model loaded from a GGUF file is dequantised while loading; it can be wrapped, and saved like any other."""

import gguf
import numpy as np
import pytest
import torch
import transformers
from converted import logits, ttt
from tiny import VOCABULARY, tokens

import ttt_retrofit
from ttt_retrofit import wrap

LAYERS, WIDTH, FEED_FORWARD = 2, 32, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama whose projections are stored in 8 bits."""
    path = tmp_path_factory.mktemp("gguf")
    writer = gguf.GGUFWriter(path / "tiny.gguf", "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCABULARY)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (VOCABULARY, WIDTH), "output": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= {f"{block}.attn_norm": (WIDTH,), f"{block}.ffn_norm": (WIDTH,)}
        shapes |= {f"{block}.attn_q": (WIDTH, WIDTH), f"{block}.attn_output": (WIDTH, WIDTH)}
        shapes |= {f"{block}.attn_k": (WIDTH // 2, WIDTH), f"{block}.attn_v": (WIDTH // 2, WIDTH)}
        shapes |= {f"{block}.ffn_gate": (FEED_FORWARD, WIDTH), f"{block}.ffn_up": (FEED_FORWARD, WIDTH)}
        shapes |= {f"{block}.ffn_down": (WIDTH, FEED_FORWARD)}
    for name, shape in shapes.items():
        values = random.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values + 1)
        else:
            quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"{name}.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf")


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
def test_a_model_from_gguf_is_wrapped_saved_and_reloaded(folder, tmp_path, kind):
    ids = tokens(2, 37)
    expected = logits(load(folder), ids)
    model = wrap(load(folder), ttt(kind))
    # Before the first update, within the window, it is the base.
    torch.testing.assert_close(logits(model, ids)[:, :8], expected[:, :8], rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again, ids), logits(model, ids))


def test_a_failed_wrap_leaves_the_quantizer_alone(folder):
    model = load(folder)
    quantizer = model.hf_quantizer
    with pytest.raises(ttt_retrofit.ConfigError):
        wrap(model, ttt(layers=[9]))
    assert model.hf_quantizer is quantizer


def test_the_drop_in_takes_a_gguf_file(folder):
    ids = tokens(1, 30)
    dropped_in = ttt_retrofit.AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", ttt_config=ttt())
    assert torch.equal(logits(dropped_in, ids), logits(wrap(load(folder), ttt()), ids))


def test_unwrapped_it_saves_as_a_plain_checkpoint(folder, tmp_path):
    plain = wrap(load(folder), ttt()).unwrap()
    plain.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is transformers.LlamaForCausalLM
    assert torch.equal(logits(again, tokens(1, 20)), logits(load(folder), tokens(1, 20)))
