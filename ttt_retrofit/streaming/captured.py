"""CUDA graphs of the steady state: a chunk, its step and a token are recorded once and replayed, each in one launch.

What is recorded are the functions of `ring.py`; elsewhere than on CUDA they are called as they are. A model keeps the
graphs of one conversation, the one it has read last: each holds the activations of a chunk.
No graph has been recorded on a device yet. Tests replay a stand-in on the CPU.
B batch rows, T tokens, C chunk.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers.utils import logging

from ..inner.fast_state import FastState
from ..inner.fast_weights import Weights
from ..inner.hooks import hooks_on
from ..inner.inner_loop import SiteState
from ..inner.learning import Decoder, weights_in_use
from .ring import Ring

logger = logging.get_logger(__name__)

DEVICES = ("cuda",)  # where functions are recorded


def record(function: Callable[[], Any], device: torch.device) -> tuple[Any, Callable[[], None]]:
    """What `function` returns, not computed yet, and what computes it in the same tensors again and again."""
    graph = torch.cuda.CUDAGraph()
    # Other threads may be using the device meanwhile.
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function()
    return result, graph.replay


class Recorded:
    """A function of tensors of fixed shapes: called as it is the first time, recorded the second, then replayed."""

    def __init__(self) -> None:
        self.called = self.refused = False
        self.inputs: list[Tensor] = []
        self.replay: Callable[[], None] | None = None
        self.result: Any = None

    def __call__(self, function: Callable[..., Any], device: torch.device, *inputs: Tensor) -> Any:
        """The result of the function. Once there is a `replay`, the next call writes over it."""
        if not self.called:
            result = _beside(partial(function, *inputs), device)
            self.called = True
            return result
        if self.replay is None and not self.refused:
            self._record(function, device, inputs)
        if self.replay is None:
            return function(*inputs)
        for kept, given in zip(self.inputs, inputs):
            kept.copy_(given)
        self.replay()
        return self.result

    def _record(self, function: Callable[..., Any], device: torch.device, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        try:
            self.result, self.replay = record(partial(function, *self.inputs), device)
        except RuntimeError as error:  # what a model does that no graph can hold, such as a look at a value
            self.refused = True
            logger.warning_once(
                f"A chunk or a token could not be recorded as a CUDA graph, and is read without one: {error}. Set "
                "model.static_shapes = False to not try."
            )


def _beside(function: Callable[[], Any], device: torch.device) -> Any:
    """On a stream of its own: there libraries prepare what they must not prepare while they are recorded."""
    if device.type != "cuda":
        return function()
    stream, now = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(now)
    with torch.cuda.stream(stream):
        result = function()
    now.wait_stream(stream)
    return result


class Recordings:
    """What was recorded over one ring: of a model as it was, with the fast weights in these tensors."""

    def __init__(self, model: tuple[Any, ...], sites: list[SiteState]) -> None:
        self.model, self.sites = model, sites
        self.of: dict[Any, Recorded] = {}
        self._weights: dict[str, Weights] = {}
        self._given: dict[str, Weights] | None = None

    def fit(self, model: tuple[Any, ...], sites: list[SiteState]) -> bool:
        alike = len(sites) == len(self.sites) and all(one is other for one, other in zip(sites, self.sites))
        return alike and model == self.model

    def in_place(self, weights: dict[str, Weights]) -> dict[str, Weights]:
        """The same, as `weights_in_use` has them, in tensors that stay: copied once an update, not once a token."""
        if not self._weights:
            self._weights = {site: {name: w.clone() for name, w in of.items()} for site, of in weights.items()}
        elif weights is not self._given:
            for site, of in weights.items():
                for name, weight in of.items():
                    self._weights[site][name].copy_(weight)
        self._given = weights
        return self._weights


def surroundings(model: nn.Module, device: torch.device) -> tuple[Any, ...] | None:
    """What a recording takes for given: the modules, and where their tensors are. None where nothing can be recorded.

    That is so on other devices, and where Python has a part in a forward, which a replay would pass by: training,
    adapters, hooks that are not ours, and forwards of their own, as accelerate sets them.
    """
    if device.type not in DEVICES:
        return None
    found: list[Any] = []
    for module in model.modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        own = module.training or "forward" in vars(module) or type(module).__module__.startswith("peft.")
        if own or (hooks and hooks > len(hooks_on(module))):
            return None
        found.append(id(module))
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                found.append(tensor.data_ptr())
    return tuple(found)


class Latest:
    """The ring that a model has read over last."""

    def __init__(self) -> None:
        self.ring: weakref.ref[Ring] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Latest, ()  # a copy of the model has read nothing


@dataclass(frozen=True)
class RingReader:
    """Reads over rings in one call of a model: by what was recorded, where it can be."""

    model: tuple[Any, ...] | None  # what recordings take for given; None where nothing is recorded
    latest: Latest

    def read(
        self, decoder: Decoder, ring: Ring, fast: FastState, keep: int, ids: Tensor, positions: Tensor, start: Tensor
    ) -> Any:
        """`Ring.read` with these fast weights."""
        weights = weights_in_use(decoder, fast, len(ids))
        if self.model is None or ids.shape[1] not in (1, decoder.ttt.chunk_size):
            return ring.read(decoder, weights, keep, ids, positions, start)
        recordings = self._recordings(self.model, ring, fast)
        recorded = recordings.of.setdefault(("read", ids.shape, keep), Recorded())
        kept = recordings.in_place(weights)

        def segment(*given: Tensor) -> Any:
            return _without_cache(ring.read(decoder, kept, keep, *given))

        return _handed_on(recorded, recorded(segment, ids.device, ids, positions, start))

    def learn(
        self,
        decoder: Decoder,
        ring: Ring,
        fast: FastState,
        ids: Tensor,
        positions: Tensor,
        start: Tensor,
        targets: Tensor,
    ) -> tuple[Any, Tensor, FastState]:
        """`Ring.learn` on top of these fast weights, which the state that is returned writes over."""
        assert fast.steps is not None
        if self.model is None:
            return ring.learn(decoder, fast, ids, positions, start, targets)
        sites, recordings = fast.sites, self._recordings(self.model, ring, fast)

        def chunk(steps: Tensor, *given: Tensor) -> tuple[Any, Tensor, FastState]:
            output, losses, new = ring.learn(decoder, FastState(sites, steps), *given)
            return _without_cache(output), losses, new

        recorded, step = (recordings.of.setdefault(name, Recorded()) for name in ("chunk", "step"))
        output, losses, new = recorded(chunk, ids.device, fast.steps, ids, positions, start, targets)
        if recorded.replay is None:
            return output, losses, new
        # A replay makes the step due anew, in the tensors of the first; taken twice, it is taken once.
        due = new.replayed(lambda take: step(take, ids.device))
        return _handed_on(recorded, output), losses.clone(), due

    def _recordings(self, model: tuple[Any, ...], ring: Ring, fast: FastState) -> Recordings:
        """Those of the ring; a model has none of another."""
        before = None if self.latest.ring is None else self.latest.ring()
        self.latest.ring = weakref.ref(ring)
        if before is not None and before is not ring:
            before.recordings = None
        sites = list(fast.sites.values())
        recordings: Recordings | None = ring.recordings
        if recordings is None or not recordings.fit(model, sites):
            recordings = ring.recordings = Recordings(model, sites)
        return recordings


def _without_cache(output: Any) -> Any:
    """An output that can be kept beside a ring, and does not keep the ring."""
    output["past_key_values"] = None
    return output


def _handed_on(recorded: Recorded, output: Any) -> Any:
    """An output that the next replay leaves alone."""
    return output if recorded.replay is None else tree_map_only(Tensor, Tensor.clone, output)
