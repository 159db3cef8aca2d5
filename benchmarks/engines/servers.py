"""Engines as processes of their own, and how each is asked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTS = 1800  # seconds that an engine may take to start
TOGETHER = 10  # requests that llama.cpp answers at once
BASE = "base"  # the model's name where no adapter is asked for
Ask = Callable[[Sequence[int]], list[int]]


def post(address: str, body: dict[str, Any]) -> Any:
    """The JSON that an address answers, or its text where that is none."""
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=1800) as response:
        said = response.read().decode()
    return json.loads(said) if said.startswith("{") else said


@contextmanager
def running(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended with the block. Its standard error goes to a file."""
    with log.open("w") as said:
        process = subprocess.Popen(
            command, env=os.environ | environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
        )  # fmt: skip
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()
            process.wait(timeout=60)


def wait_for(address: str, process: subprocess.Popen[str], log: Path) -> None:
    """Until an address answers.

    Raises
    ------
    SystemExit
        When the process ends before, or takes too long.
    """
    end = time.monotonic() + STARTS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise SystemExit(f"{process.args} did not start. The end of what it said:\n{log.read_text()[-2000:]}")


@contextmanager
def vllm(environment: Path, model: Path, adapters: Path, work: Path) -> Iterator[str]:
    """The address of vLLM serving a model in float32, which finds adapters by name in a directory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(adapters),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": "",  # this project is not there
    }
    options = "--enable-lora --max-lora-rank 16 --max-loras 2 --dtype float32 --enforce-eager"
    options += " --max-model-len 2048 --max-num-seqs 64"
    # Not `vllm serve`: it asks for the version of a package vllm, and the CPU's is called vllm-cpu.
    command = [
        str(environment / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        *options.split(), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", BASE,
    ]  # fmt: skip
    log, address = work / "vllm.log", f"http://127.0.0.1:{port}"
    with running(command, settings, log) as process:
        wait_for(f"{address}/health", process, log)
        yield address


def ask_vllm(address: str, name: str, tokens: int) -> Ask:
    """Greedy answers of vLLM; `name` is `BASE` or that of an adapter."""

    def ask(prompt: Sequence[int]) -> list[int]:
        body = {
            "model": name, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "return_token_ids": True
        }  # fmt: skip
        found: list[int] = post(f"{address}/v1/completions", body)["choices"][0]["token_ids"]
        return found

    return ask


@contextmanager
def llama_cpp(environment: Path, model: Path, adapter: Path, work: Path) -> Iterator[str]:
    """The address of llama.cpp serving a GGUF file, with an adapter that acts where a request says so."""
    script = Path(__file__).with_name("serve_llama_cpp.py")
    log = work / "llama_cpp.log"
    command = [str(environment / "bin" / "python"), str(script), str(model), str(adapter), str(TOGETHER)]
    with running(command, {"PYTHONPATH": ""}, log) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            process.wait(timeout=60)
        wait_for(f"{address}/health", process, log)
        yield address


def ask_llama_cpp(address: str, scale: float, tokens: int) -> Ask:
    """Greedy answers of llama.cpp, its first adapter multiplied by `scale`."""

    def ask(prompt: Sequence[int]) -> list[int]:
        body = {
            "prompt": list(prompt), "n_predict": tokens, "temperature": 0, "return_tokens": True,
            "lora": [{"id": 0, "scale": scale}], "cache_prompt": False, "repeat_penalty": 1.0,
        }  # fmt: skip
        found: list[int] = post(f"{address}/completion", body)["tokens"]
        return found

    return ask
