"""Calibrates the gate of a new entry: keys from its own questions, bounds from the texts on which it must stay shut.

Hidden states of all texts share most of their length and most of their variation. Measured on 20 questions about a
conversation against unrelated chats, prose and code, plain cosines overlap and whitened ones do not
(`docs/research-log/gates.md`).
T tokens, D model width, K keys, N directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...memory.entry import GateKeys
from ...memory.gates import MIN_TOKENS, MIN_TOKENS_OF_TURN, Background, running_mean, scores
from ...memory.turns import last_turn

MOST_KEYS = 512
DIRECTIONS = 128
# Variance that every direction is granted, as a share of the mean variance: the whitening's regularisation.
FLOOR = 0.05
# Cosine from the nearest unrelated text that was measured to the gate: other text comes nearer by chance.
MARGIN = 0.05
SHUT_QUESTIONS = 0.98  # share of the unrelated questions that the gate is shut on
KEPT_KEYS = 0.98  # share of the keys that are kept, at least
RAMP = 0.05  # cosine between shut and fully open
SAME = 0.995  # cosine from which two keys are of one lesson; other questions reach 0.97
SLACK = 1e-3  # of a cosine of keys in 16 bits


@dataclass(frozen=True)
class TextMeans:
    """The running means of one text, and where they count: a prompt is measured in its last turn only, since what was
    asked before is measured by itself, or ought to open the gate.
    """

    values: Tensor  # (T, D)
    counted: Tensor  # (T,) bool, at least one

    @classmethod
    def of(cls, below: Tensor, ids: Sequence[int], opener: Sequence[int]) -> TextMeans:
        """From what enters the gates' layer, (T, D), and what opens a turn of the user."""
        steps, start = torch.arange(below.shape[0], device=below.device), last_turn(ids, opener)
        starts = None if start is None else (steps == start)[None]
        values, seen, _ = running_mean(below[None], None, torch.tensor([len(ids)], device=below.device), starts)
        counted = (seen[0] >= (MIN_TOKENS_OF_TURN if opener else MIN_TOKENS)) & (steps >= (start or 0))
        counted[-1] |= ~counted.any()
        return cls(values[0], counted)


def find_background(unrelated: Sequence[TextMeans]) -> Background:
    """Mean and main directions of unrelated texts."""
    means = torch.cat([text.values[text.counted] for text in unrelated])
    centre = means.mean(0)
    away = means - centre
    variance, vectors = torch.linalg.eigh(away.mT @ away / away.shape[0])  # ascending
    floor = FLOOR * variance.mean()
    kept = min(DIRECTIONS, variance.shape[0])
    shrink = torch.sqrt(floor / (variance[-kept:].clamp_min(0) + floor))
    return Background(centre.half(), vectors[:, -kept:].half(), shrink.half())


def find_gate(
    studied: Sequence[tuple[TextMeans, int]],
    texts: Sequence[TextMeans],
    asked: Sequence[TextMeans],
    background: Background,
) -> GateKeys:
    """The gate of an entry: shut on every unrelated text, and on unrelated questions but for a few.

    Those are about something alike, "What is a violin?" where somebody plays one: a gate above them would be shut on
    what was told, too. Their answers are taught to stay the base's. It would be shut as well above the keys of the few
    studied questions that could be anybody's, such as "What time is it?": these are left out.

    Parameters
    ----------
    studied : each lesson, and where its answer begins.
    texts, asked : unrelated texts, and unrelated questions with their answers: keys are taken at the ends of answers,
        too, and one answer begins much like another.
    """
    keys = _keys(studied, background).half()
    by_text, by_question = (
        torch.stack([nearness(text, keys, background) for text in unrelated]) for unrelated in (texts, asked)
    )
    shut = max(by_question.amax(1).quantile(SHUT_QUESTIONS).item(), by_text.max().item())
    nearest = torch.cat([by_text, by_question]).amax(0)  # (K,)
    limit = nearest.quantile(KEPT_KEYS, interpolation="higher").item()
    if limit < shut:
        keys, shut = keys[nearest <= limit], limit
    if keys.shape[0] > MOST_KEYS:
        keys = keys[torch.linspace(0, keys.shape[0] - 1, MOST_KEYS, device="cpu").long()]
    return GateKeys(keys, shut + MARGIN, shut + MARGIN + RAMP)


def without_keys(
    gate: GateKeys,
    studied: Sequence[tuple[TextMeans, int]],
    background: Background,
    left: Sequence[tuple[TextMeans, int]] = (),
) -> GateKeys:
    """The gate without the keys of some of its lessons, given as to `find_gate`, but for those of the lessons left.

    A key of a lesson in a chat, which is like none that is taught alone, goes with the lesson that it is nearest to.
    """
    gone, kept = (_nearness_to(gate, some, background) for some in (studied, left))
    in_a_chat = torch.maximum(gone, kept) < SAME
    return replace(gate, keys=gate.keys[torch.where(in_a_chat, kept >= gone, (gone < SAME) | (kept >= gone - SLACK))])


def with_keys(gate: GateKeys, studied: Sequence[tuple[TextMeans, int]], background: Background) -> GateKeys:
    """The gate with keys of more lessons, between the bounds that it has."""
    more = _keys(studied, background.to(studied[0][0].values.device)).cpu().to(gate.keys.dtype)
    return replace(gate, keys=torch.cat([gate.keys, more])[-MOST_KEYS:])


def _nearness_to(gate: GateKeys, studied: Sequence[tuple[TextMeans, int]], background: Background) -> Tensor:
    """The largest cosine of every key to those of some lessons, (K,)."""
    if not studied:
        return torch.full((gate.keys.shape[0],), -1.0, device="cpu")
    keys = _keys(studied, background.to(studied[0][0].values.device)).cpu()  # an earlier memory is on the CPU
    return scores(gate.keys.float()[None], keys[None, None])[0, :, 0]


def _keys(studied: Sequence[tuple[TextMeans, int]], background: Background) -> Tensor:
    """What a text is about where each question ends, then where each answer ends. (2 for each lesson, D) float32."""
    ends = [text.values[start - 1] for text, start in studied] + [text.values[-1] for text, _ in studied]
    return background.float().whitened(torch.stack(ends))


def nearness(text: TextMeans, keys: Tensor, background: Background) -> Tensor:
    """The largest cosine to each key anywhere in a text, once it is about something: (K,)."""
    return (background.float().whitened(text.values[text.counted]) @ keys.float().mT).amax(0)


def highest(text: TextMeans, keys: Tensor, background: Background) -> float:
    """The largest cosine to any key anywhere in a text."""
    return nearness(text, keys, background).max().item()
