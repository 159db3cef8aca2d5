"""The inner loop: fast weights, where they are added to a model, and how a chunk of tokens changes them.

`discovery` finds the projections, and `layer` makes a site of each. A forward (`streaming.reading`) takes `input_ids`
through the family's own layers inside a `ForwardContext` (`context`), which holds the fast weights of every row. At
each site a hook (`hooks`, `layer.TTTSite`) adds them to the projection's output: `fast_weights` has the kinds. The
rule (`inner_rules`) makes of a full chunk what is in effect a gradient, of its loss (`inner_loop`) by default, and an
optimizer (`inner_optimizers`) the step of each row. `learning.inner_step` takes it at all sites, and gives back the
`FastState` that the cache then carries. Kinds, rules and optimizers are the plug-ins that `TTTConfig` names.

Nothing here knows of windows, caches or memories, nor how tokens are cut into chunks.
"""

from . import in_place  # noqa: F401 -- registers itself, as every method does
from .fast_weights import FastWeights
from .inner_optimizers import InnerOptimizer
from .inner_rules import InnerRule, ReadChunk

__all__ = ["FastWeights", "InnerOptimizer", "InnerRule", "ReadChunk"]
