"""What a call costs: seconds and peak bytes, measured in a process of its own, or why it could not be.

It knows nothing of models. Bytes are resident ones on a CPU, allocated ones on a GPU.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
STATUS, MEMORY, CLEAR = (Path("/proc") / name for name in ("self/status", "meminfo", "self/clear_refs"))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # that is measured on unless another is named
RESET_PEAK = "5"  # written to clear_refs, sets VmHWM to VmRSS: proc(5)


def ask(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON object that `python -m module` prints last, or {"failed": why} if it did not end well."""
    run = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=os.environ)
    if run.returncode != 0:
        return {"failed": reason(run.returncode, run.stderr)}
    return json.loads(run.stdout.splitlines()[-1])


def here(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The same in this process: for a GPU, where bytes can be told apart and models take long to load."""
    try:
        return importlib.import_module(module).row(arguments)
    except Exception as error:
        return failure(error)


def reason(code: int, said: str) -> str:
    """Why a process failed, in a line: the signal that ended it, or the last line it said, without directories."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in said.splitlines() if line.strip()]
    return re.sub(r"(?<![\w.])(/[^/\s'\"]+)+/", "", lines[-1]) if lines else f"exit status {code}"


def failure(error: Exception) -> dict[str, str]:
    """What stands in a table for a row that raised, hours into a run that must not cost the others theirs.

    The traceback goes to stderr.
    """
    traceback.print_exception(error)
    return {"failed": reason(1, f"{type(error).__name__}: {error}".splitlines()[0])}


def limit_memory() -> None:
    """Let this process fail, rather than the machine stall, when it needs more than is free now."""
    if MEMORY.exists():
        free = 1024 * _field(MEMORY, "MemAvailable")
        resource.setrlimit(resource.RLIMIT_DATA, (free, free))


def timed(device: torch.device, run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of a call, and what it returned."""
    _synchronize(device)
    began = time.perf_counter()
    result = run()
    _synchronize(device)
    return time.perf_counter() - began, result


class PeakMeter:
    """The most bytes held since it was made, above what was held then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        elif self.works:
            # Freed memory that this process still holds would be taken first, and hide as much of the peak.
            ctypes.CDLL(None).malloc_trim(0)
            CLEAR.write_text(RESET_PEAK)
            self.before = 1024 * _field(STATUS, "VmRSS")

    @property
    def works(self) -> bool:
        """Whether the peak can be reset here: on a GPU, and on a CPU under Linux with glibc."""
        return self.device.type == "cuda" or (os.access(CLEAR, os.W_OK) and platform.libc_ver()[0] == "glibc")

    def bytes(self) -> int | None:
        """None where it does not work."""
        if not self.works:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return 1024 * _field(STATUS, "VmHWM") - self.before


def _field(path: Path, name: str) -> int:
    (line,) = (line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
