"""What a chunk does to the fast weights: the tensors gradients are taken of, and the step of every site.

It carries the equations of `inner_loop` over all sites of a model and all rows of a batch, and knows nothing of how
tokens are cut or where keys are kept.
B batch rows, R rows of a state, C chunk, V vocabulary, O out features, I in features.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.utils import logging

from ..config import TTTConfig
from ..errors import ConfigError, UnsupportedModelError
from ..util.devices import flags
from .context import FastTerms
from .fast_state import FastState
from .fast_weights import FastWeights, Weights
from .inner_loop import (
    SiteConstants,
    SiteState,
    Stepped,
    chunk_loss,
    fresh_state,
    next_token_losses,
    next_token_losses_once,
    sound_rows,
    update,
    update_,
)
from .inner_optimizers import Optimizer
from .inner_rules import ReadChunk, inner_rule
from .layer import FOLDED, TTTSite, constants

logger = logging.get_logger(__name__)


class Decoder(Protocol):
    """What reading needs of a model."""

    ttt: TTTConfig
    kind: FastWeights

    @property
    def sites(self) -> list[TTTSite]: ...

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def compute_dtype(self) -> torch.dtype: ...

    @property
    def trained_length(self) -> int | None:
        """Tokens that were ever apart in training; None where positions are not relative, or nobody knows."""
        ...

    def embeddings_of(self, ids: Tensor) -> Tensor:
        """The input embeddings of tokens, (B, T) -> (B, T, D)."""
        ...

    def base_forward(self, **kwargs: Any) -> Any:
        """The family's own forward."""
        ...

    def only(self, rows: list[int]) -> AbstractContextManager[None]:
        """Within it, forwards are of these rows of the batch alone."""
        ...


@dataclass(frozen=True)
class Outer:
    """How a read is recorded for the outer loop. Not recording is the way of use: no graph outlives a chunk."""

    record: bool = False
    order: int = 1  # 2 keeps the inner updates themselves differentiable
    rematerialise: bool = False  # recompute each chunk in the backward pass instead of storing its activations
    folded: bool = False  # no gradient is wanted of the projections themselves, so fast matrices may be folded in
    anew: bool = False  # the chunk will be read again by the outer loop, which must find the same
    along: tuple[Tensor, ...] = ()  # tensors whose gradients are taken along with those of the fast weights
    observe: Callable[[InnerStep], None] | None = None  # told of every chunk that is learned from, before its step

    @property
    def everywhere(self) -> bool:
        """Whether the forward keeps a graph below the first TTT site, too."""
        return self.record or bool(self.along)

    @property
    def second_order(self) -> bool:
        """Whether the gradient of the inner loss is itself differentiated."""
        return self.record and self.order == 2


@dataclass(frozen=True)
class InnerStep:
    """The gradients that the inner step of a chunk is made of, and what was there before it."""

    fast: FastState  # before the step, which may overwrite it
    gradients: dict[str, Weights]  # by site; (R, rows, columns) each
    along: tuple[Tensor | None, ...]  # of the tensors asked for; None where the loss does not depend on one
    losses: Tensor  # (R,) of the chunk, in nats per token
    firing: Tensor  # (R,) bool: the rows that the gradients are of


def fresh(decoder: Decoder, rows: int, outer: Outer) -> FastState:
    sites: dict[str, SiteState] = {}
    with torch.set_grad_enabled(outer.record):
        for site in decoder.sites:
            shapes = decoder.kind.shapes(site.site)
            sites[site.site.name] = fresh_state(shapes, site.start, decoder.ttt, rows, like=site.log_lr)
    device = decoder.sites[0].log_lr.device
    return FastState(sites, torch.zeros(rows, dtype=torch.long, device=device))


def leaves_of(decoder: Decoder, fast: FastState, rows: int, outer: Outer) -> dict[str, Weights]:
    """The fast weights as tensors that gradients can be taken of, by site.

    A folded leaf stands for the fast matrix in it: the gradient with respect to either is the same.
    """
    folds = fast.sites and (outer.folded or not outer.everywhere)
    folded = _folded(fast, _kept_bases(decoder, rows)) if folds else {}
    leaves: dict[str, Weights] = {}
    for name, state in fast.sites.items():
        if name in folded:
            leaves[name] = {FOLDED: folded[name].requires_grad_()}
        else:
            leaves[name] = {
                key: weight if outer.record and weight.requires_grad else weight.detach().requires_grad_()
                for key, weight in state.weights.items()
            }
    return leaves


def terms_of(decoder: Decoder, fast: FastState, rows: int, outer: Outer) -> FastTerms:
    """The fast weights for a forward that is learned from, which leaves behind what the inner rule asks for."""
    rule, leaves = inner_rule(decoder.ttt), leaves_of(decoder, fast, rows, outer)
    record = rule.backward and not outer.everywhere
    return FastTerms(leaves, rows, record=record, own_norms=outer.anew, seen={} if rule.inputs else None)


def weights_in_use(decoder: Decoder, fast: FastState, rows: int) -> dict[str, Weights]:
    """The fast weights for a forward without a graph. Before the first update nothing is copied per row."""
    if fast.sites:
        bases = _kept_bases(decoder, rows)
        versions = [(base.data_ptr(), base._version) for base in bases.values()]
        return fast.prepared(versions, lambda state: _prepare(decoder, state, bases))
    return starting_weights(decoder)


def starting_weights(decoder: Decoder) -> dict[str, Weights]:
    """The fast weights before any update, shared by all rows: (1, rows, columns) each."""
    starts = {}
    for site in decoder.sites:
        start = {name: site.get_parameter(f"start_{name}")[None] for name in decoder.kind.learned_start}
        if start:
            starts[site.site.name] = start
    return starts


def _kept_bases(decoder: Decoder, rows: int) -> dict[str, Tensor]:
    """The base's matrices that fast ones are folded into for many tokens, by site."""
    bases = {site.site.name: site.foldable(rows) for site in decoder.sites}
    return {name: base for name, base in bases.items() if base is not None}


def _folded(fast: FastState, bases: dict[str, Tensor]) -> dict[str, Tensor]:
    """Base plus fast matrix, (O, I) each, of these sites."""
    deltas = [fast.sites[name].weights["delta"].squeeze(0) for name in bases]
    return dict(zip(bases, torch._foreach_add(list(bases.values()), deltas))) if bases else {}


def _prepare(decoder: Decoder, fast: FastState, bases: dict[str, Tensor]) -> dict[str, Weights]:
    """The fast weights in the form that is cheapest to apply token by token."""
    with torch.no_grad():
        folded = _folded(fast, bases)
        return {
            name: {FOLDED: folded[name]}
            if name in folded
            else {key: weight.to(decoder.compute_dtype) for key, weight in state.weights.items()}
            for name, state in fast.sites.items()
        }


def losses_of(logits: Tensor, ids: Tensor, outer: Outer) -> Tensor:
    return next_token_losses(logits, ids) if outer.record else next_token_losses_once(logits, ids)


def inner_step(
    decoder: Decoder,
    fast: FastState,
    terms: FastTerms,
    ids: Tensor,
    losses: Tensor,
    targets: Tensor,
    fires: list[bool],
    outer: Outer,
) -> tuple[FastState, Tensor]:
    """One inner step of every row that fires, from a forward with the weights in `fast`.

    ids: (R, C), losses, targets: (R, C - 1) for the R rows of `fast`. Returns the new state and losses by row, (R,).
    """
    firing = flags(fires, losses.device)
    gradients, by_row = gradients_of_chunk(decoder, fast, terms, ids, losses, targets, firing, outer)
    with torch.set_grad_enabled(outer.record):
        new = step_of(decoder, fast, by_row, gradients, firing)
    return new, by_row.detach()


def gradients_of_chunk(
    decoder: Decoder,
    fast: FastState,
    terms: FastTerms,
    ids: Tensor,
    losses: Tensor,
    targets: Tensor,
    firing: Tensor,
    outer: Outer,
) -> tuple[dict[str, Weights], Tensor]:
    """What the step of `inner_step` is made of, by site, and the losses by row, (R,). firing: (R,) bool."""
    by_row = chunk_loss(losses, targets)
    along: list[Tensor | None] = []

    def gradients_of(loss: Tensor) -> dict[str, Weights]:
        taken, others = _gradients(fast, terms.weights, torch.where(firing, loss, 0).sum(), outer)
        along.extend(others)
        return taken

    weights = {name: state.weights for name, state in fast.sites.items()}
    chunk = ReadChunk(ids, targets, losses, by_row, weights, terms.seen or {}, decoder.embeddings_of, gradients_of)
    rule = inner_rule(decoder.ttt)
    with torch.set_grad_enabled(rule.backward):
        gradients = rule.gradients(chunk)
    _check_shapes(decoder.ttt.inner_rule, gradients, weights)
    if outer.observe is not None:
        outer.observe(InnerStep(fast, gradients, tuple(along), by_row.detach(), firing))
    return gradients, by_row


def _gradients(
    fast: FastState, leaves: dict[str, Weights], loss: Tensor, outer: Outer
) -> tuple[dict[str, Weights], tuple[Tensor | None, ...]]:
    """Of the loss, with respect to the fast weights, by site, and to the tensors that `outer` asks for."""
    if not loss.requires_grad:
        raise UnsupportedModelError(
            "No gradient of the loss reaches the fast weights: something after them passes none on, such as a head of "
            "integers, or a hook that detaches. Undo that, or read with learn_from='none'."
        )
    flat = [leaf for by_name in leaves.values() for leaf in by_name.values()]
    taken = torch.autograd.grad(
        loss,
        [*flat, *outer.along],
        create_graph=outer.second_order,
        retain_graph=outer.record,
        allow_unused=bool(outer.along),
    )
    remaining = iter(taken)
    gradients = {
        name: {key: next(remaining).view_as(weight) for key, weight in fast.sites[name].weights.items()}
        for name in leaves
    }
    return gradients, taken[len(flat) :]


def _check_shapes(rule: str, gradients: dict[str, Weights], weights: dict[str, Weights]) -> None:
    """Raise `ConfigError` unless a rule gave one gradient for every fast weight."""
    found, expected = (
        {(site, name): tuple(tensor.shape) for site, by_name in of.items() for name, tensor in by_name.items()}
        for of in (gradients, weights)
    )
    for key in expected.keys() | found.keys():
        if found.get(key) != expected.get(key):
            raise ConfigError(
                f"inner_rule={rule!r} gave a gradient of shape {found.get(key)} for {key[1]!r} of {key[0]}, where one "
                f"of {expected.get(key)} was expected. It must give one for every fast weight, and no other."
            )


def step_of(
    decoder: Decoder,
    fast: FastState,
    losses: Tensor,
    gradients: dict[str, Weights],
    firing: Tensor,
    optimize: Optimizer | None = None,
) -> FastState:
    """The state after the step of every row that fires and is sound, of the sites that there are gradients of.

    losses, firing: (R,). Without a graph to keep, tensors of `fast` may be overwritten once the state is asked for.
    optimize: in place of the configured optimizer.
    """
    assert fast.steps is not None
    applied = applied_rows(decoder, losses, gradients, firing)
    if not torch.is_grad_enabled() and optimize is None:
        return _due_in_place(decoder, fast, gradients, applied)
    everyone = bool(applied.all())  # a graph is kept of every choice: for training it is worth to ask
    step, sites = fast.steps + 1, {}
    for name, of_site in site_constants(decoder, gradients).items():
        state = fast.sites[name]
        new = update(decoder.kind, state, gradients[name], of_site, decoder.ttt, step, optimize)
        sites[name] = new if everyone else _choose(applied, new, state)
    return FastState(sites, torch.where(applied, step, fast.steps))


def applied_rows(decoder: Decoder, losses: Tensor, gradients: dict[str, Weights], firing: Tensor) -> Tensor:
    """(R,) bool: the rows that fire and are sound. losses, firing: (R,)."""
    flat = [gradient for by_name in gradients.values() for gradient in by_name.values()]
    return firing & sound_rows(losses, flat, decoder.vocabulary_size)


def _due_in_place(decoder: Decoder, fast: FastState, gradients: dict[str, Weights], applied: Tensor) -> FastState:
    """The state whose step is taken in place, when it is first asked for: its matrices are those of `fast`."""
    assert fast.steps is not None
    kind, ttt = decoder.kind, decoder.ttt
    sites = {name: fast.sites[name] for name in gradients}
    stepped, of_sites = Stepped.none_of(sites), site_constants(decoder, gradients)
    step, skipped = (fast.steps + 1).float(), (~applied).float()

    def take(states: dict[str, SiteState]) -> None:
        update_(kind, states, gradients, of_sites, ttt, step, skipped, stepped)

    return FastState(sites, fast.steps + applied, take)


def site_constants(decoder: Decoder, gradients: dict[str, Weights]) -> dict[str, SiteConstants]:
    """Of the sites that there are gradients of."""
    return constants([site for site in decoder.sites if site.site.name in gradients], decoder.ttt)


def warn_of_dropped(chunks: list[int], fast: FastState) -> None:
    """Say so, once, where rows have had fewer steps than chunks to learn from, (B,). Waits for the device."""
    if fast.steps is not None and any(step < chunk for step, chunk in zip(fast.steps.tolist(), chunks)):
        logger.warning_once(
            "A chunk gave a loss or gradient that is not finite, or a loss worse than guessing at random; its update "
            "of the fast weights was dropped. This is reported once."
        )


class _AttachParameters(torch.autograd.Function):
    """The tensor itself, of which tensors that it does not depend on get a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(*others)
        return result.detach()  # shares memory, and may be written in place, unlike a view

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(torch.zeros_like(other) for other in ctx.saved_tensors)


def attach_parameters(decoder: Decoder, logits: Tensor) -> Tensor:
    """The same logits, with every trained parameter of the sites in their graph.

    Nothing depends on inner rates where no chunk was full, and DistributedDataParallel waits for the gradient of every
    parameter.
    """
    others = [p for site in decoder.sites for p in site.parameters() if p.requires_grad]
    result: Tensor = _AttachParameters.apply(logits, *others)
    return result


@torch.no_grad()
def displacements(decoder: Decoder, fast: FastState) -> Tensor:
    """(S,) how far the fast weights of each site have moved from their start, ‖ΔW‖ / ‖W‖; the mean over rows."""
    if not fast.sites:
        return torch.zeros(len(decoder.sites), device="cpu")
    moved = []
    for name, of_site in constants(decoder.sites, decoder.ttt).items():
        weights = fast.sites[name].weights
        moved.append(decoder.kind.displacement(weights, of_site.start, of_site.scale).mean())
    return torch.stack(moved)


def _choose(rows: Tensor, new: SiteState, old: SiteState) -> SiteState:
    """`new` in the rows that are True, `old` elsewhere; what is not chosen may be NaN."""
    pick = rows[:, None, None]
    weights = {name: torch.where(pick, weight, old.weights[name]) for name, weight in new.weights.items()}
    optimizer = {
        name: {slot: torch.where(pick, value, old.optimizer[name][slot]) for slot, value in slots.items()}
        for name, slots in new.optimizer.items()
    }
    return SiteState(weights, optimizer)
