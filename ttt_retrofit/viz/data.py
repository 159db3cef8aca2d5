"""The data of pictures: arrays with their labels, and a sentence on how to read each picture.

T tokens, S sites, N chunks, Q questions, L layers, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HOW_TO_READ = {
    "loss": "Lower is better: where the line with updates runs below the line without, what was learned from the text "
    "so far helps to predict what comes next.",
    "weights": "Each line is a place that learns, the lower layers darker: how far its weights are from where they "
    "started after each chunk, as a share of the norm of the matrix. Lines on each other have moved equally far. In a "
    "terminal, the fuller, the further, and only the sites that moved least, most and in between are shown.",
    "surprise": "Each token is coloured by its loss, light where the model expected it and dark where it did not: what "
    "is lighter with updates than without was expected because of what was read before.",
    "state": "What must be kept to go on reading: keys and values of full attention grow with every token, the window, "
    "sinks and fast weights stay the same once the window is full. A chunk begun at the end adds a copy of them.",
    "memory": "Each row is a question: the memory holds its answer where the mark with the memory lies near that with "
    "the context, and right of the one without. The lines show after which layer the answer appears.",
}
CONDITIONS = ("with the context", "without", "with the memory")


@dataclass(frozen=True)
class TextRead:
    """One text, read without updates and with."""

    tokens: list[str]  # T
    without: Tensor  # (T - 1,) nats; [i] is the loss of token i + 1
    updated: Tensor  # (T - 1,) the same tokens, with updates
    sites: list[str]  # S names, lowest first
    moved: Tensor  # (S, N) ‖ΔW‖ / ‖W‖ after each chunk
    chunk: int  # tokens
    window: int | None  # tokens
    state: dict[str, list[tuple[int, int]]]  # by system: tokens read, bytes carried
    full: Tensor | None = None  # (T - 1,) under full attention, where it was measured


@dataclass(frozen=True)
class MemoryEffect:
    """Hidden states of the last token before the answer to each question, in three conditions, see `CONDITIONS`."""

    questions: list[str]  # Q
    answers: list[str]  # Q first tokens of the answers that are given with the context
    states: Tensor  # (3, Q, L + 1, D) after the embedding and after each layer
    lens: Tensor  # (3, Q, L + 1) log-probability of that token, read off each state by the model's own head

    @property
    def closeness(self) -> Tensor:
        """(2, Q, L + 1) cosine to the state with the context: of the state without, and with the memory."""
        return torch.nn.functional.cosine_similarity(self.states[1:], self.states[:1], dim=-1)

    @property
    def likely(self) -> Tensor:
        """(3, Q) probability of the answer's first token after the last layer."""
        return self.lens[:, :, -1].exp()

    @property
    def asked(self) -> str:
        return "1 question" if len(self.questions) == 1 else f"{len(self.questions)} questions"

    @property
    def in_words(self) -> str:
        """The mean probability in each condition."""
        means = self.likely.mean(1).tolist()
        return ", ".join(f"{mean:.2f} {name}" for mean, name in zip(means, CONDITIONS))


def moved_by(read: TextRead) -> str:
    """How far the sites have moved in the end: from the least to the most."""
    if not read.moved.numel():
        return ""
    ends = read.moved[:, -1]
    return f": moved by {ends.min():.2%} to {ends.max():.2%} of the norm"


def shortened(text: str, width: int = 48) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def running_mean(losses: Tensor, average: int) -> tuple[list[int], list[float]]:
    """Positions and means of the last `average` losses, (T,), each mean at the last token it covers."""
    average = max(1, min(average, len(losses)))
    means = torch.nn.functional.avg_pool1d(losses[None, None].float(), average, stride=1)[0, 0]
    return list(range(average, average + len(means))), means.tolist()
