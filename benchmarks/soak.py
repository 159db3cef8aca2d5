"""Twenty users of one server at once, which is killed again and again: is anything lost, left, or told to another?

python -m benchmarks.soak                                # ten minutes, a tiny model that tells codes
python -m benchmarks.soak --model smollm2-135m
python -m benchmarks.soak --seconds 60 --users 5 --quick

The users say, ask, add, correct and delete facts, and erase everything now and then. Each fact of each user holds a
code of its own. `ttt-retrofit serve` runs in a process of its own, with a writer that knows such facts, so that
memories are made in seconds. It is ended by SIGKILL now and then, at whatever it does, and started again on the same
store. Looked at: all answers, what is remembered of a user after each change, and all files of the store after each
kill.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .harness.loading import tokenizer_of
from .harness.machine import machine
from .harness.options import command_line, stored_as
from .harness.store import Store, dated, stored_report
from .harness.tables import markdown_table
from .models import model_directory
from .soaking.disk import codes_of
from .soaking.model import save
from .soaking.server import Server
from .soaking.users import GONE, User
from .soaking.writer import writing

NAME = "soak"
TINY = "tiny"
STOPPED = 128 + signal.SIGTERM  # exit status


def made(name: str, place: Path, users: int) -> tuple[Path, Any]:
    """The directory of a model, and its tokenizer; a tiny one is made."""
    if name != TINY:
        return model_directory(name), tokenizer_of(name)
    return place / TINY, save(place / TINY, users)


def soaked(name: str, users: int, seconds: float, every: float, seed: int) -> dict[str, Any]:
    """What happened, and all that was wrong."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory, writing() as writer:
        place = Path(directory)
        model, tokenizer = made(name, place, users)
        server = Server(model, place / "store", writer, place / "log")
        everybody = [User(n, server.url, server.name, random.Random(f"{seed}/{n}")) for n in range(users)]
        server.start()
        try:
            wrong = _killed(server, everybody, tokenizer, seconds, every, draw)
            status = server.stop()
        except BaseException:
            server.kill()
            raise
        wrong += [f"user {user.number:02d}: {what}" for user in everybody for what in user.wrong]
        wrong += _on_disk(server.store, tokenizer, everybody, all_done=True)
        wrong += [f"the log: {line}" for line in _errors(server.log)] + (
            [] if status == STOPPED else [f"exit status {status}"]
        )
    counted = sum((user.counted for user in everybody), Counter())
    latencies = sorted(seconds for user in everybody for seconds in user.latencies)
    return {
        "users": users, "seconds": seconds, "kills": server.starts - 1, "counted": dict(sorted(counted.items())),
        "answer seconds": [statistics.median(latencies), latencies[-1]] if latencies else [], "wrong": wrong,
    }  # fmt: skip


def _killed(
    server: Server, everybody: Sequence[User], tokenizer: Any, seconds: float, every: float, draw: random.Random
) -> list[str]:
    """Let all users live, and kill the server now and then, and in the end. Then everybody looks once more."""
    end, wrong, over = time.monotonic() + seconds, [], threading.Event()
    with ThreadPoolExecutor(len(everybody)) as pool:
        lives = [pool.submit(user.live, over.is_set) for user in everybody]
        try:
            while time.monotonic() < end:
                time.sleep(max(0.0, min(every * draw.uniform(0.5, 1.5), end - time.monotonic())))
                server.kill()
                wrong += _on_disk(server.store, tokenizer, everybody)
                server.start()
        except BaseException:
            for user in everybody:
                user.deserted = True
            raise
        finally:
            over.set()  # those who wait for a change see its end
    wrong += [f"{life.exception()!r}" for life in lives if life.exception() is not None]
    for user in everybody:
        user.look()
    return wrong


def _on_disk(store: Path, tokenizer: Any, everybody: Sequence[User], all_done: bool = False) -> list[str]:
    """Codes of others in a user's files; where everything is done, also those that were deleted, and purged."""
    by_identity, wrong = {user.identity: user for user in everybody}, []
    for identity, file, code in codes_of(store, tokenizer):
        user = by_identity[identity]
        if not code.startswith(f"U{user.number:02d}X"):
            wrong.append(f"{code} in {file} of {identity}")
        elif all_done and user.codes.get(code) == GONE:
            wrong.append(f"{code} was purged, and is in {file} of {identity}")
    return wrong


def _errors(log: Path) -> list[str]:
    """The last lines of tracebacks in the server's log."""
    text = log.read_text(errors="replace")
    return [found[1] for found in re.finditer(r"^Traceback .*\n(?:[ \t].*\n|\n)+(\S.*)$", text, re.MULTILINE)]


def page(report: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, row in report["rows"].items():
        median, most = row["answer seconds"]
        lines += [
            f"### {name}", "",
            f"{row['users']} users, {row['seconds']:.0f} seconds, {row['kills']} kills, on {row['date']}. "
            f"An answer took {median:.1f} seconds (median), at most {most:.1f}.",
            "",
        ]  # fmt: skip
        body = [[what, str(times)] for what, times in row["counted"].items()]
        lines += markdown_table(["what", "times"], [*body, ["**wrong**", f"**{len(row['wrong'])}**"]])
        lines += ["", *(f"- {what}" for what in row["wrong"]), ""]
    return lines


def main() -> None:
    parser = command_line(__doc__, model=TINY, quick="keep the result apart")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--every", type=float, default=100, help="seconds from one kill to the next, more or less")
    parser.add_argument("--seed", type=int, default=0)
    options: argparse.Namespace = parser.parse_args()
    row = soaked(options.model, options.users, options.seconds, options.every, options.seed)
    name = stored_as(NAME, quick=options.quick)
    store = Store(name, {"machine": machine(), "rows": stored_report(name).get("rows", {})}, page)
    store.add({f"{options.model}, seed {options.seed}": dated(row)})
    store.show()


if __name__ == "__main__":
    main()
