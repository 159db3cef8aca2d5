"""Which keys a question looks at, for systems that choose what to keep once it is known."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool1d

from .attention import by_group, weights
from .snapkv import POOL


def asked_score(name: str, module: Any, query: Tensor, key: Tensor) -> Tensor:
    """(G, N) what the question's own tokens look at, as each method ("snapkv", "h2o", "tova") adds it up."""
    weight = weights(query, key, module.scaling)  # (H, Q, N)
    if name == "tova":
        return weight[:, -1].mean(0).expand(key.shape[0], -1)
    looked = weight.sum(1)  # of H2O, as over the context, so that both can be added
    if name == "snapkv":
        looked = avg_pool1d(looked / weight.shape[1], POOL, stride=1, padding=POOL // 2)
    return by_group(looked, key.shape[0]).mean(1)
