"""In-Place TTT's rule, for comparison: what a chunk writes into the down projections, in closed form.

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

from collections.abc import Iterable

from torch import Tensor, nn

from ..errors import ConfigError, UnsupportedModelError
from .discovery import Site


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


def check(sites: Iterable[Site], words: nn.Module) -> None:
    """Raises where the rule has no meaning: projections other than down, outputs not as wide as the embeddings."""
    others = [f"{site.role}: {site.path}" for site in sites if site.role != "down"]
    if others:
        raise ConfigError(
            f"inner_rule='in_place' is defined for the MLP's down projection; found {others}. Take "
            "target_modules=('down',), or inner_rule='gradient'."
        )
    width = words.embedding_dim if isinstance(words, nn.Embedding) else None
    narrow = [f"{site.path} ({site.out_features})" for site in sites if site.out_features != width]
    if narrow:
        raise UnsupportedModelError(
            f"inner_rule='in_place' writes token embeddings, of width {width}, into the output of {narrow}; the widths "
            "must agree. Take inner_rule='gradient'."
        )
