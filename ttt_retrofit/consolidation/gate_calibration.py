"""Calibrates the gate of a new entry: keys from its own questions, bounds from the texts on which it must stay shut.

Hidden states of all texts share most of their length and most of their variation. Measured on 20 questions about a
conversation against unrelated chats, prose and code, plain cosines overlap and whitened ones do not
(`docs/research-log/gates.md`).
T tokens, D model width, K keys, N directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..memory.entry import GateKeys
from ..memory.gates import MIN_TOKENS, Background, running_mean, scores

MOST_KEYS = 512
DIRECTIONS = 128
# Variance that every direction is granted, as a share of the mean variance: the whitening's regularisation.
FLOOR = 0.05
# Cosine from the nearest unrelated text that was measured to the gate: other text comes nearer by chance.
MARGIN = 0.1
SHUT_QUESTIONS = 0.98  # share of the unrelated questions that the gate is shut on
KEPT_KEYS = 0.98  # share of the keys that are kept, at least
RAMP = 0.05  # cosine between shut and fully open
SAME = 0.995  # cosine from which two keys are of one lesson; other questions reach 0.97


def means_of(hidden: Tensor) -> Tensor:
    """The running mean after every token of one text. (T, D) -> (T, D)."""
    return running_mean(hidden[None], None, torch.tensor([hidden.shape[0]], device=hidden.device))[0][0]


def find_background(unrelated: Sequence[Tensor]) -> Background:
    """Mean and main directions of unrelated texts, by what enters the gates' layer for each: (T, D)."""
    means = torch.cat([means_of(hidden)[MIN_TOKENS - 1 :] for hidden in unrelated])
    centre = means.mean(0)
    away = means - centre
    variance, vectors = torch.linalg.eigh(away.mT @ away / away.shape[0])  # ascending
    floor = FLOOR * variance.mean()
    kept = min(DIRECTIONS, variance.shape[0])
    shrink = torch.sqrt(floor / (variance[-kept:].clamp_min(0) + floor))
    return Background(centre.half(), vectors[:, -kept:].half(), shrink.half())


def find_gate(
    studied: Sequence[tuple[Tensor, int]], texts: Sequence[Tensor], asked: Sequence[Tensor], background: Background
) -> GateKeys:
    """The gate of an entry: shut on every unrelated text, and on unrelated questions but for a few.

    Those are about something alike, "What is a violin?" where somebody plays one: a gate above them would be shut on
    what was told, too. Their answers are taught to stay the base's. It would be shut as well above the keys of the few
    studied questions that could be anybody's, such as "What time is it?": these are left out.

    Parameters
    ----------
    studied : what enters the gates' layer for each lesson, (T, D), and where its answer begins.
    texts, asked : the same for unrelated texts, and for unrelated questions with their answers: keys are taken at the
        ends of answers, too, and one answer begins much like another.
    """
    keys = _keys(studied, background).half()
    by_text, by_question = (
        torch.stack([nearness(hidden, keys, background) for hidden in unrelated]) for unrelated in (texts, asked)
    )
    shut = max(by_question.amax(1).quantile(SHUT_QUESTIONS).item(), by_text.max().item())
    nearest = torch.cat([by_text, by_question]).amax(0)  # (K,)
    limit = nearest.quantile(KEPT_KEYS, interpolation="higher").item()
    if limit < shut:
        keys, shut = keys[nearest <= limit], limit
    if keys.shape[0] > MOST_KEYS:
        keys = keys[torch.linspace(0, keys.shape[0] - 1, MOST_KEYS, device="cpu").long()]
    return GateKeys(keys, shut + MARGIN, shut + MARGIN + RAMP)


def without_keys(gate: GateKeys, studied: Sequence[tuple[Tensor, int]], background: Background) -> GateKeys:
    """The gate without the keys of some of its lessons, given as to `find_gate`."""
    gone = _keys(studied, background.to(studied[0][0].device)).cpu()  # an earlier memory is on the CPU
    near = scores(gate.keys.float()[None], gone[None, None])[0, :, 0]
    return replace(gate, keys=gate.keys[near < SAME])


def _keys(studied: Sequence[tuple[Tensor, int]], background: Background) -> Tensor:
    """What a text is about where each question ends, then where each answer ends. (2 for each lesson, D) float32."""
    means = [(means_of(hidden), start) for hidden, start in studied]
    ends = torch.stack([mean[start - 1] for mean, start in means] + [mean[-1] for mean, _ in means])
    return background.float().whitened(ends)


def nearness(hidden: Tensor, keys: Tensor, background: Background) -> Tensor:
    """The largest cosine to each key anywhere in a text, once it is about something. hidden: (T, D) -> (K,)."""
    means = means_of(hidden)[min(MIN_TOKENS, hidden.shape[0]) - 1 :]
    return (background.float().whitened(means) @ keys.float().mT).amax(0)


def highest(hidden: Tensor, keys: Tensor, background: Background) -> float:
    """The largest cosine to any key anywhere in a text. hidden: (T, D)."""
    return nearness(hidden, keys, background).max().item()
