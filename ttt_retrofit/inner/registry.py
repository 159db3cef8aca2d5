"""Decorators under which a class becomes a method that `TTTConfig` can name. `docs/extending.md` has one of each.

`@register_inner_rule("mine")` makes `TTTConfig(inner_rule="mine")` take the class below it. A package announces its
class in the entry points `ttt_retrofit.inner_rules` instead. Likewise for `fast_weights`, with the classes of
`ttt_retrofit.inner.FastWeights`, and `inner_optimizers`. `Registry.register` says what is refused.
"""

from ..config import FAST_WEIGHTS, INNER_OPTIMIZERS, INNER_RULES

register_fast_weights = FAST_WEIGHTS.register
"""Decorator: `TTTConfig(fast_weights=name)` takes this class, a `ttt_retrofit.inner.FastWeights`."""

register_inner_rule = INNER_RULES.register
"""Decorator: `TTTConfig(inner_rule=name)` takes this class, a `ttt_retrofit.inner.InnerRule`."""

register_inner_optimizer = INNER_OPTIMIZERS.register
"""Decorator: `TTTConfig(inner_optimizer=name)` takes this class, a `ttt_retrofit.inner.InnerOptimizer`."""
