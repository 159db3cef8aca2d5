"""Inner rules: what a chunk that was read teaches, as one gradient for every fast weight.

A rule says what a forward keeps for it, and makes gradients of that; optimizer and trust region make a step of those.
It knows nothing of how tokens are cut, where keys are kept, or what else is in the batch.
R rows of a state, C chunk, D model, I in features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from ..config import INNER_RULES, TTTConfig
from .discovery import Site
from .fast_weights import Weights
from .registry import register_inner_rule


@dataclass(frozen=True)
class ReadChunk:
    """A whole chunk as it was read, before its step. Every row learns by itself: none may depend on another."""

    ids: Tensor  # (R, C) integer, the tokens
    targets: Tensor  # (R, C - 1) bool, which of the next tokens are learned from
    losses: Tensor  # (R, C - 1) of every next token, in nats; float32 or wider
    loss: Tensor  # (R,) the mean of `losses` over `targets`
    weights: dict[str, Weights]  # by site and name, (R, rows, columns) each; not to be written to
    inputs: dict[str, Tensor]  # by site, (R, C, I) what it was given; empty where the rule does not keep `inputs`
    embed: Callable[[Tensor], Tensor]  # the model's input embeddings of ids, (R, T) to (R, T, D)
    gradients_of: Callable[[Tensor], dict[str, Weights]]  # of a loss by row (R,), to be called once, after `backward`


class InnerRule(Protocol):
    """What an inner rule has to say. It is made without arguments and keeps nothing from one chunk to the next."""

    backward: ClassVar[bool] = True
    """Whether a graph is kept from the first site on, for `ReadChunk.gradients_of`."""

    inputs: ClassVar[bool] = False
    """Whether what each site was given is kept, as `ReadChunk.inputs`."""

    def check_config(self, ttt: TTTConfig) -> None:
        """Raises `ConfigError` for settings that the rule has no meaning with."""

    def check_model(self, sites: Sequence[Site], embeddings: nn.Module) -> None:
        """Raises `ConfigError` or `UnsupportedModelError` for sites or embeddings that it has no meaning with."""

    @abstractmethod
    def gradients(self, chunk: ReadChunk) -> dict[str, Weights]:
        """By site and name, as `chunk.weights`: what is descended, of every row."""


@register_inner_rule("gradient")
class Gradient(InnerRule):
    """The gradient of the chunk's mean next-token loss (TTT-E2E eq. 2)."""

    def gradients(self, chunk: ReadChunk) -> dict[str, Weights]:
        return chunk.gradients_of(chunk.loss)


def inner_rule(config: TTTConfig) -> InnerRule:
    """The rule that a configuration names."""
    rule: InnerRule = INNER_RULES.get(config.inner_rule)()
    return rule
