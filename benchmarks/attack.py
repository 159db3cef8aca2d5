"""Attacks everything that the library stores and serves, and counts how it ends: python -m benchmarks.attack

Every kind of file is damaged, resealed with bad values and replaced by pipes and links; writers of it are killed, find
the disk full or write at once; a server is asked by many users at once and sent what is no request. *Right*: the same
logits and words as without the attack. *Refused clearly*: an error of the library that names the file (for a full disk,
the system's own, with the file's name). *Wrong*: anything else. The same seed tries the same cases.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .attacks import files, processes, server
from .attacks.stored import Stored, kinds
from .attacks.verdict import Verdict, apart
from .harness.machine import machine
from .harness.options import command_line
from .harness.store import save
from .harness.tables import markdown_table

SLOW = 4  # rounds of which one is of what takes seconds
Rows = dict[tuple[str, str], Counter]


def count(rows: Rows, kind: str, how: str, verdict: Verdict) -> None:
    row = rows.setdefault((kind, how), Counter())
    row[verdict.word] += 1
    if verdict.word == "wrong":
        row[f"wrong: {verdict.why}".encode("ascii", "replace").decode()] += 1


def attacked(minutes: float, seed: int, only: Sequence[str] = (), show: Any = print) -> Rows:
    """Rounds of one case for each kind and attack, until the time is over; at least one."""
    torch.set_num_threads(1)  # processes are forked
    rows: Rows = {}
    end = time.monotonic() + 60 * minutes
    chosen = [stored for stored in kinds() if not only or stored.name in only]
    with tempfile.TemporaryDirectory() as directory:
        whole = {stored.name: _made(stored, Path(directory, stored.name)) for stored in chosen}
        number = 0
        while number == 0 or time.monotonic() < end:
            for stored in chosen:
                if stored.slow and number % SLOW:
                    continue
                _round(rows, stored, *whole[stored.name], f"{seed}/{number}", end)
            if (not only or "server" in only) and number % SLOW == 0:
                for how, verdicts in server.attack(random.Random(f"{seed}/{number}/server")).items():
                    for verdict in verdicts:
                        count(rows, "server", how, verdict)
            number += 1
            show(f"round {number}: {sum(row['wrong'] for row in rows.values())} wrong so far", flush=True)
    return rows


def _made(stored: Stored, place: Path) -> tuple[Path, Any]:
    """One that nobody has attacked, and what is made of it."""
    place.mkdir()
    apart(lambda: stored.make(place))
    with files.copied(place) as used:
        ended = apart(lambda: stored.use(used))
    if ended.how != "returned":
        raise SystemExit(f"{stored.name} cannot be used without an attack: {ended.what}")
    return place, ended.what


def _round(rows: Rows, stored: Stored, whole: Path, expected: Any, case: str, end: float) -> None:
    for module in (files, processes):
        for how in module.ATTACKS:
            verdict = module.attack(stored, whole, expected, how, random.Random(f"{case}/{stored.name}/{how}"))
            if verdict is not None:
                count(rows, stored.name, how, verdict)
    assert shutil.disk_usage(whole).free > 1 << 20, "the attacks have filled this disk"


def table(rows: Rows) -> list[str]:
    """By kind and attack, and in all."""
    words, listed = ("right", "refused", "wrong"), []
    for (kind, how), row in sorted(rows.items()):
        listed.append([kind, how, str(sum(row[w] for w in words)), *(str(row[word]) for word in words)])
    total = sum(rows.values(), Counter())
    listed.append(["all", "", str(sum(total[w] for w in words)), *(str(total[word]) for word in words)])
    return markdown_table(["what", "attack", "tried", "right", "refused clearly", "wrong"], listed)


def reasons(rows: Rows) -> dict[str, dict[str, int]]:
    """What was wrong, by row, the most frequent first."""
    found = {}
    for (kind, how), row in sorted(rows.items()):
        wrong = {why[len("wrong: ") :]: times for why, times in row.most_common() if why.startswith("wrong: ")}
        if wrong:
            found[f"{kind}, {how}"] = wrong
    return found


def main() -> None:
    parser = command_line(__doc__, quick="keep the result apart")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="*", default=[], help="kinds, such as memory, turns.json or server; none is all"
    )
    options = parser.parse_args()
    rows = attacked(options.minutes, options.seed, options.only)
    lines, wrong = table(rows), reasons(rows)
    print("\n".join(lines))
    for name, found in wrong.items():
        print(f"\n{name}:", *(f"  {times} x {why}" for why, times in found.items()), sep="\n")
    settings = {"minutes": options.minutes, "seed": options.seed, "only": options.only}
    report = {"settings": settings, "machine": machine(), "wrong": wrong}
    report["rows"] = {
        f"{kind}, {how}": {w: row[w] for w in ("right", "refused", "wrong")} for (kind, how), row in rows.items()
    }
    save(
        "attack_quick" if options.quick or options.only else "attack", report, [f"Seed {options.seed}.", "", *lines, ""]
    )


if __name__ == "__main__":
    main()
