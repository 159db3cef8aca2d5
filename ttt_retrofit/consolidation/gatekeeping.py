"""Where the gate of a new memory stands: keys from its own questions, bounds from text it must keep silent on.

Hidden states of all texts share most of their length and most of their variation. Measured on 20 questions about a
conversation against unrelated chats, prose and code (`docs/design.md`), plain cosines overlap; whitened ones do not.
T tokens, D model width, K keys, N directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..gates import SETTLED, Background, running_mean, scores
from ..memory.entry import GateKeys

MOST_KEYS = 512
DIRECTIONS = 128
# Variance that every direction is granted, as a share of the mean variance: the whitening's regularisation.
FLOOR = 0.05
# Cosine by which a gate stands above all unrelated text it was measured on: other text comes nearer by chance.
MARGIN = 0.1
UNLIKE = 0.98  # of the unrelated questions are about nothing alike
RAMP = 0.05  # cosine between silence and speaking fully
SAME = 0.995  # cosine from which two keys are of one lesson; other questions reach 0.97


def means_of(hidden: Tensor) -> Tensor:
    """The running mean after every token of one text. (T, D) -> (T, D)."""
    return running_mean(hidden[None], None, torch.tensor([hidden.shape[0]], device=hidden.device))[0][0]


def find_background(unrelated: Sequence[Tensor]) -> Background:
    """Mean and main directions of unrelated texts, by what enters the gates' layer for each: (T, D)."""
    means = torch.cat([means_of(hidden)[SETTLED - 1 :] for hidden in unrelated])
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
    what was told, too. Their answers are taught to stay the base's.

    Parameters
    ----------
    studied : what enters the gates' layer for each lesson, (T, D), and where its answer begins.
    texts, asked : the same for unrelated texts, and for unrelated questions with their answers: keys are taken at the
        ends of answers, too, and one answer begins much like another.
    """
    keys = _keys(studied, background).half()
    if keys.shape[0] > MOST_KEYS:
        keys = keys[torch.linspace(0, keys.shape[0] - 1, MOST_KEYS).long()]
    questions = torch.tensor([highest(hidden, keys, background) for hidden in asked])
    heard = max(questions.quantile(UNLIKE).item(), *(highest(hidden, keys, background) for hidden in texts))
    return GateKeys(keys, heard + MARGIN, heard + MARGIN + RAMP)


def without(gate: GateKeys, studied: Sequence[tuple[Tensor, int]], background: Background) -> GateKeys:
    """The gate without the keys of some of its lessons, given as to `find_gate`."""
    gone = _keys(studied, background.to(studied[0][0].device)).cpu()  # an earlier memory is on the CPU
    near = scores(gate.keys.float()[None], gone[None, None])[0, :, 0]
    return replace(gate, keys=gate.keys[near < SAME])


def _keys(studied: Sequence[tuple[Tensor, int]], background: Background) -> Tensor:
    """What a text is about where each question ends, then where each answer ends. (2 for each lesson, D) float32."""
    means = [(means_of(hidden), start) for hidden, start in studied]
    ends = torch.stack([mean[start - 1] for mean, start in means] + [mean[-1] for mean, _ in means])
    return background.float().whitened(ends)


def highest(hidden: Tensor, keys: Tensor, background: Background, start: int = SETTLED - 1) -> float:
    """The largest cosine to a key anywhere in a text from token `start` on. hidden: (T, D)."""
    means = means_of(hidden)[min(start, hidden.shape[0] - 1) :]
    return scores(background.float().whitened(means)[None], keys.float()[None, None]).max().item()
