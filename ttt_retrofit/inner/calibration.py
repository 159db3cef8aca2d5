"""Calibration: what the projections of a model are given, on text that the model writes itself.

A model is all that this needs: no text, no tokenizer, nothing to fetch. It is done once, when a model is converted.
B batch rows, T tokens, N tokens of all rows, I in features, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ROWS, LENGTH = 32, 64  # of the text
OVERSAMPLING, ITERATIONS = 16, 3


@torch.no_grad()
def calibration_inputs(
    model: Any, modules: Mapping[str, nn.Module], generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """What each of the modules of a converted model is given while it writes: by name, (N, I) float32."""
    inputs: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[name].append(args[0].flatten(0, -2))

    hooks = [module.register_forward_pre_hook(partial(keep, name)) for name, module in modules.items()]
    try:
        write(model, generator)
    finally:
        for hook in hooks:
            hook.remove()
    for name in modules:
        yield name, torch.cat(inputs.pop(name)).float()


def write(model: Any, generator: torch.Generator) -> Tensor:
    """Text of the model's own, (B, T): rows that begin with any token and go on with drawn ones."""
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
