"""Work in its own thread, while the model keeps answering with its old memory; `ConsolidationJob`, a consolidation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, TypeVar

from ..memory.memory import Memory
from ..util.display import Displayed, Rows
from .consolidate import Consolidation
from .control import Control, Progress

T = TypeVar("T")


class BackgroundJob(Displayed, Generic[T]):
    """Runs `work` in a thread, between whose steps `control` is asked.

    Attributes
    ----------
    progress : the stage, the share that is done, seconds so far and left.
    """

    def __init__(
        self, work: Callable[[], T], control: Control, name: str, on_done: Callable[[T], None] | None = None
    ) -> None:
        self._work, self._control, self._on_done = work, control, on_done
        self._future: Future[T] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _rows(self) -> Rows:
        if not self._future.done():
            return {"ended": False, **self.progress._rows()}
        error = self._future.exception()
        return {"ended": True, "error": None if error is None else type(error).__name__}

    @property
    def progress(self) -> Progress:
        return self._control.progress

    def cancel(self) -> None:
        """Stop within one step. Model and memory do not change. The work done is kept for a later run."""
        self._control.cancel()

    def pause(self) -> None:
        """Wait before the next step, until `resume`."""
        self._control.pause()

    def resume(self) -> None:
        """Continue after `pause`."""
        self._control.resume()

    def done(self) -> bool:
        """Whether it has ended: accepted, rejected, cancelled or failed."""
        return self._future.done()

    def succeeded(self) -> bool:
        """Whether it has ended with a memory, accepted or rejected."""
        return self._future.done() and self._future.exception() is None

    def wait(self) -> None:
        """Wait until it has ended, however it ends."""
        self._thread.join()

    def result(self, timeout: float | None = None) -> T:
        """Wait for what was made and return it, a memory: see `memory.report.accepted`.

        Raises
        ------
        TimeoutError
            When it has not ended after `timeout` seconds.
        Cancelled
            When it was cancelled.
        """
        return self._future.result(timeout)

    def _run(self) -> None:
        try:
            made = self._work()
        except BaseException as error:
            self._future.set_exception(error)
            return
        self._future.set_result(made)
        if self._on_done is not None:
            self._on_done(made)


class ConsolidationJob(BackgroundJob[Memory]):
    """What `consolidate(background=True)` returns.

    Attributes
    ----------
    progress : the stage, the share that is done, seconds so far and left.
    """

    def __init__(
        self,
        consolidation: Consolidation,
        work_dir: Path,
        accept: Callable[[Memory], Memory],
        on_done: Callable[[Memory], None] | None,
    ) -> None:
        super().__init__(lambda: accept(consolidation.run(work_dir)), consolidation.control, "ttt-consolidate", on_done)

    def _rows(self) -> Rows:
        if not self.succeeded():
            return super()._rows()
        report = self._future.result().report
        return {"ended": True, "accepted": None if report is None else report.accepted}
