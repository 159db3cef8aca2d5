"""Low-rank weights as a GGUF adapter, for llama.cpp and Ollama.

The layout is what llama.cpp's `convert_lora_to_gguf.py` writes; names of tensors are those of the package `gguf`.
R rank, I in features, O out features.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor
from transformers import AutoConfig

from ..errors import CheckpointError, ConfigError, MissingExtraError
from ..util.files import private_directory, write_atomically
from .lora import AdapterWeights

# llama.cpp's names of architectures, where they are not the model type.
RENAMED = {
    "cohere": "command-r", "gemma3_text": "gemma3", "gpt_neox": "gptneox", "hunyuan_v1_dense": "hunyuan-dense",
    "iquestcoder": "llama", "mistral": "llama", "olmo3": "olmo2", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
}  # fmt: skip
# What llama.cpp's converter does to the rows of q and k: it puts the two halves that are rotated together side by side,
# or leaves them. In other architectures it does something else to attention, or nobody has looked.
PAIRED = {"llama", "arcee", "granite", "smollm3"}
UNCHANGED = {
    "cohere2", "gemma2", "gemma3", "gpt2", "nemotron", "olmo2", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe",
    "seed_oss", "starcoder2",
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """What an adapter must know of its base."""

    architecture: str  # llama.cpp's name: "llama", "qwen2", …
    layers: int
    heads: int
    kv_heads: int
    name: str  # what `FROM` of a Modelfile says, where there is no file
    file: Path | None = None
    shapes: dict[str, tuple[int, ...]] | None = None  # (I, O) of the file's tensors


def read_base(file: str | os.PathLike[str] | None, name: str) -> Base:
    """The base that a GGUF file holds; without one, that the configuration of `name` describes.

    Raises
    ------
    CheckpointError
        When the file is missing or no GGUF.
    ConfigError
        Without a file, when `name` leads to no configuration.
    """
    if file is not None:
        return _of_file(Path(file), name)
    try:
        config = AutoConfig.from_pretrained(name).get_text_config(decoder=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"to_gguf(): no configuration of the base {name!r} is found, which tells its architecture. Give its own "
            "GGUF file: to_gguf(file, base=...)."
        ) from error
    heads = config.num_attention_heads
    kv_heads = config.to_dict().get("num_key_value_heads") or heads
    return Base(RENAMED.get(config.model_type, config.model_type), config.num_hidden_layers, heads, kv_heads, name)


def _of_file(file: Path, name: str) -> Base:
    gguf = _package()
    try:
        reader = gguf.GGUFReader(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no GGUF file that can be read: {error}") from error

    def field(key: str) -> Any:
        found = reader.get_field(key)
        return None if found is None else found.contents()

    architecture = str(field("general.architecture"))
    layers = field(f"{architecture}.block_count")
    if layers is None:
        raise CheckpointError(f"{file} says nothing of {architecture}.block_count. Expected the GGUF file of a model.")
    heads = field(f"{architecture}.attention.head_count")
    kv_heads = field(f"{architecture}.attention.head_count_kv") or heads
    shapes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors}
    return Base(architecture, layers, heads, kv_heads, name, file, shapes)


def write_gguf(factors: AdapterWeights, base: Base, file: str | os.PathLike[str]) -> None:
    """Write the adapter, and a `Modelfile` for Ollama beside it.

    Parameters
    ----------
    factors : all of one rank, see `lora.merged`.
    """
    gguf, target = _package(), Path(file)
    named = _named(factors, base)
    rank = next(iter(factors.values()))["a"].shape[0]
    with tempfile.TemporaryDirectory() as directory:
        unfinished = Path(directory) / "adapter.gguf"
        writer = gguf.GGUFWriter(unfinished, base.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))  # is divided by the rank: terms count once
        for name, weights in named.items():
            for factor, tensor in weights.items():
                writer.add_tensor(f"{name}.lora_{factor}", tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        private_directory(target.parent)
        write_atomically(target, unfinished.read_bytes())
    write_atomically(target.with_name("Modelfile"), _modelfile(target, base).encode())


def _named(factors: AdapterWeights, base: Base) -> AdapterWeights:
    """The factors by name of llama.cpp's tensor, in the order of its rows."""
    gguf = _package()
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if base.architecture not in numbers:
        raise ConfigError(
            f"to_gguf(): llama.cpp has no architecture {base.architecture!r} that the installed package gguf knows. "
            "Give the base's own GGUF file, base=..., or export with to_lora()."
        )
    names = gguf.get_tensor_name_map(numbers[base.architecture], base.layers)
    # A model that sees as well keeps its decoder under a name of its own; llama.cpp has the decoder alone.
    found = {path: names.get_name(path.replace("language_model.", "", 1)) for path in factors}
    missing = [path for path, name in found.items() if name is None]
    if missing:
        raise ConfigError(
            f"to_gguf(): {missing[:3]} have no tensor of their own in llama.cpp's {base.architecture!r}. Make the "
            "memory with MemoryConfig(target_modules=...) without them, or export with to_lora()."
        )
    changed = [path for path, name in found.items() if ".attn_" in name]
    if changed and base.architecture not in PAIRED | UNCHANGED:
        raise ConfigError(
            f"to_gguf(): how llama.cpp lays out attention in {base.architecture!r} is not known here ({changed[:3]}). "
            f"It is for {sorted(PAIRED | UNCHANGED)}. Make the memory of the MLPs' projections, or export with "
            "to_lora()."
        )
    named: AdapterWeights = {}
    for path, weights in factors.items():
        name, a, b = f"{found[path]}.weight", weights["a"], weights["b"]
        shape = (a.shape[1], b.shape[0])
        if base.shapes is not None and base.shapes.get(name) != shape:
            raise CheckpointError(
                f"{base.file} holds {name} of shape {base.shapes.get(name)}, and the memory is for {path} of shape "
                f"{shape} (in, out). It is the file of another model than {base.name!r}: give that one."
            )
        heads = {"attn_q": base.heads, "attn_k": base.kv_heads}.get(name.split(".")[-2])
        named[name] = {"a": a, "b": paired(b, heads) if heads and base.architecture in PAIRED else b}
    return named


def paired(b: Tensor, heads: int) -> Tensor:
    """Rows of every head whose features are rotated together, from halves apart to side by side. b: (O, R)."""
    return b.view(heads, 2, -1, b.shape[1]).transpose(1, 2).reshape(b.shape)


def _modelfile(adapter: Path, base: Base) -> str:
    lines = [f"# ollama create NAME -f Modelfile; a memory of {base.name}"]
    if base.file is None:
        lines += ["# Put the base's GGUF file here, or its name in Ollama."]
    source = base.name if base.file is None else _beside(base.file, adapter.parent)
    return "\n".join([*lines, f"FROM {source}", f"ADAPTER {_beside(adapter, adapter.parent)}", ""])


def _beside(file: Path, directory: Path) -> str:
    """A path from the Modelfile's directory, which Ollama tells from a name by its first dot."""
    relative = os.path.relpath(file.resolve(), directory.resolve())
    return relative if relative.startswith("..") else f"./{relative}"


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("to_gguf()", "gguf", "gguf") from error
    return gguf
