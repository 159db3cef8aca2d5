"""`ConsolidationJob`: a consolidation in its own thread, while the model keeps answering with its old memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from ..memory.memory import Memory
from ..util.display import Displayed, Rows
from .consolidate import Consolidation
from .control import Progress


class ConsolidationJob(Displayed):
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
        self._consolidation, self._work_dir = consolidation, work_dir
        self._accept, self._on_done = accept, on_done
        self._future: Future[Memory] = Future()
        self._thread = threading.Thread(target=self._run, name="ttt-consolidate", daemon=True)
        self._thread.start()

    def _rows(self) -> Rows:
        if not self._future.done():
            return {"ended": False, **self.progress._rows()}
        error = self._future.exception()
        if error is not None:
            return {"ended": True, "error": type(error).__name__}
        report = self._future.result().report
        return {"ended": True, "accepted": None if report is None else report.accepted}

    @property
    def progress(self) -> Progress:
        return self._consolidation.control.progress

    def cancel(self) -> None:
        """Stop within one step. Model and memory do not change. The work done is kept for a later run."""
        self._consolidation.control.cancel()

    def pause(self) -> None:
        """Wait before the next step, until `resume`."""
        self._consolidation.control.pause()

    def resume(self) -> None:
        """Continue after `pause`."""
        self._consolidation.control.resume()

    def done(self) -> bool:
        """Whether it has ended: accepted, rejected, cancelled or failed."""
        return self._future.done()

    def succeeded(self) -> bool:
        """Whether it has ended with a memory, accepted or rejected."""
        return self._future.done() and self._future.exception() is None

    def wait(self) -> None:
        """Wait until it has ended, however it ends."""
        self._thread.join()

    def result(self, timeout: float | None = None) -> Memory:
        """Wait for the memory and return it. See `memory.report.accepted`.

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
            memory = self._accept(self._consolidation.run(self._work_dir))
        except BaseException as error:
            self._future.set_exception(error)
            return
        self._future.set_result(memory)
        if self._on_done is not None:
            self._on_done(memory)
