"""A digest of the tokens that a row has read, in constant memory, and that of the text it is compared with.

A polynomial in the token ids, modulo 2^64 (Karp & Rabin 1987): it can be carried on token by token, and does not depend
on how tokens were split into calls. It finds a mistake, and is no protection against somebody who wants it not to.
B batch rows, T tokens.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..util.devices import on_device

BASE = 6364136223846793005  # odd, as in Knuth's generator (MMIX)


def carried_on(digest: Tensor, ids: Tensor, taken: list[int]) -> Tensor:
    """The digest (B,) int64 after `taken` more tokens by row, the first of ids (B, T)."""
    longest = max(taken)
    powers = _powers(longest + 1, ids.device)
    if min(taken) == longest:
        return digest * powers[longest] + ((ids[:, :longest] + 1) * powers[:longest].flip(0)).sum(1)
    counts = on_device(taken, ids.device)
    after = counts[:, None] - 1 - torch.arange(longest, device=ids.device)  # tokens that follow, negative for padding
    weights = torch.where(after >= 0, powers[after.clamp_min(0)], 0)
    return digest * powers[counts] + ((ids[:, :longest] + 1) * weights).sum(1)


def of_text(ids: Tensor, real: Tensor) -> Tensor:
    """The digest (B,) of the tokens of ids (B, T) that are `real` (bool)."""
    after = real.flip(1).cumsum(1).flip(1) - 1
    powers = _powers(ids.shape[1], ids.device)
    return torch.where(real, (ids + 1) * powers[after.clamp_min(0)], 0).sum(1)


@lru_cache(maxsize=32)
def _powers(count: int, device: torch.device) -> Tensor:
    """(count,) int64: BASE^0, BASE^1, ... modulo 2^64."""
    powers, value = [], 1
    for _ in range(count):
        powers.append(value - 2**64 if value >= 2**63 else value)
        value = value * BASE % 2**64
    return on_device(powers, device)
