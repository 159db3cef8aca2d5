"""Low-rank weights as a standard PEFT adapter, and back.

R rank, I in features, O out features.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import pad

from ..config import is_number
from ..errors import CheckpointError, ConfigError
from ..util.files import check_regular, parsed, private_directory, read_regular, write_atomically

AdapterWeights = dict[str, dict[str, Tensor]]  # by projection: {"a": (R, I), "b": (O, R)}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
KEY = re.compile(re.escape(PREFIX) + r"(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")


def merged(entries: Sequence[AdapterWeights], rank: int) -> tuple[AdapterWeights, dict[str, float]]:
    """One entry that adds what all of them add together, cut to a rank that all its projections share.

    Parameters
    ----------
    entries : the weights of every entry, by projection; at least one.
    rank : largest rank. Of a sum of larger rank the largest singular values are kept.

    Returns
    -------
    The factors, {"a": (R, I), "b": (O, R)} in float32 with one R for all projections, those of smaller rank padded with
    zeros; and the share of each projection's energy (squared Frobenius norm) that was kept.

    Raises
    ------
    ConfigError
        For a rank below 1.
    """
    if rank < 1:
        raise ConfigError(f"rank={rank} of an adapter: expected at least 1.")
    paths = dict.fromkeys(path for weights in entries for path in weights)
    sums = {path: _together([weights[path] for weights in entries if path in weights]) for path in paths}
    most = min(rank, max(a.shape[0] for a, _ in sums.values()))
    factors: AdapterWeights = {}
    kept: dict[str, float] = {}
    for path, (a, b) in sums.items():
        a, b, kept[path] = truncated(a, b, most)
        missing = most - a.shape[0]  # loaders know one rank for all projections
        factors[path] = {"a": pad(a, (0, 0, 0, missing)).contiguous(), "b": pad(b, (0, missing)).contiguous()}
    return factors, kept


def write_adapter(
    factors: AdapterWeights, base_name: str, directory: str | os.PathLike[str], transposed: bool = False
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    Parameters
    ----------
    factors : all of one rank, see `merged`.
    transposed : for bases whose projections are `Conv1D` (GPT-2).
    """
    tensors = {
        f"{PREFIX}{path}.lora_{factor}.weight": weights[factor.lower()]
        for path, weights in factors.items()
        for factor in "AB"
    }
    rank = next(iter(factors.values()))["a"].shape[0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "target_modules": sorted(factors),
    }
    target = private_directory(Path(directory))
    write_atomically(target / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_atomically(target / CONFIG, json.dumps(config, indent=1).encode())


def read_adapter(directory: str | os.PathLike[str]) -> AdapterWeights:
    """The factors of a PEFT LoRA adapter by projection, its scale folded into B.

    Raises
    ------
    CheckpointError
        When files are missing or damaged, or the adapter is no plain LoRA.
    """
    path = Path(directory)
    try:
        config = parsed(read_regular(path / CONFIG))
        check_regular(path / WEIGHTS)
        tensors = load_file(path / WEIGHTS)
    except CheckpointError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{directory} holds no PEFT adapter that can be read: {error}") from error
    _check_settings(directory, config)
    _check_plain(directory, config)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(f"{directory} holds {key!r}, expected only lora_A and lora_B of projections.")
        found.setdefault(match["path"], {})[match["factor"].lower()] = tensor
    weights: AdapterWeights = {}
    for name, factors in found.items():
        if set(factors) != {"a", "b"} or any(factor.dim() != 2 for factor in factors.values()):
            raise CheckpointError(
                f"{directory} holds {len(factors)} tensors of {name}, expected two matrices, "
                "lora_A and lora_B. Save it again."
            )
        rank = factors["a"].shape[0]
        if not rank or factors["b"].shape[1] != rank or not all(bool(f.isfinite().all()) for f in factors.values()):
            raise CheckpointError(
                f"{directory} holds factors of {name} of shapes {[tuple(f.shape) for f in factors.values()]}, expected "
                "(R, in) and (out, R) of finite numbers. Save it again."
            )
        alpha = _matching(config.get("alpha_pattern") or {}, name, config["lora_alpha"])
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        weights[name] = {"a": factors["a"], "b": factors["b"] * scale}
    return weights


def truncated(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The best approximation of b a of rank at most `rank`, and the share of its energy that it keeps.

    a: (R, I), b: (O, R). By a singular value decomposition of the small core (Eckart and Young).
    """
    a, b = a.float(), b.float()
    if a.shape[0] <= rank:
        return a, b, 1.0
    left, across = torch.linalg.qr(b)  # (O, R), (R, R)
    right, down = torch.linalg.qr(a.mT)  # (I, R), (R, R)
    u, singular, vh = torch.linalg.svd(across @ down.mT)
    energy = singular.square()
    share = (energy[:rank].sum() / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)).item()
    root = singular[:rank].sqrt()
    return (root[:, None] * vh[:rank]) @ right.mT, left @ (u[:, :rank] * root), share


def _together(weights: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """(R, I) and (O, R) whose product is the sum of all entries' changes."""
    return torch.cat([low["a"].float() for low in weights]), torch.cat([low["b"].float() for low in weights], dim=1)


def _matching(pattern: dict[str, Any], name: str, default: float) -> float:
    return next((value for key, value in pattern.items() if name == key or name.endswith("." + key)), default)


def _check_settings(directory: str | os.PathLike[str], config: Any) -> None:
    """Raise `CheckpointError` where the settings that are read here are of other types."""
    patterns = config.get("alpha_pattern") if isinstance(config, dict) else None
    if (
        not isinstance(config, dict)
        or not is_number(config.get("lora_alpha"))
        or not isinstance(patterns, dict | None)
        or not all(map(is_number, (patterns or {}).values()))
    ):
        raise CheckpointError(f"{directory} holds no settings of a PEFT adapter that can be read. Save it again.")


def _check_plain(directory: str | os.PathLike[str], config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{directory} is a PEFT adapter of type {config.get('peft_type')!r}, expected 'LORA'.")
    # `fan_in_fan_out` says how the base lays out its matrix, for merging; the factors are laid out alike.
    beyond = [name for name in ("use_dora", "target_parameters", "trainable_token_indices") if config.get(name)]
    if beyond or config.get("bias", "none") != "none" or config.get("modules_to_save"):
        raise CheckpointError(
            f"{directory} uses {beyond or 'bias or modules_to_save'}, which a memory has no place for."
        )
