"""Calibration: the directions in which the inputs of the projections vary, on text that the model writes itself.

A model is all that this needs: no text, no tokenizer, nothing to fetch. Run once, when a model is converted.
B batch rows, T tokens, N tokens of all rows, I in features, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .layer import TTTSite

ROWS, LENGTH = 32, 64  # of the text
OVERSAMPLING, ITERATIONS = 16, 3


@torch.no_grad()
def calibrate(model: Any, sites: Sequence[TTTSite], generator: torch.Generator) -> None:
    """Give every site of a converted model the principal directions of its inputs."""
    inputs: dict[str, list[Tensor]] = {site.path: [] for site in sites}

    def keep(path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[path].append(args[0].detach().flatten(0, -2))

    modules = {site.path: site.module_in(model) for site in sites}
    hooks = [module.register_forward_pre_hook(partial(keep, path)) for path, module in modules.items()]
    try:
        write(model, generator)
    finally:
        for hook in hooks:
            hook.remove()
    for site in sites:
        found = principal_directions(torch.cat(inputs[site.path]).float(), site.kind.rank, generator)
        site.get_buffer("fixed_a").copy_(found)


def write(model: Any, generator: torch.Generator) -> Tensor:
    """Text of the model's own, one word drawn after another: (B, T) ids."""
    length = min(LENGTH, model.longest or LENGTH)
    ids = torch.randint(model.vocabulary_size, (ROWS, 1), generator=generator, device="cpu").to(model.device)
    written, cache = [ids], None
    while len(written) < length:
        out = model(input_ids=ids, past_key_values=cache, learn_from="none", use_cache=True)
        likely = torch.softmax(out.logits[:, -1].float(), -1).cpu()
        ids, cache = torch.multinomial(likely, 1, generator=generator).to(model.device), out.past_key_values
        written.append(ids)
    return torch.cat(written, 1)


def principal_directions(x: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """The orthonormal directions in which the rows of x have most energy, largest first: (N, I) -> (R, I).

    Randomised subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4): no I x I matrix is made. The mean is
    a direction like any other.
    """
    width = min(rank + OVERSAMPLING, x.shape[1])
    basis = torch.randn(x.shape[1], width, generator=generator, device="cpu").to(x)
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(x.mT @ (x @ basis)).Q
    inside = x @ basis
    vectors = torch.linalg.eigh(inside.mT @ inside).eigenvectors.flip(-1)  # largest first
    return (basis @ vectors[:, :rank]).mT
