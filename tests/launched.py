"""A script in processes of its own, as `accelerate launch` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HEAD = """
import os, sys, torch
torch.set_num_threads(1)
sys.path[:0] = [{tests!r}]
"""
TAIL = """
if os.environ.get("RANK", "0") == "0":
    torch.save(results, {result!r})
"""


def launched(folder: Path, script: str, processes: int) -> Any:
    """What a script calls `results`, in the first of its processes. The modules of the tests can be imported in it."""
    folder.mkdir(exist_ok=True)
    file, result = folder / "script.py", folder / "result.pt"
    head, tail = HEAD.format(tests=str(Path(__file__).parent)), TAIL.format(result=str(result))
    file.write_text(head + script + tail)
    launch([str(file)], processes)
    return torch.load(result)


def launch(command: list[str], processes: int) -> None:
    """Run a script and its arguments on CPUs."""
    several = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    # With CPUs only, accelerate's own name for one process on each device needs this.
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, *(several if processes > 1 else []), *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
