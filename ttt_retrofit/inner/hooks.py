"""Hooks: how they are set on a model, told from others', followed where modules are replaced, and removed.

A hook on a module works for every base: dense, 4-bit, LoRA-wrapped, offloaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType

from torch import nn

from .discovery import module_at


class Hook:
    """What stands on one module of a model: its bound methods are the forward hooks there."""

    path: str  # dotted name of the module

    def module_in(self, model: nn.Module) -> nn.Module:
        """The module that stands at the path now. Raises `UnsupportedModelError` where it is none to stand on."""
        return module_at(model, self.path)

    def connect(self, module: nn.Module) -> None:
        """Register the hooks on this module."""
        raise NotImplementedError


def hooks_on(module: nn.Module) -> list[Hook]:
    """Ours, of all the hooks that are registered on a module."""
    registered = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    owners = (hook.__self__ for hook in registered if isinstance(hook, MethodType))
    return [owner for owner in owners if isinstance(owner, Hook)]


def bind(model: nn.Module, hooks: Iterable[Hook], *, alone: bool = False) -> None:
    """Set hooks on the modules that stand at their paths now, where they are not there yet.

    Quantizers replace projections while they load. Raises before anything changes.
    alone: remove all others of ours first.
    """
    standing = [(hook, hook.module_in(model)) for hook in hooks]
    if alone:
        unbind(model)
    for hook, module in standing:
        if hook not in hooks_on(module):
            hook.connect(module)


def is_bound(model: nn.Module, hooks: Iterable[Hook]) -> bool:
    """Whether every hook stands on the module that stands at its path now.

    `model.dequantize()`, PEFT and assignments replace modules, and the hooks go with those that were there.
    """
    return all(hook in hooks_on(module_at(model, hook.path)) for hook in hooks)


def unbind(model: nn.Module) -> None:
    """Remove every hook of ours, wherever it is."""
    for module in model.modules():
        for registered in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(registered.items()):
                if isinstance(hook, MethodType) and isinstance(hook.__self__, Hook):
                    del registered[key]
