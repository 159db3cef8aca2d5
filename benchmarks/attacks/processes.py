"""Writers that are killed, that find the disk full, or that write at once."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .files import copied
from .stored import Stored
from .verdict import Apart, Verdict, apart, brief, judged

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
KILLS = [f"{name} while writing" for name in SIGNALS]
FULL, TOGETHER = "disk full", "three writers at once"
ATTACKS = [*KILLS, FULL, TOGETHER]


def attack(stored: Stored, whole: Path, expected: Any, how: str, draw: random.Random) -> Verdict:
    with copied(whole) as place:
        if how == FULL:
            return _full(stored, place, expected, draw)
        if how == TOGETHER:
            return _together(stored, place, expected)
        return _killed(stored, place, expected, SIGNALS[how.partition(" ")[0]], draw)


def _killed(stored: Stored, place: Path, expected: Any, number: int, draw: random.Random) -> Verdict:
    """What was there, or what was being written, is there afterwards."""
    moments = _moments(stored, place)
    aimed, done = draw.randrange(max(moments, 1)), _afterwards(stored, place)

    def change() -> None:
        _at_moment(place, aimed, lambda: os.kill(os.getpid(), number))
        stored.change(place)

    ended = apart(change)
    if ended.how == "hung":
        return Verdict("wrong", ended.what)
    return judged(apart(lambda: stored.use(place)), [expected, done], [place.name])


def _full(stored: Stored, place: Path, expected: Any, draw: random.Random) -> Verdict:
    """Whoever writes is told, with the file's name, and what was there stays."""
    done, most = _afterwards(stored, place), int(2 ** draw.uniform(0, 18))

    def change() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        stored.change(place)

    ended = apart(change)
    if ended.how not in ("returned", "refused", "full"):
        return Verdict("wrong", brief(f"not said which file: {ended.what}"))
    after = judged(
        apart(lambda: stored.use(place)), [done] if ended.how == "returned" else [expected, done], [place.name]
    )
    if after.word == "right" and ended.how != "returned":
        return Verdict("refused", brief(ended.what))
    return after


def _together(stored: Stored, place: Path, expected: Any) -> Verdict:
    """As many changes are there as writers were told that theirs was made."""
    one_by_one = [expected]
    with copied(place) as other:
        for _ in range(3):
            apart(lambda: stored.change(other))
            with copied(other) as used:
                one_by_one.append(apart(lambda used=used: stored.use(used)).what)
    writers = [Apart(lambda: stored.change(place)) for _ in range(3)]
    ended = [writer.ended() for writer in writers]
    for one in ended:
        if one.how != "returned" and (one.how != "refused" or place.name not in one.what):
            return Verdict("wrong", brief(f"a writer: {one.what}"))
    made = sum(one.how == "returned" for one in ended)
    after = judged(apart(lambda: stored.use(place)), [one_by_one[made]], [place.name])
    if after.word != "right":
        return Verdict("wrong", f"{made} of 3 were told that they wrote: {after.why}")
    return Verdict("right" if made == 3 else "refused", "one writer at a time")


def _afterwards(stored: Stored, place: Path) -> Any:
    """What is made of it when the change is through."""
    with copied(place) as other:
        apart(lambda: stored.change(other))
        return apart(lambda: stored.use(other)).what


def _moments(stored: Stored, place: Path) -> int:
    """How many files are opened, renamed and deleted in the course of a change."""

    def counted() -> int:
        seen = [0]
        with copied(place) as other:
            _at_every_moment(other, lambda: seen.__setitem__(0, seen[0] + 1))
            stored.change(other)
            return seen[0]

    return apart(counted).what


def _at_moment(place: Path, aimed: int, do: Callable[[], None]) -> None:
    left = [aimed]

    def next_moment() -> None:
        left[0] -= 1
        if left[0] == -1:
            do()

    _at_every_moment(place, next_moment)


def _at_every_moment(place: Path, do: Callable[[], None]) -> None:
    """Python says of each file what is about to be done to it; this process will listen to its end."""

    def listen(event: str, args: tuple[Any, ...]) -> None:
        if (event == "open" or event.startswith(("os.", "shutil."))) and str(place) in str(args):
            do()

    sys.addaudithook(listen)
