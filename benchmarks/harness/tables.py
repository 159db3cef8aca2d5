"""Tables in Markdown, and what stands in their cells: shares, and how two systems differ that were asked the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

DRAWS = 10_000  # of the bootstrap
ENOUGH = 100  # pairs, before a difference is a finding


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def share(found: Sequence[bool]) -> str:
    """Of what is true; "-" of nothing."""
    return f"{sum(found) / len(found):.2f}" if found else "-"


class Difference(NamedTuple):
    """Of shares or scores: one system's minus the other's."""

    mean: float
    low: float  # 95% interval by paired bootstrap
    high: float
    pairs: int

    @property
    def verdict(self) -> str:
        """Whether the one finds at least as much as the other."""
        if self.low > 0:
            said = "more"
        elif self.high < 0:
            said = "less"
        else:
            said = "as much" if self.mean == 0 else "more, within chance" if self.mean > 0 else "less, within chance"
        return said if self.pairs >= ENOUGH else f"{said} (fewer than {ENOUGH} pairs)"

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


class Share(NamedTuple):
    """Of questions that were answered rightly."""

    right: int
    asked: int

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval, Wilson's."""
        n, p, z = self.asked, self.right / self.asked, 1.96
        centre, spread = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
        return max(low, 0.0), min(high, 1.0)


def difference(pairs: Sequence[tuple[float, float]]) -> Difference | None:
    """Of what one and the other got for the same question, such as whether it was right; None without a question."""
    if not pairs:
        return None
    values = torch.tensor([float(one) - float(other) for one, other in pairs])
    drawn = torch.randint(len(values), (DRAWS, len(values)), generator=torch.Generator().manual_seed(0))
    return Difference(values.mean().item(), *interval(values[drawn].mean(1)), len(values))


def interval(drawn: torch.Tensor) -> tuple[float, float]:
    """95% of what was drawn, (draws,); NaN, a ratio of nothing to nothing, left out."""
    low, high = torch.nanquantile(drawn, torch.tensor([0.025, 0.975])).tolist()
    return low, high
