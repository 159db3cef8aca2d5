"""Tables and the picture of `perplexity_by_position`: losses and their differences to full attention, with intervals.

Losses of neighbouring tokens hang together, so what is drawn again in a bootstrap are stretches of 256 tokens; for
figures about all texts the texts are drawn again, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .harness.tables import interval, markdown_table
from .measure import FULL, SINKS, TTT

BLOCK, STRETCH = 64, 4  # tokens whose mean loss is stored; blocks that are drawn together
DRAWS = 4000
META = f"{TTT} (meta-learned)"
KINDS = {
    "persuasion": "book", "emma": "book",
    "python-tutorial": "documentation", "python-howto": "documentation",
    "turtle": "code", "pydecimal": "code",
    "chitchat": "dialogue", "chitchat-2": "dialogue",
}  # fmt: skip
Losses = dict[str, dict[str, Tensor]]  # by text and system: (blocks,) nats per token


def stored(report: dict[str, Any]) -> Losses:
    """The losses of texts that were read with full attention and with window + sinks, and with what else."""
    found: Losses = {}
    for key, row in report["rows"].items():
        name, _, system = key.partition(": ")
        found.setdefault(name, {})[system] = torch.tensor(row["losses"])
    return {name: found[name] for name in KINDS if {FULL, SINKS} <= found.get(name, {}).keys()}


def differences(losses: Losses, system: str, blocks: slice) -> list[Tensor]:
    """Of each text that the system read: (stretches, 2), how far window + sinks, and how far it, is above full."""
    found = []
    for of_text in losses.values():
        if system in of_text:
            above = torch.stack([of_text[SINKS] - of_text[FULL], of_text[system] - of_text[FULL]], 1)[blocks]
            size = min(STRETCH, len(above))
            found.append(above[: len(above) // size * size].view(-1, size, 2).mean(1))
    return found


def drawn_again(stretches: Sequence[Tensor], texts_too: bool) -> Tensor:
    """(DRAWS, 2) bootstrapped means over texts of (stretches, 2) each."""
    generator = torch.Generator().manual_seed(0)
    means = torch.stack([
        part[torch.randint(len(part), (DRAWS, len(part)), generator=generator)].mean(1) for part in stretches
    ])  # fmt: skip
    if texts_too:
        chosen = torch.randint(len(means), (DRAWS, len(means)), generator=generator)
        means = means[chosen.T, torch.arange(DRAWS)]
    return means.mean(0)


def above_full(stretches: Sequence[Tensor], texts_too: bool) -> str:
    """Nats per token above full attention, and the interval."""
    if not stretches:
        return "-"
    mean = torch.stack([part.mean(0) for part in stretches]).mean(0)[1].item()
    low, high = interval(drawn_again(stretches, texts_too)[:, 1])
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def closed(stretches: Sequence[Tensor], texts_too: bool) -> str:
    """The share of the gap between window + sinks and full attention that a system closes."""
    gap, left = torch.stack([part.mean(0) for part in stretches]).mean(0).tolist()
    drawn = drawn_again(stretches, texts_too)
    if interval(drawn[:, 0])[0] <= 0:
        return "no gap"
    low, high = interval(1 - drawn[:, 1] / drawn[:, 0])
    return f"{1 - left / gap:.0%} ({low:.0%} to {high:.0%})"


def bins(tokens: int) -> list[tuple[int, int]]:
    """Positions by powers of two, the first 512 as one."""
    edges = [0, *(512 * 2**power for power in range(20) if 512 * 2**power < tokens), tokens]
    return [*pairwise(edges)]


def of_length(losses: Losses, length: int) -> list[str]:
    """Every text at one length: the loss by quarter, and the difference to full attention."""
    blocks = slice(0, length // BLOCK)
    rows = []
    for name, of_text in losses.items():
        for system, values in of_text.items():
            quarters = [part.mean().item() for part in values[blocks].tensor_split(4)]
            compared = "" if system == FULL else above_full(differences({name: of_text}, system, blocks), False)
            mean = values[blocks].mean().item()
            rows.append([name, KINDS[name], system, f"{mean:.4f}", *(f"{loss:.3f}" for loss in quarters), compared])
    header = ["text", "kind", "system", "mean", "1st quarter", "2nd", "3rd", "last", "above full attention"]
    return [f"### {length:,} tokens", "", *markdown_table(header, rows), ""]


def verdicts(losses: Losses, length: int) -> list[str]:
    """What learning is worth at one length, by kind of text and on the mean of all."""
    blocks = slice(0, length // BLOCK)
    last = slice(3 * length // 4 // BLOCK, length // BLOCK)
    kinds = list(dict.fromkeys(KINDS[name] for name in losses))
    rows = []
    for system in systems_of(losses)[2:]:
        read = {name: of_text for name, of_text in losses.items() if system in of_text}
        groups = {kind: {name: part for name, part in read.items() if KINDS[name] == kind} for kind in kinds}
        for group, members in [("all texts", read), *groups.items()]:
            if members:
                texts_too = group == "all texts" and len(members) > 2
                better = sum(bool(part[system][last].mean() < part[SINKS][last].mean()) for part in members.values())
                below = sum(bool(part[system][blocks].mean() < part[FULL][blocks].mean()) for part in members.values())
                found = differences(members, system, blocks)
                rows.append([
                    system, group, closed(found, texts_too), above_full(found, texts_too),
                    f"{better} of {len(members)}", f"{below} of {len(members)}",
                ])  # fmt: skip
    header = [
        "system", "texts", "gap closed", "above full attention", "last quarter below window + sinks",
        "below full attention",
    ]  # fmt: skip
    return [f"Learning at {length:,} tokens:", "", *markdown_table(header, rows), ""]


def by_position(losses: Losses, tokens: int) -> list[str]:
    """The difference to full attention along the text, on the mean of texts."""
    places = bins(tokens)
    rows = [
        [
            system,
            *(
                above_full(differences(losses, system, slice(first // BLOCK, end // BLOCK)), len(losses) > 2)
                for first, end in places
            ),
        ]
        for system in systems_of(losses)[1:]
    ]
    header = ["system", *(f"{first:,} to {end:,}" for first, end in places)]
    return ["### Above full attention, by position", "", *markdown_table(header, rows), ""]


def systems_of(losses: Losses) -> list[str]:
    """Full attention first, window + sinks next."""
    return list(dict.fromkeys([FULL, SINKS, *(system for of_text in losses.values() for system in of_text)]))


def lines(report: dict[str, Any]) -> list[str]:
    settings, losses = report["settings"], stored(report)
    said = [
        f"{settings['model']}, window {settings['window']}, {settings['sinks']} sinks. Nats per token; in brackets 95% "
        f"intervals, by bootstrap over stretches of {STRETCH * BLOCK} tokens, of all texts over texts, too. *Gap "
        "closed*: the share of the loss between window + sinks and full attention that learning makes up; *no gap*: "
        "the interval of that difference holds 0 or less.",
        "",
    ]
    if not losses:
        return [*said, "Not finished.", ""]
    for length in report["lengths"]:
        said += verdicts(losses, length)
    said += by_position(losses, settings["tokens"])
    for length in report["lengths"]:
        said += of_length(losses, length)
    if META not in systems_of(losses):
        said += [f"Not read: {META}; no --checkpoint was given.", ""]
    return said


def plot(report: dict[str, Any], path: Path) -> None:
    """One panel for each kind of text: the mean difference to full attention along it."""
    from .plots import differences_by_position

    losses = stored(report)
    panels: dict[str, dict[str, Tensor]] = {}
    for kind in dict.fromkeys(KINDS[name] for name in losses):
        of_kind = [of_text for name, of_text in losses.items() if KINDS[name] == kind]
        panels[kind] = {
            system: torch.stack([part[system] - part[FULL] for part in of_kind]).mean(0)
            for system in systems_of(losses)[1:]
            if all(system in part for part in of_kind)
        }
    if panels:
        title = (
            f"Updates bring the loss of a window of {report['settings']['window']} tokens near that of full "
            f"attention\n({report['settings']['model']}, {len(losses)} texts, lower is better)"
        )
        differences_by_position(
            panels, BLOCK, path, title, window=report["settings"]["window"], trained=report["trained"]
        )
