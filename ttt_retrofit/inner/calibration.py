"""Calibration: what the projections of a model are given, and in which directions it varies.

The text is of tokens drawn at random. Directions from real text, and from the first window of the very text that is
read, gain no more (`docs/research-log/inner-loop.md`), and need a tokenizer, or a state of their own.
N tokens of all rows, I in features, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ROWS, LENGTH = 4, 512  # of the text
OVERSAMPLING, ITERATIONS = 16, 2


@torch.no_grad()
def calibration_inputs(
    model: Any, modules: Mapping[str, nn.Module], generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """What each of the modules of a converted model is given by random tokens: by name, (N, I) float32."""
    inputs: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[name].append(args[0].flatten(0, -2))

    hooks = [module.register_forward_pre_hook(partial(keep, name)) for name, module in modules.items()]
    try:
        length = min(LENGTH, model.longest or LENGTH)
        ids = torch.randint(model.vocabulary_size, (ROWS, length), generator=generator, device="cpu")
        model(input_ids=ids.to(model.device), learn_from="none", logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    for name in modules:
        yield name, torch.cat(inputs.pop(name)).float()


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
    found: Tensor = (basis @ vectors[:, :rank]).mT
    return found
