"""Interrupts that are not lost. Python drops one that it cannot raise, in a finalizer for instance."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupts:
    """Within it, Ctrl-C raises `KeyboardInterrupt` as always, and is known to have come until it is left."""

    def __init__(self) -> None:
        self.came = False
        self._before: signal._HANDLER = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # no other one may set handlers, or gets signals
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if one came and was dropped: long work calls this between its steps."""
        if self.came:
            raise KeyboardInterrupt
