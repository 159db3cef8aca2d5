"""`consolidate` and `memory`: contexts made into memories, and what can be done with those.

A user's directory is what `ChatSession` keeps: the versions of the memory stand in its `memory` folder.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from ttt_retrofit.chat.session import STORE, TURNS, WORK
from ttt_retrofit.consolidation.config import ConsolidationConfig
from ttt_retrofit.errors import CheckpointError, ConfigError, InputError
from ttt_retrofit.memory.config import MemoryConfig
from ttt_retrofit.memory.memory import Memory
from ttt_retrofit.memory.store import VERSIONS, MemoryStore
from ttt_retrofit.memory.stored import HEADER
from ttt_retrofit.serving.directories import erase_stored
from ttt_retrofit.util.files import remove, remove_unfinished

from .contexts import read_context, read_text
from .loading import Choices, check_new, load_model, load_tokenizer, settings
from .output import Output, table

PLACES = "memory."  # before a field of MemoryConfig in a recipe


def recipe(said: list[str]) -> ConsolidationConfig:
    """`ConsolidationConfig` with the fields NAME=VALUE changed, and those of its `MemoryConfig` as memory.NAME=VALUE.

    Raises
    ------
    ConfigError
        For a field that neither has, or a value that does not fit.
    """
    changes = settings(said)
    memory = {name.removeprefix(PLACES): changes.pop(name) for name in list(changes) if name.startswith(PLACES)}
    known = {field.name for field in dataclasses.fields(ConsolidationConfig)} - {"memory"}
    unknown = sorted(set(changes) - known - set(ConsolidationConfig.removed))
    if unknown:
        raise ConfigError(
            f"Unknown fields of ConsolidationConfig {unknown}. Known fields are {sorted(known)}, and memory.NAME for "
            "those of MemoryConfig."
        )
    return ConsolidationConfig(MemoryConfig.from_dict(memory), **changes)


def read_questions(path: Path | None) -> list[str] | None:
    """The lines of a file that are not empty."""
    return None if path is None else [line.strip() for line in read_text(path).splitlines() if line.strip()]


def consolidate(
    out: Output,
    name: str,
    file: Path,
    directory: Path,
    seconds: float | None,
    questions: Path | None,
    said: list[str],
    choices: Choices,
    device: str | None,
) -> bool:
    """Add what a file says to the memory in a user's directory; whether it was accepted."""
    context, config, asked = read_context(file), recipe(said), read_questions(questions)
    model, tokenizer = load_model(name, choices, device), load_tokenizer(name, choices)
    store = MemoryStore(directory / STORE)
    # Held all the while: what another one added meanwhile would be left out of the new version.
    with store.writing(), out.stages() as progress:
        memory = model.consolidate(
            context,
            tokenizer=tokenizer,
            config=config,
            budget=seconds,
            questions=asked,
            earlier=store.load(),
            load=False,
            progress=progress,
            work_dir=directory / WORK,
        )
        accepted = memory.report.accepted
        version = store.save(memory) if accepted else None
    document = {"memory": str(directory), "version": version, "report": memory.report.to_dict()}
    saved = f"Saved as version {version} in {directory}." if accepted else "Not saved: the memory before it stays."
    out.result(document, str(memory.report), saved)
    return accepted


def show_list(out: Output, directory: Path) -> None:
    """Every version of the memory in a user's directory."""
    store = _store(directory)
    current, found = store.current(), {number: _load(store, number) for number in store.versions()}
    shown = table(f"Memory in {directory}", ["version", "", "made", "contexts", "recall", "drift", "kB"])
    for number, memory in found.items():
        recall = "" if memory.report is None or memory.report.recall is None else f"{memory.report.recall:.0%}"
        drift = "" if memory.report is None else f"{memory.report.drift_loss:+.2%}"
        cells = [_when(memory.created), str(len(memory.entries)), recall, drift, f"{memory.nbytes / 1e3:,.0f}"]
        shown.add_row(str(number), "speaks" if number == current else "", *cells)
    versions = [{"version": number} | _document(memory) for number, memory in found.items()]
    out.result({"directory": str(directory), "current": current, "versions": versions}, shown)


def show(out: Output, where: Path, version: int | None) -> None:
    """One memory: its contexts and its report."""
    memory = chosen_memory(where, version)
    shown = table(f"{memory.base_name}, {memory.nbytes / 1e3:,.0f} kB, made {_when(memory.created)}",
                  ["entry", "made", "contexts", "tokens", "lessons", "kB"])  # fmt: skip
    for entry in memory.entries:
        tokens = sum(source.tokens for source in entry.sources)
        figures = (len(entry.sources), tokens, len(entry.lessons), round(entry.nbytes / 1e3))
        shown.add_row(entry.name, _when(entry.created), *(f"{figure:,}" for figure in figures))
    out.result(_document(memory), shown, _said(memory))


def _said(memory: Memory) -> str:
    """The report, which is what the file says of itself."""
    if memory.report is None:
        return "No report: entries were combined or dropped."
    return f"As the file says:\n{memory.report}"


def rollback(out: Output, directory: Path) -> None:
    """Let the version before the current one speak."""
    store = _store(directory)
    before = store.current()
    store.rollback()
    now = store.current()
    spoken = "nothing is remembered now" if now is None else f"version {now} speaks now"
    out.result(
        {"directory": str(directory), "before": before, "current": now}, f"Rolled back version {before}: {spoken}."
    )


def erase(out: Output, directory: Path, identity: str | None) -> None:
    """Delete all that a server has stored of a user; or, where nobody is named, what is in a user's own directory.

    Raises
    ------
    InputError
        When nothing is stored, or a server is running, or the directory is of the other kind.
    """
    one_user = (directory / TURNS).is_file() or (directory / STORE).is_dir()
    if identity is None:
        if not one_user:
            raise InputError(
                f"{directory} holds neither words nor memory of one user. Expected what was given to `chat --memory` "
                "or `consolidate --memory`; of a server's store, name the user as well: memory erase STORE USER."
            )
        store = MemoryStore(directory / STORE)
        store.erase()
        with store.writing():
            (directory / TURNS).unlink(missing_ok=True)
            remove(directory / WORK)
            remove_unfinished(directory)
        out.result({"store": str(directory), "user": None}, f"Erased: words and memory in {directory}.")
        return
    if one_user:
        raise InputError(
            f"{directory} is the directory of one user, not a server's store. To erase it: memory erase {directory}"
        )
    if not erase_stored(directory, identity):
        raise InputError(f"Nothing is stored of a user {identity!r} in {directory}.")
    out.result({"store": str(directory), "user": identity}, f"Erased: words and memory of {identity}.")


def export(out: Output, where: Path, target: Path, version: int | None, rank: int, transposed: bool) -> None:
    """Write a memory as a PEFT LoRA adapter."""
    check_new(target)
    kept = chosen_memory(where, version).to_lora(target, rank=rank, transposed=transposed)
    least = min(kept.values())
    said = f"{target}: a LoRA adapter of rank at most {rank}, which keeps at least {least:.0%} of every projection."
    out.result({"saved": str(target), "rank": rank, "energy_kept": kept}, said)


def combine(out: Output, sources: list[Path], target: Path, weights: list[float] | None) -> None:
    """Write one memory with the entries of several."""
    check_new(target)
    memory = Memory.combine([chosen_memory(source, None) for source in sources], weights or None)
    memory.save(target)
    said = f"{target}: {len(memory.entries)} entries of {len(sources)} memories."
    out.result({"saved": str(target)} | _document(memory), said)


def _store(directory: Path) -> MemoryStore:
    """The store in a user's directory, or the directory itself where it is one."""
    for path in (directory / STORE, directory):
        if (path / VERSIONS).is_dir():
            return MemoryStore(path)
    raise InputError(
        f"{directory} holds no memory store. Expected the directory that was given to `chat --memory`, to "
        "`consolidate --memory` or to ChatSession."
    )


def chosen_memory(where: Path, version: int | None) -> Memory:
    """A memory that was saved alone, or a version out of a store: the one that speaks when none is named."""
    if (where / HEADER).exists():
        if version is not None:
            raise InputError(f"{where} is a memory saved alone, which has no version {version}.")
        return Memory.load(where)
    store = _store(where)
    number = store.current() if version is None else version
    if number is None:
        raise InputError(f"In {where} no version speaks; it has {store.versions()}. Name one with --version.")
    return _load(store, number)


def _load(store: MemoryStore, number: int) -> Memory:
    if number not in store.versions():
        raise CheckpointError(f"{store.directory} has no version {number}. Versions are {store.versions()}.")
    memory = store.load(number)
    assert memory is not None
    return memory


def _document(memory: Memory) -> dict[str, Any]:
    return {
        "base": memory.base_name,
        "fingerprint": memory.base,
        "created": memory.created,
        "bytes": memory.nbytes,
        "entries": [
            {
                "name": entry.name,
                "created": entry.created,
                "sources": [dataclasses.asdict(source) for source in entry.sources],
                "lessons": len(entry.lessons),
                "bytes": entry.nbytes,
            }
            for entry in memory.entries
        ],
        "report": None if memory.report is None else memory.report.to_dict(),
    }


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
