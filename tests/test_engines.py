"""What `benchmarks.engines` holds engines against. The engines themselves run under `make engines`."""

import json

import gguf
import numpy as np
import torch

from benchmarks.engines.__main__ import page
from benchmarks.engines.bases import in_full
from benchmarks.harness.store import DIRECTORY


def test_a_base_in_full_is_the_same_model_with_rounded_weights(tmp_path):
    values = np.random.default_rng(0).normal(0, 0.1, (8, 64)).astype(np.float32)
    quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "qwen2")
    writer.add_block_count(3)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("output.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = gguf.GGUFReader(in_full(tmp_path / "small.gguf", tmp_path / "full.gguf", torch.bfloat16))
    assert reader.get_field("general.architecture").contents() == "qwen2"
    assert reader.get_field("qwen2.block_count").contents() == 3
    assert reader.get_field("tokenizer.ggml.tokens").contents() == ["a", "b"]
    (tensor,) = reader.tensors
    exact = torch.tensor(gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType.Q8_0))
    assert torch.equal(torch.tensor(np.array(tensor.data)), exact.bfloat16().float())


def test_the_table_of_engines_is_what_is_stored():
    stored = json.loads((DIRECTORY / "engines.json").read_text())
    assert "\n".join(page(stored)) in (DIRECTORY / "engines.md").read_text()
    for row in stored["rows"].values():
        assert row["prompts"] - len(row["differing"]) == row["equal"]
