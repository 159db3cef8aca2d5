"""What a consolidation has done so far, on disk, so that a cancelled or killed one goes on where it was.

The directory is personal (mode 0700): it holds questions and answers about the context. It is removed when the
consolidation ends, accepted or not.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor
from transformers.utils import logging

from ..errors import InputError
from ..files import private_directory, write_atomically
from .distill import Leaves, State
from .study import Question
from .writer import Answer

logger = logging.get_logger(__name__)

FORMAT = 6  # of the files of work in progress; work of another format is not gone on with
STUDY, TRAINING = "study.safetensors", "training.safetensors"
WRITTEN = "written-{}.safetensors"  # answers of one call, whose name tells what was asked
SAVE_EVERY = 15.0  # seconds
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of every leaf, which takes no step where no gate opened


def default_directory() -> Path:
    """Where work in progress is kept when nothing else is said: the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ttt_retrofit" / "consolidations"


@dataclass
class Work:
    """The directory of one consolidation, held by one process at a time."""

    directory: Path
    last_saved: float = 0.0
    full: bool = False  # a write failed; the work itself goes on

    @classmethod
    def open(cls, parent: Path, key: str) -> Work:
        """Raises `InputError` when another process works on the same consolidation."""
        directory = parent / key
        private_directory(directory)
        work = cls(directory)
        work.lock = FileLock(directory / "lock")
        try:
            work.lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"Another process is consolidating this very context with this model ({directory}). Wait for it, or "
                "give this one another work_dir."
            ) from error
        return work

    def __post_init__(self) -> None:
        self.lock: FileLock | None = None

    def close(self, finished: bool) -> None:
        if self.lock is not None:
            self.lock.release()
        if finished or not any(self.directory.glob("*.safetensors")):  # nothing to go on from
            shutil.rmtree(self.directory, ignore_errors=True)

    def _write(self, name: str, tensors: dict[str, Tensor], header: Any) -> None:
        try:
            named = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            blob = tensors_to_bytes(named, metadata={"header": json.dumps(header)})
            write_atomically(self.directory / name, blob)
        except OSError as error:
            if not self.full:
                logger.warning("Work in progress cannot be saved to %s: %s. Going on without.", self.directory, error)
            self.full = True

    def _read(self, name: str) -> tuple[dict[str, Tensor], Any] | None:
        path = self.directory / name
        try:
            blob = path.read_bytes()
            size = int.from_bytes(blob[:8], "little")
            header = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["header"])
            return tensors_from_bytes(blob), header
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError, KeyError) as error:
            logger.warning("%s cannot be read (%s); that part of the work is done again.", path, error)
            return None

    def save_study(self, questions: Sequence[Question], outdated: Collection[int]) -> None:
        asked = [[q.text, sorted(q.value), len(q.answer.ids), q.statement, q.held_out] for q in questions]
        self._write(STUDY, _as_tensors([q.answer for q in questions]), [asked, sorted(outdated)])

    def load_study(self) -> tuple[list[Question], frozenset[int]] | None:
        stored = self._read(STUDY)
        if stored is None:
            return None
        tensors, (asked, outdated) = stored
        answers = _as_answers(tensors, [count for _, _, count, _, _ in asked])
        questions = [
            Question(text, frozenset(value), answer, statement, held_out)
            for (text, value, _, statement, held_out), answer in zip(asked, answers)
        ]
        return questions, frozenset(outdated)

    def save_answers(self, name: str, answers: Sequence[Answer]) -> None:
        self._write(WRITTEN.format(name), _as_tensors(answers), [len(answer.ids) for answer in answers])

    def load_answers(self, name: str) -> list[Answer] | None:
        stored = self._read(WRITTEN.format(name))
        return None if stored is None else _as_answers(*stored)

    def save_training(self, state: State) -> None:
        if time.monotonic() - self.last_saved < SAVE_EVERY:
            return
        self.last_saved = time.monotonic()
        tensors = {}
        for index, (path, name, leaf) in enumerate(_listed(state.leaves)):
            tensors[f"{path}|{name}"] = leaf
            moments = state.optimizer.state.get(leaf, {})
            tensors |= {f"{index}|{moment}": moments[moment] for moment in MOMENTS if moment in moments}
        self._write(TRAINING, tensors, {"step": state.step, "known": state.known})

    def load_training(self, state: State) -> None:
        """Put what was saved into a fresh `state`; leaves it as it is where nothing fits."""
        stored = self._read(TRAINING)
        if stored is None:
            return
        tensors, header = stored
        known = {}
        for index, (path, name, leaf) in enumerate(_listed(state.leaves)):
            leaf.data.copy_(tensors[f"{path}|{name}"])
            if f"{index}|{MOMENTS[0]}" in tensors:
                known[index] = {m: tensors[f"{index}|{m}"] for m in MOMENTS}
        state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": known})
        state.step, state.known = header["step"], header["known"]


def _as_tensors(answers: Sequence[Answer]) -> dict[str, Tensor]:
    """One after the other."""
    tensors = {"ids": torch.tensor([token for answer in answers for token in answer.ids], dtype=torch.int32)}
    if answers:
        tensors["indices"] = torch.cat([answer.indices for answer in answers])
        tensors["logprobs"] = torch.cat([answer.logprobs for answer in answers])
    return tensors


def _as_answers(tensors: dict[str, Tensor], lengths: Sequence[int]) -> list[Answer]:
    """Of `_as_tensors`, by the tokens of each."""
    if not lengths:
        return []
    ids, indices, logprobs = (tensors[name].split(list(lengths)) for name in ("ids", "indices", "logprobs"))
    return [Answer(tuple(one.tolist()), *sure) for one, *sure in zip(ids, indices, logprobs)]


def _listed(leaves: Leaves) -> list[tuple[str, str, Tensor]]:
    return [(path, name, leaf) for path, by_name in leaves.items() for name, leaf in by_name.items()]
