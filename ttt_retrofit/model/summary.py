"""`SummaryMixin`: what a converted model shows of itself in a few lines. `repr` stays torch's tree of modules."""

from __future__ import annotations

from ..util.display import Bare, Rows, as_table
from .forwarding import ForwardMixin


class SummaryMixin(ForwardMixin):
    """Its summary in a notebook, and the number of its parameters."""

    def _repr_html_(self) -> str:
        memory = self.memory
        rows: Rows = {
            "base": self.name_or_path or None,
            "parameters": Bare(f"{self.num_parameters():,}"),
            "reads": Bare(self.ttt.in_words),
            "sites": len(self.sites),
            "memory": None if memory is None else Bare(repr(memory)),
            "device": Bare(self.device),
            "dtype": Bare(self.dtype),
        }
        return as_table(type(self).__name__, rows)

    def print_trainable_parameters(self) -> None:
        """Print, as PEFT does, how many parameters require a gradient now; then how many reading adds to the base.

        A model is trainable as a whole after `wrap`. `TTTTrainer` freezes all but what its `outer_parameters` name,
        PEFT all but its adapters. Fast weights themselves belong to a cache and are no parameters. The starts of kind
        "delta" are the projections' own weights, so none are added.
        """
        total, trained = self.num_parameters(), self.num_parameters(only_trainable=True)
        starts = sum(
            site.get_parameter(f"start_{name}").numel() for site in self.sites for name in self.kind.learned_start
        )
        print(f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}")
        print(f"added to the base: {starts:,} in starts of fast weights || {len(self.sites):,} log learning rates")
