"""Decorators under which a class becomes a method that `TTTConfig` can name. `docs/extending.md` has one of each."""

from __future__ import annotations

from collections.abc import Callable

from ..config import FAST_WEIGHTS, INNER_OPTIMIZERS, INNER_RULES
from ..util.registry import Method


def register_fast_weights(name: str) -> Callable[[Method], Method]:
    """Decorator: `TTTConfig(fast_weights=name)` takes this class, a `ttt_retrofit.inner.FastWeights`.

    A package announces its class in the entry points `ttt_retrofit.fast_weights` instead.

    Raises
    ------
    ConfigError
        When another class has that name.
    """
    return FAST_WEIGHTS.register(name)


def register_inner_rule(name: str) -> Callable[[Method], Method]:
    """Decorator: `TTTConfig(inner_rule=name)` takes this class, a `ttt_retrofit.inner.InnerRule`.

    A package announces its class in the entry points `ttt_retrofit.inner_rules` instead.

    Raises
    ------
    ConfigError
        When another class has that name.
    """
    return INNER_RULES.register(name)


def register_inner_optimizer(name: str) -> Callable[[Method], Method]:
    """Decorator: `TTTConfig(inner_optimizer=name)` takes this class, a `ttt_retrofit.inner.InnerOptimizer`.

    A package announces its class in the entry points `ttt_retrofit.inner_optimizers` instead.

    Raises
    ------
    ConfigError
        When another class has that name.
    """
    return INNER_OPTIMIZERS.register(name)
