"""What every stage of a consolidation asks between two steps: is it cancelled, paused, is the budget spent?"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import Cancelled
from ..util.display import Bare, Displayed, Rows
from .config import Budget


@dataclass(frozen=True, repr=False)
class Progress(Displayed):
    """How far a consolidation is."""

    stage: str  # "study", "train", "verify", "done"
    done: int
    total: int
    seconds: float  # since the start, pauses excluded
    seconds_left: float | None  # of this stage, at its pace so far

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON values."""
        return dataclasses.asdict(self)

    def _rows(self) -> Rows:
        return {
            "stage": self.stage,
            "done": Bare(f"{self.done:,} of {self.total:,}"),
            "seconds": round(self.seconds),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left),
        }


class Control:
    """Shared between the thread that works and the one that watches."""

    def __init__(
        self, budget: Budget, report: Callable[[Progress], None] | None = None, end: Callable[[], None] = lambda: None
    ) -> None:
        self.budget = budget
        self.end = end  # called when nothing more is reported, however it ended
        self.progress = Progress("waiting", 0, 0, 0.0, None)
        self._report = report
        self._cancelled = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._began = time.monotonic()
        self._paused = 0.0
        self._stage_began = 0.0
        self.seconds: dict[str, float] = {}

    def cancel(self) -> None:
        self._cancelled.set()
        self._running.set()

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def elapsed(self) -> float:
        """Seconds of work, pauses excluded."""
        return time.monotonic() - self._began - self._paused

    def spent(self, since: float = 0.0) -> float:
        """Share of the budget's seconds that is spent, from 0 to 1 and more; of those that were left at `since`."""
        if self.budget.seconds is None:
            return 0.0
        left = self.budget.seconds - since
        return (self.elapsed - since) / left if left > 0 else 1.0

    def check(self) -> None:
        """Wait while paused; raise `Cancelled` if cancelled. Called at every step and every token written."""
        if not self._running.is_set():
            stopped = time.monotonic()
            self._running.wait()
            self._paused += time.monotonic() - stopped
        if self._cancelled.is_set():
            raise Cancelled("The consolidation was cancelled. Model and memory are as they were before it.")

    def at(self, stage: str, done: int, total: int) -> None:
        """Note progress, and check."""
        now, before = self.elapsed, self.progress
        # What passed since the last call belongs to the stage that was under way then.
        self.seconds[before.stage] = self.seconds.get(before.stage, 0.0) + now - before.seconds
        if stage != before.stage:
            self._stage_began = now
        left = (now - self._stage_began) / done * (total - done) if done else None
        self.progress = Progress(stage, done, total, now, left)
        if self._report is not None:
            self._report(self.progress)
        self.check()
