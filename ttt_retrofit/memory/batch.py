"""What memories add to a forward: low-rank terms on projections, each as loud as its gate is open.

The terms arrive through `hearing` for the time of one forward, as fast weights do, and are added by hooks. A forward in
which every gate stays closed is the base's own, bit for bit.
B rows, T tokens, M memories, R ranks of all memories together, I in features, O out features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..inner.discovery import module_at
from ..inner.fast_weights import add_batch_linear, batch_linear
from .gates import Gates, Topic, follow


@dataclass(frozen=True)
class Term:
    """What all memories of a batch add at one projection."""

    a: Tensor  # (B or 1, R, I)
    b: Tensor  # (B or 1, O, R)
    owner: Tensor  # (R,) the memory each rank belongs to

    def select(self, rows: Tensor) -> Term:
        def of(tensor: Tensor) -> Tensor:
            return tensor if tensor.shape[0] == 1 else tensor.index_select(0, rows)

        return Term(of(self.a), of(self.b), self.owner)

    def __call__(self, onto: Tensor, x: Tensor, gates: Tensor | None) -> Tensor:
        """onto: (B, T, O), x: (B, T, I), gates: (B, T, M) or None where all are open."""
        low = batch_linear(x, self.a.to(x.dtype))
        if gates is not None:
            low = _as_loud(low, gates[..., self.owner])
        return add_batch_linear(onto, low, self.b.to(x.dtype))


def _as_loud(said: Tensor, gates: Tensor) -> Tensor:
    """`said` times how far gates are open. Where they are shut it is zero, not a product: zero times NaN is NaN."""
    return torch.where(gates > 0, said * gates.to(said.dtype), 0)


@dataclass(frozen=True)
class Voices:
    """The memories of a batch, in the form that a forward applies."""

    layer: str  # dotted name of the decoder layer whose input the gates listen to
    gates: Gates
    terms: dict[str, Term]  # by the dotted name of the projection

    def select(self, rows: Tensor) -> Voices:
        return Voices(self.layer, self.gates.select(rows), {path: t.select(rows) for path, t in self.terms.items()})


@dataclass
class Hearing:
    """One forward with voices: where the text stood before, and what was found on the way."""

    voices: Voices
    before: Topic | None
    real: list[int]  # real tokens by row; they come first
    after: Topic | None = None
    open: Tensor | None = None  # (B, T, M), None while nothing speaks
    inputs: dict[str, Tensor] = field(default_factory=dict)  # of projections, which a folded site withholds
    spoken: set[str] = field(default_factory=set)  # projections that have been spoken at

    def check_heard(self) -> None:
        """Raise unless the forward came by every place."""
        missed = [] if self.after is not None else [self.voices.layer]
        if self.open is not None:
            missed += sorted(self.voices.terms.keys() - self.spoken)
        if missed:
            raise UnsupportedModelError(
                f"The forward never called {missed[0]}, where memories are heard, nor {len(missed) - 1} more places. "
                "Something computes with their weights around them, or skips their layers. Undo that (a patched "
                "forward, layerdrop), or reset_memory()."
            )

    def listen(self, hidden: Tensor) -> None:
        with torch.no_grad():
            real = torch.tensor(self.real, device=hidden.device)
            hidden = hidden.reshape(len(self.real), -1, hidden.shape[-1])
            opened, self.after = follow(hidden, self.before, real, self.voices.gates)
            self.open = opened if bool((opened > 0).any()) else None


_HEARING: ContextVar[Hearing | None] = ContextVar("ttt_hearing", default=None)


@contextmanager
def hearing(heard: Hearing | None) -> Iterator[None]:
    """The forward inside adds what these memories say; None is silence.

    Raises
    ------
    UnsupportedModelError
        When it came by none of the hooks of a place: what memories say there would have been left out.
    """
    token = _HEARING.set(heard)
    try:
        yield
    finally:
        _HEARING.reset(token)
    if heard is not None:
        heard.check_heard()


class Listener:
    """Hook on a decoder layer: finds the gates from what enters it."""

    def __init__(self, path: str) -> None:
        self.path = path

    @torch.compiler.disable
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        heard = _HEARING.get()
        if heard is not None and heard.voices.layer == self.path:
            heard.listen(args[0] if args else kwargs["hidden_states"])


class Speaker:
    """Hooks on a projection: its output plus the memories' terms of its input."""

    def __init__(self, path: str) -> None:
        self.path = path

    @torch.compiler.disable
    def keep_input(self, module: nn.Module, args: tuple) -> None:
        heard = _HEARING.get()
        if heard is not None and heard.open is not None and self.path in heard.voices.terms:
            heard.inputs[self.path] = args[0]

    @torch.compiler.disable
    def speak(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        heard = _HEARING.get()
        x = None if heard is None else heard.inputs.pop(self.path, None)
        if x is None:
            return None
        assert heard is not None
        heard.spoken.add(self.path)
        rows = len(heard.real)
        term = heard.voices.terms[self.path]
        onto = output.reshape(rows, -1, output.shape[-1])
        return term(onto, x.reshape(rows, -1, x.shape[-1]), heard.open).view(output.shape)


def bind(model: nn.Module, layer: str, paths: Iterable[str]) -> None:
    """Hook listeners and speakers onto a model where they are not there yet."""
    listening, speaking = bound(model)
    if layer not in listening:
        model.get_submodule(layer).register_forward_pre_hook(Listener(layer), with_kwargs=True)
    for path in set(paths) - speaking:
        speaker, module = Speaker(path), model.get_submodule(path)
        # Before a folded site withholds the input, and after it has put its own term in.
        module.register_forward_pre_hook(speaker.keep_input, prepend=True)
        module.register_forward_hook(speaker.speak)


def is_bound(model: nn.Module, voices: Voices) -> bool:
    """Whether the modules that now stand at the places of these voices are hooked onto.

    `model.dequantize()`, PEFT and assignments replace modules, and the hooks go with those that were there.
    """
    pre = module_at(model, voices.layer)._forward_pre_hooks.values()
    if not any(isinstance(hook, Listener) and hook.path == voices.layer for hook in pre):
        return False
    return all(_speaks(module_at(model, path), path) for path in voices.terms)


def _speaks(module: nn.Module, path: str) -> bool:
    speakers = (getattr(hook, "__self__", None) for hook in module._forward_hooks.values())
    return any(isinstance(speaker, Speaker) and speaker.path == path for speaker in speakers)


def bound(model: nn.Module) -> tuple[set[str], set[str]]:
    """Where listeners and speakers are hooked on."""
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    listening = {hook.path for hook in hooks if isinstance(hook, Listener)}
    owners = [getattr(hook, "__self__", None) for hook in hooks]
    return listening, {owner.path for owner in owners if isinstance(owner, Speaker)}


def unbind(model: nn.Module) -> None:
    """Remove every listener and speaker."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, Listener) or isinstance(getattr(hook, "__self__", None), Speaker):
                    del hooks[key]
