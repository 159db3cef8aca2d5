"""What a memory read from disk must be before it is let near a model; what only a model can say, `check_fits` asks.

R rank, I in features, O out features, K keys, D model width, N directions or answer tokens, P kept logits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from ..config import is_integer, is_number
from .entry import Entry
from .facts import PROVENANCES, STATUSES, Fact
from .lessons import LessonKind
from .report import Report
from .turns import LONGEST_OPENER

PARTS = {"base", "base_name", "config", "layer", "background", "entries", "report", "created", "opener"}
ENTRY_FIELDS = {"name", "created", "learned_from", "sources", "closed", "opened", "lessons", "facts"}
LATER_FIELDS = {"learned_from", "facts"}  # which earlier versions did not write
FACT_FIELDS = {field.name for field in dataclasses.fields(Fact)}


def check_header(header: Mapping[str, Any]) -> None:
    """Raise `ValueError` for what `write` does not write, before objects are made of it."""
    named = (PARTS - {"background"}) | {"format", "tensors", "sha256"}
    _check(set(header) | {"opener"} == named, f"it lacks or adds {sorted(set(header) ^ named)}")
    opener = header.get("opener", [])
    _check(isinstance(opener, list) and all(is_integer(token) and 0 <= token < 2**31 for token in opener)
           and len(opener) <= LONGEST_OPENER, "its opener is no short list of token ids")  # fmt: skip
    for name in ("base", "base_name", "layer", "tensors", "sha256"):
        _check(isinstance(header[name], str), f"{name} is no text")
    _check(is_finite(header["created"]), "created is no time")
    _check(isinstance(header["entries"], list), "its entries are no list")
    for entry in header["entries"]:
        _check(isinstance(entry, dict) and ENTRY_FIELDS - LATER_FIELDS <= set(entry) <= ENTRY_FIELDS,
               "an entry is of other fields")  # fmt: skip
        _check(isinstance(entry["name"], str), "an entry has no name")
        _check(all(is_finite(entry[name]) for name in ("created", "closed", "opened")), "an entry lacks numbers")
        _check(entry["closed"] < entry["opened"], "a gate opens before it closes")
        _check(_are_texts(entry.get("learned_from", [])), "learned_from holds no names")
        _check(isinstance(entry["lessons"], list) and all(map(_is_lesson, entry["lessons"])), "a lesson is none")
        _check(isinstance(entry["sources"], list) and all(map(_is_source, entry["sources"])), "a source is none")
        facts = entry.get("facts", [])
        _check(isinstance(facts, list) and all(map(is_fact, facts)), "a fact is none")
    report = header["report"]
    if report is not None:
        _check(isinstance(report, dict) and isinstance(report.get("unlearned", []), list), "its report is none")


def check_parts(parts: Mapping[str, Any], found: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` unless the parts are such as memories are made of.

    found, tensors: those in the file, and those that would be written for the parts.
    """
    _check(set(found) == set(tensors), f"it lacks or adds the tensors {sorted(set(found) ^ set(tensors))[:3]}")
    for name, tensor in tensors.items():
        same = tensor.dtype == found[name].dtype and tensor.shape == found[name].shape
        _check(same, f"{name} is {found[name].dtype} of shape {tuple(found[name].shape)}")
        if tensor.is_floating_point() and not name.endswith("lesson_logprobs"):
            _check(bool(torch.isfinite(tensor).all()), f"{name} holds numbers that are not finite")
    background = parts["background"]
    centre, directions, shrink = background.centre, background.directions, background.shrink
    width = centre.shape[0] if centre.ndim == 1 else 0
    shaped = directions.ndim == 2 and directions.shape[0] == width and shrink.shape == directions.shape[1:]
    _check(width > 0 and shaped and all(t.is_floating_point() for t in vars(background).values()),
           "its background has no shape of one")  # fmt: skip
    entries = parts["entries"]
    _check(len({entry.name for entry in entries}) == len(entries), "two entries have one name")
    for entry in entries:
        _check_entry(entry, width)
    if parts["report"] is not None:
        _check_report(parts["report"])


def _check_entry(entry: Entry, width: int) -> None:
    keys = entry.gate.keys
    _check(keys.is_floating_point() and keys.ndim == 2 and keys.shape[0] > 0 and keys.shape[1] == width,
           f"the keys of {entry.name!r} are of shape {tuple(keys.shape)}")  # fmt: skip
    for path, weights in entry.weights.items():
        plain = all(tensor.is_floating_point() and tensor.ndim == 2 and tensor.numel() for tensor in weights.values())
        factors = set(weights) == {"a", "b"} and plain and weights["a"].shape[0] == weights["b"].shape[1] > 0
        _check(factors, f"the weights of {entry.name!r} for {path} are no matrices that fit")
    for lesson in entry.lessons:
        _check(bool(lesson.prompt) and min((*lesson.prompt, *lesson.answer)) >= 0, "a lesson holds no token ids")
        sure = lesson.indices.dtype == torch.int32 and lesson.logprobs.is_floating_point()
        _check(sure and bool((lesson.indices >= 0).all()), "a lesson holds no likeliest tokens")
        # What is next to impossible has probability 0 in 16 bits.
        _check(bool((lesson.logprobs < math.inf).all()), "a lesson holds probabilities that are none")
    for note in entry.notes:
        _check(is_finite(note.worth) and is_integer(note.tokens) and note.tokens >= 0, "a note is none")


def _check_report(report: Report) -> None:
    rates = [report.recall_before, report.recall, report.false_memories, report.false_memories_before]
    rates += [report.chat_changed, report.chat_refused]
    counts = [report.questions, report.steps, report.lessons, report.tokens]
    counts += [report.facts, report.dropped, report.superseded, report.refused]
    counts += [report.forgotten, report.still_answered, report.lost]
    _check(
        isinstance(report.accepted, bool)
        and _are_texts([report.reason, report.stopped, *report.unlearned])
        and all(rate is None or is_number(rate) for rate in rates)
        and all(map(is_number, (report.drift_kl, report.drift_loss)))
        and all(map(is_integer, counts))
        and isinstance(report.seconds, dict)
        and all(map(is_number, report.seconds.values()))
        and all(len(failure) == 3 and _are_texts(list(failure)) for failure in report.failures),
        "its report holds other values than reports do",
    )


def _is_lesson(found: Any) -> bool:
    if not isinstance(found, list) or len(found) not in (5, 6):  # earlier versions did not write the facts
        return False
    kind, prompt, answer, kept, held_out, *facts = found
    counts = all(is_integer(count) and 0 <= count < 2**31 for count in (prompt, answer, kept))
    return kind in get_args(LessonKind) and counts and isinstance(held_out, bool) and all(map(_are_texts, facts))


def _is_source(found: Any) -> bool:
    if not isinstance(found, dict) or set(found) != {"sha256", "kind", "tokens", "text"}:
        return False
    text = found["text"]
    return _are_texts([found["sha256"], found["kind"]]) and is_integer(found["tokens"]) and isinstance(text, str | None)


def is_fact(found: Any) -> bool:
    if not isinstance(found, dict) or set(found) | {"provenance"} != FACT_FIELDS:
        return False
    messages = found["messages"]
    return (
        _are_texts([found[name] for name in ("id", "text", "said_by", "source")])
        and all(isinstance(found[name], str | None) for name in ("said_at", "superseded_by"))
        and isinstance(messages, list)
        and all(is_integer(place) and place >= 0 for place in messages)
        and found["status"] in STATUSES
        and found.get("provenance", "said") in PROVENANCES
        and isinstance(found["learned"], bool | None)
    )


def _are_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(text, str) for text in found)


def is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _check(right: bool, wrong: str) -> None:
    if not right:
        raise ValueError(wrong)
