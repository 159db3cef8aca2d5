"""Methods as a user would bring them: importing this module registers one of each."""

import torch

from ttt_retrofit import register_fast_weights, register_inner_optimizer, register_inner_rule
from ttt_retrofit.inner import FastWeights, InnerOptimizer, InnerRule


@register_inner_rule("weighted")
class Weighted(InnerRule):
    """A token is learned from as much as it surprised."""

    def gradients(self, chunk):
        surprise = chunk.losses.detach() * chunk.targets
        weights = surprise / surprise.sum(1, keepdim=True).clamp_min(1e-6)
        return chunk.gradients_of((chunk.losses * weights).sum(1))


@register_fast_weights("gain")
class Gain(FastWeights):
    """y = (1 + g) * W x, g starting at zero."""

    def shapes(self, site):
        return {"gain": (site.out_features, 1)}

    def unit(self, site, norm):
        return torch.ones_like(norm)

    def __call__(self, onto, x, weights):
        return onto + onto * weights["gain"].mT  # (B, T, O) times (B, 1, O)


@register_inner_optimizer("momentum")
class Momentum(InnerOptimizer):
    """m = 0.9 m + g."""

    slots = ("sum",)
    relative_lr = 1.0

    def direction(self, gradient, state, step):
        total = 0.9 * state["sum"] + gradient
        return total, {"sum": total}
