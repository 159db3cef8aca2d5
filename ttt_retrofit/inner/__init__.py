"""Fast weights and what changes them: sites, and the kinds, rules and optimizers that `TTTConfig` names."""

from . import in_place  # noqa: F401 -- registers itself, as every method does
from .fast_weights import FastWeights
from .inner_optimizers import InnerOptimizer
from .inner_rules import InnerRule, ReadChunk

__all__ = ["FastWeights", "InnerOptimizer", "InnerRule", "ReadChunk"]
