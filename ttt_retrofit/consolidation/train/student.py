"""The student: the frozen base with a memory on top, whose lower layers are computed once.

Layers below the memory never change, so what they make of a lesson is kept, and every training step starts from there.
What comes before a lesson's last turn is read once (`lesson_pasts`). The head is computed for answer tokens only.
B lessons, P tokens of the longest past, T tokens after it, N answer tokens of a batch, D model width, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from ...inner.below import inputs_of
from ...inner.context import ForwardContext, entering
from ...inner.discovery import decoder_layers
from ...inner.hooks import bind
from ...memory.batch import MemoryBatch, MemoryForward, hooks_for
from ...memory.gates import GateState
from ...memory.projections import Placement
from ..prefix_cache import SHORTEST
from .lesson_pasts import LessonPast, beginnings, together


class Student:
    """A private plain copy of the base, prepared for many forwards from one layer up."""

    def __init__(self, plain: Any, placement: Placement, opener: Sequence[int] = ()) -> None:
        """opener : what a user's turn begins with (`memory.turns`)."""
        self.model, self.placement, self.opener = plain, placement, opener
        if plain.device.type == "cpu":
            # For a few dozen tokens, the backward pass of fused attention takes ten times as long there.
            plain.set_attn_implementation("eager")
        _, self.layers = decoder_layers(plain)
        self.replayed: Tensor | None = None
        self.wrapper: type | None = None  # of what a layer returns, where that is a tuple
        self.positions: tuple[Tensor, Tensor] | None = None
        self.tokens = 0  # processed by the layers from the memory up
        self.begun: set[tuple[int, ...]] = set()
        self.pasts: dict[tuple[int, ...], LessonPast | None] = {}  # of these, as far as they were read
        self.before: MemoryBatch | None = None
        self.takes_positions = "position_ids" in inspect.signature(plain.forward).parameters
        bind(plain, hooks_for(placement.layer, [projection.path for projection in placement.projections]))
        for index in range(placement.index):
            _make_replaying(self, self.layers[index], last=index == placement.index - 1)
        plain.get_output_embeddings().register_forward_pre_hook(self._only_positions)

    def share(self, prompts: Sequence[Sequence[int]], memories: MemoryBatch) -> None:
        """What comes before the last turns of these lessons is read once, when `logits` first meets it.

        Nothing is shared where a gate opens in it: what a memory says there would change while it learns.
        """
        self.begun, self.pasts, self.before = {ids for ids in beginnings(prompts, self.opener) if ids}, {}, memories

    @torch.no_grad()
    def _read(self, ids: Sequence[int], memories: MemoryBatch) -> LessonPast | None:
        """The past that these tokens are; None where it cannot be kept."""
        cache = DynamicCache(config=self.model.config)
        batch = torch.tensor([list(ids)], device=self.model.device)
        with inputs_of(self._layer()) as reached:
            self.model(input_ids=batch, past_key_values=cache, use_cache=True, logits_to_keep=1)
        found = MemoryForward(memories, None, [len(ids)], batch, [len(ids)] if self.opener else ())
        found.find_gates(reached[0])
        return LessonPast.of(cache, len(ids), found.after) if found.openings is None else None

    @torch.no_grad()
    def below(self, lessons: Sequence[Sequence[int]], batch: int = 32) -> list[Tensor]:
        """What enters the memory's lowest layer for every whole token sequence: (P + T, D) each.

        What several of them begin with is read once.
        """
        found: dict[int, Tensor] = {}
        begun = beginnings(lessons, self.opener)
        often = {ids for ids, count in Counter(begun).items() if count > 1 and len(ids) >= SHORTEST}
        # Below the lowest layer there is no past to go on from.
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, ids in enumerate(begun):
            groups.setdefault(ids if ids in often and self.placement.index else (), []).append(index)
        for beginning, members in groups.items():
            past, shared = DynamicCache(config=self.model.config), len(beginning)
            first = [self._capture([beginning], past)[0]] if shared else []
            order = sorted(members, key=lambda index: len(lessons[index]))
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                hidden = self._capture([lessons[i][shared:] for i in chosen], _repeated(past, len(chosen)))
                own = (hidden[row, : len(lessons[index]) - shared] for row, index in enumerate(chosen))
                found |= {index: torch.cat([*first, mine]) for index, mine in zip(chosen, own)}
        return [found[index] for index in range(len(lessons))]

    def logits(
        self,
        below: Sequence[Tensor],
        lessons: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        memories: MemoryBatch | None,
    ) -> Tensor:
        """Logits (N, V) after the given positions of every lesson, one lesson after the other.

        Memories act in a lesson's last turn, as they will where it is read.
        """
        pasts = self._pasts(lessons, positions)
        begun = [0 if past is None else past.length for past in pasts]
        lessons = [lesson[length:] for lesson, length in zip(lessons, begun)]
        ids, mask = self._padded(lessons)
        rows = [row for row, span in enumerate(positions) for _ in span]
        columns = [column - length for span, length in zip(positions, begun) for column in span]
        device = ids.device
        self.positions = torch.tensor(rows, device=device), torch.tensor(columns, device=device)
        self.replayed = None
        if self.placement.index > 0:
            self.replayed = pad_sequence([hidden[length:] for hidden, length in zip(below, begun)], batch_first=True)
        self.tokens += sum(len(lesson) for lesson in lessons)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        state = None
        if any(begun):
            cache = together(pasts, self.placement.index, self.model.config)
            lengths = torch.tensor(begun, device=device)[:, None]
            before = torch.arange(-max(begun), 0, device=device) >= -lengths
            mask = torch.cat([before.long(), mask], 1)
            inputs |= {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
            if self.takes_positions:
                inputs["position_ids"] = lengths + torch.arange(ids.shape[1], device=device)
            state = GateState.join([(None if past is None else past.gates, 1) for past in pasts])
        added = None if memories is None else MemoryForward.of_texts(memories, state, list(map(len, lessons)), ids)
        try:
            with entering(ForwardContext(memory=added)):
                return self.model(**inputs).logits[0]
        finally:
            self.positions, self.replayed = None, None

    def left(self, lesson: Sequence[int]) -> int:
        """How many tokens of a lesson come after what may be shared; the same before it is read and afterwards."""
        return len(lesson) - max(map(len, self._begun(lesson)), default=0)

    def _begun(self, lesson: Sequence[int]) -> list[tuple[int, ...]]:
        """What a lesson goes on from, the longest first."""
        lengths = sorted({len(ids) for ids in self.begun}, reverse=True)
        return [ids for n in lengths if (ids := tuple(lesson[:n])) in self.begun]

    def _past(self, lesson: Sequence[int]) -> LessonPast | None:
        """The longest of the pasts that a lesson goes on from."""
        for ids in self._begun(lesson):
            if ids not in self.pasts and self.before is not None:
                self.pasts[ids] = self._read(ids, self.before)
            if past := self.pasts[ids]:
                return past
        return None

    def _pasts(self, lessons: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> list[LessonPast | None]:
        """What each lesson goes on from."""
        found = [self._past(lesson) for lesson in lessons]
        pasts = [past if past and span[0] >= past.length else None for past, span in zip(found, positions)]
        alike = len({0 if past is None else past.length for past in pasts}) == 1
        return pasts if alike or self.takes_positions else [None] * len(pasts)

    def opens(self, below: Tensor, ids: Sequence[int], memories: MemoryBatch) -> bool:
        """Whether any gate opens anywhere in the last turn of a text. below: (T, D)."""
        return _gates_found(below, ids, memories).openings is not None

    def _padded(self, lessons: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(len(lesson) for lesson in lessons)
        ids = torch.tensor([[*lesson, *[0] * (width - len(lesson))] for lesson in lessons], device=self.model.device)
        lengths = torch.tensor([len(lesson) for lesson in lessons], device=self.model.device)
        return ids, (torch.arange(width, device=ids.device) < lengths[:, None]).long()

    def _capture(self, lessons: Sequence[Sequence[int]], past: DynamicCache) -> Tensor:
        """What enters the memory's lowest layer for lessons that come after `past`; their own is added to it."""
        ids, mask = self._padded(lessons)
        mask = torch.cat([mask.new_ones(len(lessons), past.get_seq_length()), mask], dim=1)
        with inputs_of(self._layer(), last=True) as reached:
            self.model(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=True)
        return reached[0]

    def _layer(self) -> nn.Module:
        return self.layers[self.placement.index]

    def _only_positions(self, module: nn.Module, args: tuple) -> tuple | None:
        if self.positions is None:
            return None
        rows, columns = self.positions
        return (args[0][rows, columns][None], *args[1:])


def _gates_found(below: Tensor, ids: Sequence[int], memories: MemoryBatch) -> MemoryForward:
    """The gates along a text, from what enters their layer. below: (T, D)."""
    forward = MemoryForward.of_texts(memories, None, [len(ids)], torch.tensor([list(ids)], device=below.device))
    forward.find_gates(below[None])
    return forward


def _repeated(past: DynamicCache, rows: int) -> DynamicCache:
    """The past of one row for that many."""
    cache = copy.deepcopy(past)
    cache.batch_repeat_interleave(rows)
    return cache


def _make_replaying(student: Student, layer: nn.Module, last: bool) -> None:
    """While something is replayed, a layer below the memory hands on what it gets, the last one what is replayed."""
    compute = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if student.replayed is None:
            output = compute(*args, **kwargs)
            student.wrapper = tuple if isinstance(output, tuple) else None
            return output
        hidden = student.replayed if last else (args[0] if args else kwargs["hidden_states"])
        return (hidden,) if student.wrapper is tuple else hidden

    layer.forward = forward
