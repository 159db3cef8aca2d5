"""What a consolidation has done so far, on disk, so that a cancelled or killed one goes on where it was.

The directory is personal (mode 0700): it holds questions and answers about the context. It is removed when the
consolidation ends, accepted or not.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from transformers.utils import logging

from ..config import is_integer
from ..errors import CheckpointError, InputError
from ..util.files import parsed, private_directory, remove_unfinished
from ..util.sealed import read_sealed, write_sealed
from .study.answers import Question
from .study.statements import Statement
from .study.studied import Studied
from .train.distill import Leaves, TrainingState
from .writer import Answer, one_after_the_other

logger = logging.get_logger(__name__)

FORMAT = 9  # of the files of work in progress; work of another format is not gone on with
STUDY, TRAINING = "study.safetensors", "training.safetensors"
WRITTEN = "written-{}.safetensors"  # answers of one call, whose name tells what was asked
SAVE_EVERY = 15.0  # seconds
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of every leaf, which takes no step where no gate opened


def default_directory() -> Path:
    """Where work in progress is kept when nothing else is said: the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ttt_retrofit" / "consolidations"


@dataclass
class WorkDirectory:
    """The directory of one consolidation, held by one process at a time."""

    directory: Path
    vocabulary: int  # of whoever writes answers
    last_saved: float = 0.0
    full: bool = False  # a write failed; the work itself goes on

    @classmethod
    def open(cls, parent: Path, key: str, vocabulary: int) -> WorkDirectory:
        """Raises `InputError` when another process works on the same consolidation."""
        directory = parent / key
        private_directory(directory)
        work = cls(directory, vocabulary)
        work.lock = FileLock(directory / "lock", mode=0o600)
        try:
            work.lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"Another process is consolidating this very context with this model ({directory}). Wait for it, or "
                "give this one another work_dir."
            ) from error
        remove_unfinished(directory)
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
            write_sealed(self.directory / name, tensors, {"header": json.dumps(header)})
        except OSError as error:
            if not self.full:
                logger.warning("Work in progress cannot be saved to %s: %s. Going on without.", self.directory, error)
            self.full = True

    def _read(self, name: str) -> tuple[dict[str, Tensor], Any] | None:
        """None where there is no file; where it is damaged, that part of the work is done again."""
        path = self.directory / name
        if not path.exists():
            return None
        try:
            tensors, texts = read_sealed(path)
            return tensors, parsed(texts["header"])
        except (CheckpointError, ValueError, KeyError) as error:
            self._again(name, error)
            return None

    def _again(self, name: str, error: Exception) -> None:
        logger.warning("%s cannot be read (%s); that part of the work is done again.", self.directory / name, error)

    def save_study(self, studied: Studied) -> None:
        asked = [[q.text, sorted(q.value), len(q.answer.ids), q.statement, q.held_out] for q in studied.questions]
        statements = [statement.to_list() for statement in studied.statements]
        header = [asked, statements, sorted(studied.outdated.items()), studied.dropped, studied.refused]
        self._write(STUDY, _as_tensors([q.answer for q in studied.questions]), header)

    def load_study(self) -> Studied | None:
        stored = self._read(STUDY)
        if stored is None:
            return None
        tensors, header = stored
        try:
            asked, statements, outdated, dropped, refused = _checked_study(header)
            answers = _as_answers(tensors, [count for _, _, count, _, _ in asked], self.vocabulary)
        except CheckpointError as error:
            self._again(STUDY, error)
            return None
        questions = tuple(
            Question(text, frozenset(value), answer, statement, held_out)
            for (text, value, _, statement, held_out), answer in zip(asked, answers)
        )
        return Studied(tuple(map(Statement.from_list, statements)), questions, dict(outdated), dropped, refused)

    def save_texts(self, name: str, texts: Sequence[str]) -> None:
        self._write(WRITTEN.format(name), {}, list(texts))

    def load_texts(self, name: str) -> list[str] | None:
        stored = self._read(WRITTEN.format(name))
        if stored is None or not isinstance(stored[1], list) or not all(isinstance(t, str) for t in stored[1]):
            return None
        return stored[1]

    def save_answers(self, name: str, answers: Sequence[Answer]) -> None:
        self._write(WRITTEN.format(name), _as_tensors(answers), [len(answer.ids) for answer in answers])

    def load_answers(self, name: str) -> list[Answer] | None:
        stored = self._read(WRITTEN.format(name))
        if stored is None:
            return None
        tensors, lengths = stored
        try:
            _check(isinstance(lengths, list) and all(map(_is_count, lengths)), "its header holds no lengths")
            return _as_answers(tensors, lengths, self.vocabulary)
        except CheckpointError as error:
            self._again(WRITTEN.format(name), error)
            return None

    def save_training(self, state: TrainingState) -> None:
        if time.monotonic() - self.last_saved < SAVE_EVERY:
            return
        self.last_saved = time.monotonic()
        tensors = {}
        for index, (path, name, leaf) in enumerate(_listed(state.leaves)):
            tensors[f"{path}|{name}"] = leaf
            moments = state.optimizer.state.get(leaf, {})
            tensors |= {f"{index}|{moment}": moments[moment] for moment in MOMENTS if moment in moments}
        self._write(TRAINING, tensors, {"step": state.step, "known": state.known})

    def load_training(self, state: TrainingState) -> None:
        """Put what was saved into a fresh `state`; leaves it as it is where nothing fits."""
        stored = self._read(TRAINING)
        if stored is None:
            return
        tensors, header = stored
        try:
            _check_training(tensors, header, state)
        except CheckpointError as error:
            self._again(TRAINING, error)
            return
        known = {}
        for index, (path, name, leaf) in enumerate(_listed(state.leaves)):
            leaf.data.copy_(tensors[f"{path}|{name}"])
            if f"{index}|{MOMENTS[0]}" in tensors:
                known[index] = {m: tensors[f"{index}|{m}"].clone() for m in MOMENTS}
        state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": known})
        state.step, state.known = header["step"], header["known"]


def _as_tensors(answers: Sequence[Answer]) -> dict[str, Tensor]:
    """One after the other."""
    tensors = {
        "ids": torch.tensor([token for answer in answers for token in answer.ids], dtype=torch.int32, device="cpu")
    }
    if answers:
        kept = [answer.indices for answer in answers], [answer.logprobs for answer in answers]
        tensors["indices"], tensors["logprobs"] = one_after_the_other(*kept)
    return tensors


def _as_answers(tensors: dict[str, Tensor], lengths: Sequence[int], vocabulary: int) -> list[Answer]:
    """Of `_as_tensors`, by the tokens of each.

    Raises
    ------
    CheckpointError
        When the tensors are not such.
    """
    expected = {"ids", "indices", "logprobs"} if lengths else {"ids"}
    _check(set(tensors) == expected, f"it holds {sorted(tensors)}, expected {sorted(expected)}")
    whole = sum(lengths)
    _check(tensors["ids"].shape == (whole,) and tensors["ids"].dtype == torch.int32, "its ids are of another shape")
    if not lengths:
        return []
    ids, indices, logprobs = (tensors[name] for name in ("ids", "indices", "logprobs"))
    _check(indices.ndim == 2 and indices.shape == logprobs.shape and len(indices) == whole, "its answers have no shape")
    _check(indices.dtype == torch.int32 and logprobs.dtype == torch.float16, "its answers are of another kind")
    for found in (ids, indices):
        _check(bool(((found >= 0) & (found < vocabulary)).all()), "it holds ids that are not in the vocabulary")
    _check(bool((logprobs < math.inf).all()), "it holds probabilities that are none")
    parts = (tensor.split(list(lengths)) for tensor in (ids, indices, logprobs))
    return [Answer(tuple(one.tolist()), *sure) for one, *sure in zip(*parts)]


def _checked_study(header: Any) -> tuple[list[Any], list[Any], list[Any], int, int]:
    """What `save_study` put beside the tensors; raises `CheckpointError` for anything else."""
    _check(isinstance(header, list) and len(header) == 5, "its header is none of a study")
    asked, statements, outdated, *counts = header
    _check(isinstance(asked, list) and all(map(_is_asked, asked)), "its questions are none")
    _check(isinstance(statements, list) and all(map(_is_statement, statements)), "its statements are none")
    pairs = isinstance(outdated, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in outdated)
    numbers = pairs and all(_is_count(number) and number < len(statements) for pair in outdated for number in pair)
    _check(numbers and all(map(_is_count, counts)), "what is outdated is no list of numbers")
    _check(all(question[3] < len(statements) for question in asked), "its questions are about other statements")
    return asked, statements, outdated, counts[0], counts[1]


def _is_statement(found: Any) -> bool:
    if not isinstance(found, list) or len(found) != 6:
        return False
    text, said_by, before, piece, message, said_at = found
    pairs = isinstance(before, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in before
    )
    texts = isinstance(text, str) and isinstance(said_by, str) and isinstance(said_at, str | None)
    return texts and pairs and _is_count(piece) and _is_count(message)


def _is_asked(found: Any) -> bool:
    if not isinstance(found, list) or len(found) != 5:
        return False
    text, value, count, statement, held_out = found
    words = isinstance(value, list) and all(isinstance(word, str) for word in value)
    return isinstance(text, str) and words and _is_count(count) and is_integer(statement) and isinstance(held_out, bool)


def _check_training(tensors: dict[str, Tensor], header: Any, state: TrainingState) -> None:
    """Raise `CheckpointError` unless this is a training of these leaves."""
    _check(isinstance(header, dict) and set(header) == {"step", "known"}, "its header is none of a training")
    _check(all(map(_is_count, header.values())) and header["known"] <= header["step"], "its steps are no numbers")
    expected = set()
    for index, (path, name, leaf) in enumerate(_listed(state.leaves)):
        shapes = {f"{path}|{name}": leaf.shape}
        if f"{index}|{MOMENTS[0]}" in tensors:
            shapes |= {f"{index}|{moment}": leaf.shape for moment in MOMENTS[1:]}
            shapes[f"{index}|{MOMENTS[0]}"] = torch.Size()
        expected |= set(shapes)
        for key, shape in shapes.items():
            found = tensors.get(key)
            _check(found is not None and found.shape == shape and found.dtype == leaf.dtype,
                   f"{key} is missing or of another shape")  # fmt: skip
            _check(found is not None and bool(torch.isfinite(found).all()), f"{key} holds numbers that are not finite")
    _check(set(tensors) == expected, "it holds tensors of something else")
    _check(not any(bool((tensors[key] < 0).any()) for key in expected if key.endswith(f"|{MOMENTS[2]}")),
           "it holds negative mean squares")  # fmt: skip


def _is_count(value: object) -> bool:
    return is_integer(value) and 0 <= value < 2**31  # type: ignore[operator]


def _check(right: bool, wrong: str) -> None:
    if not right:
        raise CheckpointError(wrong)


def _listed(leaves: Leaves) -> list[tuple[str, str, Tensor]]:
    return [(path, name, leaf) for path, by_name in leaves.items() for name, leaf in by_name.items()]
