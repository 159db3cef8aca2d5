"""Names a base by its architecture and a sample of its weights, so that what was made for one is refused by another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from transformers import PreTrainedModel

SAMPLED_TENSORS = 8
SAMPLED_VALUES = 64
# What changes from save to save, or does not change what the model computes.
INCIDENTAL = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "base_model_name_or_path",
    "base_model_type",
    "dtype",
    "model_type",
    "torch_dtype",
    "transformers_version",
    "ttt",
    "use_cache",
    "quantization_config",
}


def fingerprint(model: PreTrainedModel) -> str:
    """Hexadecimal sha256 of the configuration's architecture and of a few values of a few weights."""
    architecture = _essential(model.config.to_dict())
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True, default=str).encode())
    named = [(name, weight) for name, weight in model.named_parameters() if ".ttt." not in name and "lora_" not in name]
    stride = max(1, len(named) // SAMPLED_TENSORS)
    for _, weight in named[::stride]:
        if weight.device.type == "meta":
            continue
        sample = weight.detach().flatten()[:SAMPLED_VALUES].to("cpu")
        digest.update(sample.to(torch.float32).numpy().tobytes())
    return digest.hexdigest()


def _essential(config: dict[str, Any]) -> dict[str, Any]:
    # Configurations of multimodal models hold others.
    return {
        key: _essential(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in INCIDENTAL
    }
