"""How an attack ended: it is tried in a process of its own, and held against what is right.

It knows nothing of models. *Right*: the same as without the attack. *Refused*: an error of the library that names what
was attacked. *Wrong*: anything else, such as another result without a word, another error, or no end.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ttt_retrofit import TTTError

ROOM = 4 << 30  # bytes of memory that a call may take: a device may have no end
PATIENCE = 30.0  # seconds until something counts as hanging

NEAR = 1e-4  # between logits of the same weights: kernels round by how tensors are aligned


@dataclass(frozen=True)
class CallResult:
    """The outcome of a call in a process of its own."""

    how: Literal["returned", "refused", "full", "raised", "killed", "hung"]
    what: Any  # the JSON value that was returned, or words


@dataclass(frozen=True)
class Verdict:
    word: Literal["right", "refused", "wrong"]
    why: str = ""


class Apart:
    """A call in a forked process; what it returns is JSON."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self._reading, writing = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self._reading)
            _in_child(do, writing)
        os.close(writing)

    def ended(self, patience: float = PATIENCE) -> CallResult:
        said, deadline = b"", time.monotonic() + patience
        while piece := self._piece(deadline):
            said += piece
        hung = piece is None
        if hung:
            os.kill(self.process, signal.SIGKILL)
        os.close(self._reading)
        ended = os.WTERMSIG(os.waitpid(self.process, 0)[1])
        if hung:
            return CallResult("hung", f"no end within {patience:.0f} s")
        if said:
            return CallResult(*json.loads(said))
        return CallResult("killed", f"killed by {signal.Signals(ended).name}" if ended else "ended without a word")

    def _piece(self, deadline: float) -> bytes | None:
        """What it said; nothing at its end, None when it took too long."""
        ready = select.select([self._reading], [], [], max(deadline - time.monotonic(), 0))[0]
        return os.read(self._reading, 1 << 20) if ready else None


def apart(do: Callable[[], Any], patience: float = PATIENCE) -> CallResult:
    return Apart(do).ended(patience)


def _in_child(do: Callable[[], Any], writing: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    try:
        said = json.dumps(["returned", do()])
    except TTTError as error:
        said = json.dumps(["refused", f"{type(error).__name__}: {error}"])
    except OSError as error:
        said = json.dumps(["full" if error.filename else "raised", f"{error!r}"])
    except BaseException as error:
        said = json.dumps(["raised", f"{type(error).__name__}: {error}"])
    data = said.encode()
    while data:
        data = data[os.write(writing, data) :]
    os._exit(0)


def judged(ended: CallResult, right: Sequence[Any], names: Sequence[str]) -> Verdict:
    """Against the results that are right, and the names of which an error is to say one."""
    if ended.how == "returned":
        return (
            Verdict("right")
            if any(same(ended.what, one) for one in right)
            else Verdict("wrong", "another result, without a word")
        )
    if ended.how == "refused":
        named = any(name in ended.what for name in names)
        return (
            Verdict("refused", brief(ended.what)) if named else Verdict("wrong", f"names no file: {brief(ended.what)}")
        )
    return Verdict("wrong", brief(str(ended.what)))


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, numbers as far as another place in memory changes them."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= NEAR
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def brief(said: str) -> str:
    """In a line, without directories."""
    return re.sub(r"(?<![\w.])(/[^/\s'\"]+)+/", "", " ".join(said.split()))[:200]
