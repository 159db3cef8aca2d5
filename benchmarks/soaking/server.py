"""A `ttt-retrofit serve` in a process of its own, which is killed and started again on the same store."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

# Memories are made within seconds, whatever the model learns of it.
RECIPE = (
    "epochs=1", "least_steps=1", "wordings=1", "answer_tokens=4", "kept_logits=4", "min_recall=0.0", "max_drift=1000.0",
    "max_changed=1.0", "memory.rank=2",
)  # fmt: skip
STARTED, ENDED = 120.0, 60.0  # seconds that it may take
IDLE = 5  # seconds of silence after which a user's words become memory


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclass
class Server:
    """It answers at `url` between `start` and `kill`, always at the same address.

    Attributes
    ----------
    log : what its processes say.
    """

    model: Path
    store: Path
    writer: str
    log: Path
    port: int = field(default_factory=_free_port)
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        """Of the model, as requests give it."""
        return self.model.resolve().name

    def start(self) -> None:
        """Returns when it answers.

        Raises
        ------
        RuntimeError
            When it ends, or does not answer.
        """
        options = ["--store", str(self.store), "--port", str(self.port), "--writer", self.writer, "--idle", str(IDLE)]
        options += ["--max-concurrent", "64", "--max-new-tokens", "24"]
        for change in RECIPE:
            options += ["--recipe", change]
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "ttt_retrofit_cli", "serve", str(self.model), *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self.starts += 1
        latest = time.monotonic() + STARTED
        while time.monotonic() < latest and self._process.poll() is None:
            try:
                httpx.get(f"{self.url}/health", timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise RuntimeError(f"The server did not start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, at whatever it does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(ENDED)
