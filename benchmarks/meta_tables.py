"""What meta-learned models reach and how far that is from their control, from the losses of their chunks."""

from __future__ import annotations

from typing import Any

import torch

from .harness.tables import DRAWS, interval, markdown_table

FULL, BASE, CONTROL = "full attention", "base", "control"
COMPARED = {
    "interaction": "interaction",
    "last": "in the last quarter",
    "end": "updates on in both",
    "best": "updates on, and the control at its best",
}
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 97.5% quantiles of Student's t, by the number of seeds

Row = dict[str, dict[str, list[float]]]  # losses by chunk, by "off" or "on", by text


def average(row: Row, state: str) -> float:
    """Over a row's texts, which weigh the same."""
    return sum(sum(losses) / len(losses) for losses in row[state].values()) / len(row[state])


def by_seed(rows: dict[str, Any], name: str) -> dict[int, Row]:
    """The rows that are stored as "<name>, seed <seed>"."""
    found = (key.rsplit(", seed ", 1) for key in rows if ", seed " in key)
    return {int(seed): rows[f"{system}, seed {seed}"] for system, seed in sorted(found) if system == name}


def tables(
    systems: dict[str, dict[int, Row]], control_of: dict[str, str], full: dict[str, list[float]]
) -> tuple[list[str], dict[str, Any]]:
    """What every system reaches, and each against its control, as Markdown; and the second as numbers.

    systems: rows by seed; control_of: the name of a system's control; full: `without_window`. Only seeds that the
    control has too are compared.
    """
    reached = [[name, *_figures(list(rows.values()))] for name, rows in systems.items()]
    compared = {}
    for name, control in control_of.items():
        ours, its = systems[name], systems[control]
        seeds = sorted(ours.keys() & its.keys())
        if seeds:
            compared[name] = compare([ours[seed] for seed in seeds], [its[seed] for seed in seeds])
    against_full = [
        [name, signed(_interval([_difference(row["on"], full) for row in rows.values()]))]
        for name, rows in systems.items()
    ]
    mean_full = sum(sum(losses) / len(losses) for losses in full.values()) / len(full)
    header = ["seeds", "updates off", "on", "gain", "range of on", "1st quarter", "2nd", "3rd", "last"]
    return [
        *markdown_table(["system", *header], reached),
        "",
        *markdown_table(
            ["against the control", *COMPARED.values()],
            [[name, *(signed(values[what]) for what in COMPARED)] for name, values in compared.items()],
        ),
        "",
        *markdown_table([f"updates on, against full attention of the base ({mean_full:.4f})", ""], against_full),
        "",
        "Nats per token. Positive interactions and negative differences speak for meta-learning. 95% intervals over "
        "seeds (Student's t), of a single seed over chunks (bootstrap). Truncated and exact gradients are in float32, "
        "the others in mixed precision.",
        "",
    ], compared  # fmt: skip


def _figures(rows: list[Row]) -> list[str]:
    off, on = ([average(row, state) for row in rows] for state in ("off", "on"))
    means = [sum(values) / len(rows) for values in (off, on)]
    quarters = [sum(_quarter(row, quarter) for row in rows) / len(rows) for quarter in range(4)]
    return [
        str(len(rows)),
        *(f"{figure:.4f}" for figure in (*means, means[0] - means[1], max(on) - min(on))),
        *(f"{quarter:.3f}" for quarter in quarters),
    ]


def _quarter(row: Row, quarter: int) -> float:
    parts = [torch.tensor(losses).tensor_split(4)[quarter].mean().item() for losses in row["on"].values()]
    return sum(parts) / len(parts)


def compare(ours: list[Row], control: list[Row]) -> dict[str, tuple[float, float, float]]:
    """Means and 95% intervals over paired seeds, by the names of `COMPARED`.

    The interaction is what updates gain more than they gain the control, everywhere and in the last quarter of the
    positions. A control is at its best without updates where these do it harm.
    """
    pairs = list(zip(ours, control, strict=True))
    off, on = ([_difference(mine[state], its[state]) for mine, its in pairs] for state in ("off", "on"))
    interaction = [{name: before[name] - after[name] for name in after} for before, after in zip(off, on)]
    last = [{name: values[-(len(values) // 4 or 1) :] for name, values in seed.items()} for seed in interaction]
    state = min(("off", "on"), key=lambda state: sum(average(row, state) for row in control))
    best = [_difference(mine["on"], its[state]) for mine, its in pairs]
    return {name: _interval(by) for name, by in zip(COMPARED, (interaction, last, on, best), strict=True)}


def _difference(mine: dict[str, list[float]], its: dict[str, list[float]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(mine[name]) - torch.tensor(its[name]) for name in mine}


def _interval(differences: list[dict[str, torch.Tensor]]) -> tuple[float, float, float]:
    """Mean and 95% interval of paired differences (one tensor of chunks for each text, for each seed).

    Of several seeds Student's, over their means; of one, a bootstrap over the chunks of each text. Texts are those that
    were chosen, and weigh the same.
    """
    means = torch.stack([torch.stack([values.mean() for values in seed.values()]).mean() for seed in differences])
    mean, count = means.mean().item(), len(means)
    if count > 1:
        reach = STUDENT[count] * (means.std() / count**0.5).item()
        return mean, mean - reach, mean + reach
    generator = torch.Generator().manual_seed(0)
    drawn = torch.zeros(DRAWS)
    for values in differences[0].values():
        chunks = torch.randint(len(values), (DRAWS, len(values)), generator=generator)
        drawn += values[chunks].mean(1) / len(differences[0])
    return mean, *interval(drawn)


def signed(values: tuple[float, float, float]) -> str:
    mean, low, high = values
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
