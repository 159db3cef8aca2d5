"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # that is measured on unless another is named


def machine() -> dict[str, Any]:
    """The processor, the GPU where there is one, and the versions."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        processor = named[0] if named else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def in_words(machine: dict[str, Any]) -> str:
    """Of `machine()`."""
    where = machine.get("gpu") or f"{machine.get('processor')}, {machine.get('threads')} threads"
    return f"{where}, torch {machine.get('torch')}"


def places(report: dict[str, Any]) -> str:
    """Where the rows of a report were measured."""
    return "; ".join(sorted(set(report.get("where", {}).values())) or [in_words(report.get("machine", {}))])
