"""The inner loop: fast weights, where they are added to a model, and how a chunk of tokens changes them.

`discovery` finds the projections, and `layer` makes a site of each. A forward (`streaming.reading`) takes `input_ids`
through the family's own layers inside a `ForwardContext` (`context`), which holds the fast weights of every row. At
each site a hook (`hooks`, `layer.TTTSite`) adds them to the projection's output: `fast_weights` has the kinds. The loss
of a full chunk and its gradient, in `inner_loop`, make one step of an optimizer (`inner_optimizers`) for each row;
`learning.inner_step` takes it at all sites, and gives back the `FastState` that the cache then carries.

Nothing here knows of windows, caches or memories, nor how tokens are cut into chunks.
"""
