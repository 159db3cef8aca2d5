"""What a call costs: seconds and peak bytes.

It knows nothing of models. Bytes are resident ones on a CPU, allocated ones on a GPU.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
STATUS, MEMORY, CLEAR = (Path("/proc") / name for name in ("self/status", "meminfo", "self/clear_refs"))
RESET_PEAK = "5"  # written to clear_refs, sets VmHWM to VmRSS: proc(5)


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


def of_reading(
    device: torch.device, read: Callable[[], T], decode: Callable[[T], object], size: Callable[[T], int], reads: int
) -> dict[str, Any]:
    """Seconds of each read and the fastest, of decoding after the first, bytes held after it and at its peak."""
    meter = PeakMeter(device)
    first, after = timed(device, read)
    peak, held = meter.bytes(), size(after)
    decoding, _ = timed(device, partial(decode, after))
    del after  # of some systems, there is no room for a second state
    every = [first, *(timed(device, read)[0] for _ in range(reads - 1))]
    load = round(os.getloadavg()[0], 2)
    return {"read": min(every), "reads": every, "decoding": decoding, "held": held, "peak": peak, "load_average": load}


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
