"""TOVA (Oren et al. 2024, arXiv 2401.06104): what the last token looks at, the same for all heads.

It is asked once, at the end of the context; the paper drops a token at every step, by the step's own attention.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from .attention import weights


def tova(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(G, N); the last token itself is always kept."""
    looked = weights(query[:, -1:], key, module.scaling)[:, 0, :-1].mean(0)
    return pad(looked, (0, 1), value=float("inf")).expand(key.shape[0], -1)
