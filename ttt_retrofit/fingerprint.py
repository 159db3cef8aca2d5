"""Names a base by its architecture and a sample of its weights, so that what was made for one is refused by another."""

from __future__ import annotations

import hashlib
import json

import torch
from transformers import PreTrainedModel

SAMPLED_TENSORS = 8
SAMPLED_VALUES = 64
# What changes from save to save, or does not change what the model computes.
INCIDENTAL = {
    "_name_or_path",
    "architectures",
    "auto_map",
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
    config = {key: value for key, value in model.config.to_dict().items() if key not in INCIDENTAL}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    named = [(name, weight) for name, weight in model.named_parameters() if ".ttt." not in name and "lora_" not in name]
    stride = max(1, len(named) // SAMPLED_TENSORS)
    for _, weight in named[::stride]:
        if weight.device.type == "meta":
            continue
        sample = weight.detach().flatten()[:SAMPLED_VALUES].to("cpu")
        digest.update(sample.to(torch.float32).numpy().tobytes())
    return digest.hexdigest()
