"""Names a base by the shapes of its weights and a sample of them, so that what was made for one is refused by another.

The configuration does not count: it also holds what changes nothing that is computed, such as a padding token, and
gains entries with every release of transformers.
"""

from __future__ import annotations

import hashlib

from transformers import PreTrainedModel

SAMPLED_TENSORS = 8
SAMPLED_VALUES = 64


def fingerprint(model: PreTrainedModel) -> str:
    """Hexadecimal sha256 of the shapes of all weights and of a few values of a few; without fast weights and LoRA."""
    weights = [weight for name, weight in model.named_parameters() if ".ttt." not in name and "lora_" not in name]
    digest = hashlib.sha256(str([tuple(weight.shape) for weight in weights]).encode())
    stride = max(1, len(weights) // SAMPLED_TENSORS)
    for weight in weights[::stride]:
        if weight.device.type == "meta":
            continue
        sample = weight.detach().flatten()[:SAMPLED_VALUES].to("cpu")
        digest.update(sample.float().numpy().tobytes())
    return digest.hexdigest()
