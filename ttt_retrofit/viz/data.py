"""What pictures are drawn of: arrays with their labels, and a sentence on how to read each picture.

T tokens, S sites, N chunks, Q questions, L layers, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HOW_TO_READ = {
    "loss": "Lower is better: where the line with updates runs below the line without, what was learned from the text "
    "so far helps to predict what comes next.",
    "weights": "Each row is a place that learns and each column a chunk of text: the brighter (in a terminal: the "
    "fuller), the further its weights have moved from where they started, as a share of the norm of the matrix.",
    "surprise": "Each token is coloured by its loss, light where the model expected it and dark where it did not: what "
    "is lighter with updates than without was expected because of what was read before.",
    "state": "What must be kept to go on reading: keys and values of full attention grow with every token, the window, "
    "sinks and fast weights stay the same once the window is full. A chunk begun at the end adds a copy of them.",
    "memory": "A memory that holds what the context said makes the answer's first token nearly as likely after the "
    "last layer as the context does; where its line lies nearer to the state with the context than the line without, "
    "it gets there by the same states, and where it lies further off, by a way of its own.",
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

    def plane(self, layer: int) -> Tensor:
        """(3, Q, 2) the states after `layer` (0 is the embedding) on the two directions in which they differ most."""
        points = self.states[:, :, layer].flatten(0, 1).float()  # (3 Q, D)
        centred = points - points.mean(0)
        _, _, directions = torch.linalg.svd(centred, full_matrices=False)
        plane: Tensor = centred @ directions[:2].mT
        return plane.view(*self.states.shape[:2], 2)


def running_mean(losses: Tensor, average: int) -> tuple[list[int], list[float]]:
    """Positions and means of the last `average` losses, (T,), each mean at the last token it covers."""
    average = max(1, min(average, len(losses)))
    means = torch.nn.functional.avg_pool1d(losses[None, None].float(), average, stride=1)[0, 0]
    return list(range(average, average + len(means))), means.tolist()
