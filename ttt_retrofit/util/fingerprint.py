"""Names a base by its weights, so that what was made for one is refused by another.

A fingerprint has two parts, "sample.whole". The sample is of the shapes and a few values: it is all that files of
earlier versions hold, and costs nothing. The whole is of every value of every parameter: a change of any single one
changes it. Not covered are buffers, and of quantized weights their scales: the packed codes stand for them. Fast
weights and PEFT's adapters are no part of a base. Values count as float32, whatever dtype they are loaded in.

The configuration does not count: it also holds what changes nothing that is computed, such as a padding token, and
gains entries with every release of transformers.
N values of a tensor, B values of a block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .shards import check_whole

SAMPLED_TENSORS = 8
SAMPLED_VALUES = 64
BLOCK = 2**16  # values summed together
PIECE = 16 * BLOCK  # values held at a time beside the weights
# Where PEFT puts what it wraps. All else in such a module is the adapter's.
WRAPPED = ("base_layer", "original_module")


class _Weight(NamedTuple):
    """A parameter and what holds it."""

    module: nn.Module
    name: str
    tensor: Tensor


@dataclass(frozen=True)
class _Seen:
    """A tensor when it was read, and what was found."""

    tensor: ReferenceType[Tensor]
    place: int  # in memory
    version: int
    checksum: bytes

    def still(self, tensor: Tensor) -> bool:
        """Whether this is that tensor, unchanged."""
        return self.tensor() is tensor and (self.place, self.version) == (tensor.data_ptr(), _version(tensor))


@dataclass
class _Known:
    """What was found of a model, and of each of its tensors, by its number among them."""

    sample: str = ""
    tensors: dict[int, _Seen] = field(default_factory=dict)


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def fingerprint(model: nn.Module) -> str:
    """The name of a base: two hexadecimal sha256 joined by a point, as the head of this file says.

    Every tensor is read once and again only after it has changed. A change that torch does not count, by `.data`, is
    noticed where it reaches the sample.

    Raises
    ------
    UnsupportedModelError
        Where a process holds only a part of the weights (`TTTTrainingConfig.shard`).
    """
    check_whole(model)
    weights = list(_weights(model))
    sample, known = _sample(weights), _KNOWN.setdefault(model, _Known())
    if known.sample != sample:
        known.sample, known.tensors = sample, {}
    digest = hashlib.sha256()
    for number, weight in enumerate(weights):
        seen, tensor = known.tensors.get(number), weight.tensor
        if seen is None or not seen.still(tensor):
            seen = _Seen(ref(tensor), tensor.data_ptr(), _version(tensor), _checksum(_stored(weight)))
            known.tensors[number] = seen
        digest.update(seen.checksum)
    return f"{sample}.{digest.hexdigest()}"


def same_base(one: str, other: str) -> bool:
    """Whether two fingerprints are of one base: by the whole where both have it, by the sample in older files."""
    (sample, _, whole), (its_sample, _, its_whole) = one.partition("."), other.partition(".")
    return whole == its_whole if whole and its_whole else sample == its_sample


def _version(tensor: Tensor) -> int:
    """How often torch has changed it in place; those made in inference mode are not counted."""
    return 0 if tensor.is_inference() else tensor._version


def _stored(weight: _Weight) -> Tensor:
    """Its values, where accelerate has put them; without values where nothing has any."""
    hook = vars(weight.module).get("_hf_hook")
    # accelerate is optional, so its hook is known by what it holds.
    kept = None if hook is None else vars(hook).get("weights_map")
    if not weight.tensor.is_meta or kept is None:
        return weight.tensor
    found: Tensor = kept[weight.name]
    return found


def _sample(weights: list[_Weight]) -> str:
    """Of the shapes of all weights and of a few values of a few. Offloaded ones are passed by."""
    digest = hashlib.sha256(str([tuple(weight.tensor.shape) for weight in weights]).encode())
    stride = max(1, len(weights) // SAMPLED_TENSORS)
    for weight in weights[::stride]:
        if weight.tensor.is_meta:
            continue
        sample = weight.tensor.detach().flatten()[:SAMPLED_VALUES].to("cpu")
        digest.update(sample.float().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _checksum(weight: Tensor) -> bytes:
    """Of the shape and of all values: for each block, the sum of their bits, each times an odd number of its own.

    Odd numbers keep every single change; whole numbers do not depend on the device, nor on the order of the sum. Sums
    wrap around at 32 bits. A bfloat16 is the upper half of a float32, for which half the work does.
    """
    digest = hashlib.sha256(str(tuple(weight.shape)).encode())
    if weight.is_meta:
        return digest.digest()
    values = weight.detach().reshape(-1)
    half = values.dtype == torch.bfloat16
    width = torch.int16 if half else torch.int32
    odd = _odd_numbers().to(values.device, width)
    found = []
    for piece in values.split(PIECE):
        bits = (piece if half else piece.float()).view(width)
        missing = -len(bits) % BLOCK
        blocks = (pad(bits, (0, missing)) if missing else bits).view(-1, BLOCK)  # (N / B, B)
        found.append((blocks * odd).sum(1, dtype=width))
    sums = torch.cat(found).to("cpu", torch.int32)
    digest.update((sums << 16 if half else sums).numpy().tobytes())
    return digest.digest()


@cache
def _odd_numbers() -> Tensor:
    """(B,) int32, the same everywhere: the powers of an odd number that repeat the latest."""
    powers = torch.full((BLOCK,), 0x5851F42D, dtype=torch.int64).cumprod(0)  # modulo 2**64
    return (powers >> 16).to(torch.int32) | 1


def _weights(module: nn.Module) -> Iterator[_Weight]:
    """Every weight of a base once, in the order of `named_parameters`."""
    seen: set[int] = set()

    def walk(module: nn.Module) -> Iterator[_Weight]:
        for name in WRAPPED:
            if (inside := module._modules.get(name)) is not None:
                yield from walk(inside)
                return
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) not in seen:
                seen.add(id(weight))
                yield _Weight(module, name, weight)
        for name, child in module._modules.items():
            if child is not None and name != "ttt":
                yield from walk(child)

    return walk(module)
