"""What engines run: the base with its weights in full, so that only the engine differs, and a memory for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gguf
import torch
from transformers import PreTrainedModel

from ttt_retrofit import Memory, MemoryConfig
from ttt_retrofit.memory.lora import AdapterWeights, write_adapter
from ttt_retrofit.memory.projections import find_placement

from ..harness.loading import base_model

CHANGE = 0.05  # of a random memory's entry to a matrix, in norms of that matrix: enough to change answers
RANK = 8


def in_full(source: Path, target: Path, dtype: torch.dtype) -> Path:
    """A GGUF file with the same model in float32, its weights rounded to `dtype` as the checkpoint's are."""
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in (gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.FILE_TYPE):
            continue
        items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=items)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        writer.add_tensor(tensor.name, values.to(dtype).float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def random_memory(name: str, seeds: tuple[int, ...] = (1, 2)) -> Memory:
    """Of a model by name: an entry for each seed, which changes every projection of the upper half of its layers."""
    model = base_model(name, torch.float32)
    targets = MemoryConfig(rank=RANK, target_modules=("gate", "up", "down", "attention"))
    matrices = {
        place.path: model.get_submodule(place.path).weight for place in find_placement(model, targets).projections
    }
    made = []
    for seed in seeds:
        drawn = torch.Generator().manual_seed(seed)
        factors: AdapterWeights = {}
        for path, matrix in matrices.items():
            a = torch.randn(RANK, matrix.shape[1], generator=drawn) / matrix.shape[1] ** 0.5
            b = torch.randn(matrix.shape[0], RANK, generator=drawn) / (RANK * matrix.shape[0]) ** 0.5
            factors[path] = {"a": a, "b": CHANGE * matrix.detach().norm() * b}
        made.append(_of_factors(factors, model))
    return Memory.combine(made)


def _of_factors(factors: AdapterWeights, model: PreTrainedModel) -> Memory:
    with tempfile.TemporaryDirectory() as directory:
        write_adapter(factors, model.name_or_path, directory)
        return Memory.from_lora(directory, model)
