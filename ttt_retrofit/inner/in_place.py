"""In-Place TTT's rule, for comparison, as a plug-in: what a chunk writes into the down projections, in closed form.

In-Place Test-Time Training (Feng et al., ICLR 2026, arXiv 2604.06169). Each down projection W is given a loss of its
own, -⟨Z Wᵀ, V̂⟩, with keys Z, the MLP's intermediate activations, and values V̂ = Conv1D(X₀) W_target, made of the token
embeddings X₀ (§3.2). Its gradient is -V̂ᵀ Z, so that a step of gradient descent is their eq. 1, W ← W + η V̂ᵀ Z: an
outer product summed over the chunk, with no error in it and no backward pass.

Conv1D and W_target are trained along with the whole model there. A retrofit has neither, and takes the values that §3.2
names as the special case and Theorem 1 is about, the next-token target: W_target the identity, the kernel 1 at the next
token and 0 elsewhere, so that the value of a token is the embedding of the one after it. The last token of a chunk has
no value, which is their padding: a chunk's write holds nothing of what comes after it.
What is not theirs: the trust region takes the place of their bound on each write (appendix C.2), and the step goes
through `inner_optimizer`, of which "sgd" is their eq. 1.
B batch rows, C chunk, F feed-forward, D model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..config import TTTConfig
from ..errors import ConfigError, UnsupportedModelError
from .discovery import Site
from .fast_weights import Weights
from .inner_rules import InnerRule, ReadChunk
from .registry import register_inner_rule


def gradient(keys: Tensor, embeddings: Tensor, targets: Tensor) -> Tensor:
    """Of -⟨Z Wᵀ, V̂⟩ with respect to W: -V̂ᵀ Z, (B, D, F), where V̂ holds the embedding of the next token.

    Parameters
    ----------
    keys : (B, C, F) what the down projection was given.
    embeddings : (B, C, D) of the tokens themselves.
    targets : (B, C - 1) bool: the next tokens that are learned from; the others write nothing.
    """
    values = embeddings[:, 1:] * targets[..., None]  # (B, C - 1, D)
    return -values.mT @ keys[:, :-1]


@register_inner_rule("in_place")
class InPlace(InnerRule):
    """The write of every down projection, as the gradient that it stands for."""

    backward = False
    inputs = True

    def gradients(self, chunk: ReadChunk) -> dict[str, Weights]:
        embeddings = chunk.embed(chunk.ids)
        writes: dict[str, Weights] = {}
        for name, keys in chunk.inputs.items():
            delta = chunk.weights[name]["delta"]
            writes[name] = {"delta": gradient(keys.to(delta), embeddings.to(delta), chunk.targets)}
        return writes

    def check_config(self, ttt: TTTConfig) -> None:
        """A whole matrix is what it writes."""
        if ttt.fast_weights != "delta":
            raise ConfigError(
                f"inner_rule='in_place' writes a whole matrix, and fast_weights={ttt.fast_weights!r} has none. Take "
                "fast_weights='delta', or inner_rule='gradient'."
            )

    def check_model(self, sites: Sequence[Site], embeddings: nn.Module) -> None:
        """It has no meaning for projections other than down, and for outputs not as wide as the embeddings."""
        others = [f"{site.role}: {site.path}" for site in sites if site.role != "down"]
        if others:
            raise ConfigError(
                f"inner_rule='in_place' is defined for the MLP's down projection; found {others}. Take "
                "target_modules=('down',), or inner_rule='gradient'."
            )
        width = embeddings.embedding_dim if isinstance(embeddings, nn.Embedding) else None
        narrow = [f"{site.path} ({site.out_features})" for site in sites if site.out_features != width]
        if narrow:
            raise UnsupportedModelError(
                f"inner_rule='in_place' writes token embeddings, of width {width}, into the output of {narrow}; the "
                "widths must agree. Take inner_rule='gradient'."
            )
