"""The student: the frozen base with a memory on top, whose lower layers are computed once.

Layers below the memory never change, so what they make of a lesson is kept, and every training step starts from there.
What all lessons begin with, such as a system prompt, says nothing to the gates: its keys and values are computed once.
The head is computed for answer tokens only.
B lessons, P tokens of the common beginning, T tokens after it, N answer tokens of a batch, D model width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from ..inner.context import ForwardContext, entering
from ..inner.discovery import decoder_layers
from ..inner.hooks import bind
from ..memory.batch import MemoryBatch, MemoryForward, hooks_for
from ..memory.gates import GateState
from ..memory.projections import Placement
from .prefix_cache import worth_sharing


class _Reached(Exception):
    """The layer whose input was wanted has been reached; nothing above it needs computing."""


class Student:
    """A private plain copy of the base, prepared for many forwards from one layer up."""

    def __init__(self, plain: Any, placement: Placement) -> None:
        self.model, self.placement = plain, placement
        if plain.device.type == "cpu":
            # For a few dozen tokens, the backward pass of fused attention takes ten times as long there.
            plain.set_attn_implementation("eager")
        _, self.layers = decoder_layers(plain)
        self.replayed: Tensor | None = None
        self.wrapper: type | None = None  # of what a layer returns, where that is a tuple
        self.positions: tuple[Tensor, Tensor] | None = None
        self.tokens = 0  # processed by the layers from the memory up
        self.beginning: list[int] = []
        self.past = DynamicCache(config=plain.config)  # after the beginning
        self.gate_state: GateState | None = None
        bind(plain, hooks_for(placement.layer, [projection.path for projection in placement.projections]))
        for index in range(placement.index):
            _make_replaying(self, self.layers[index], last=index == placement.index - 1)
        plain.get_output_embeddings().register_forward_pre_hook(self._only_positions)

    @torch.no_grad()
    def share(self, beginning: Sequence[int], memories: MemoryBatch) -> None:
        """Read once what the lessons that come begin with; `logits` then takes it as read.

        Nothing is shared where a gate opens in it: what a memory says there would change while it learns.
        """
        if not beginning:
            return
        past = DynamicCache(config=self.model.config)
        ids = torch.tensor([list(beginning)], device=self.model.device)
        reached: list[Tensor] = []
        handle = self._layer().register_forward_pre_hook(_keeping(reached), with_kwargs=True)
        self.model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        handle.remove()
        found = _gates_found(reached[0][0], beginning, memories)
        if found.openings is not None:
            return
        self.beginning = list(beginning)
        self.past, self.gate_state = past, found.after

    @torch.no_grad()
    def below(self, lessons: Sequence[Sequence[int]], batch: int = 32) -> list[Tensor]:
        """What enters the memory's lowest layer for every whole token sequence: (P + T, D) each.

        What all of them begin with is read once.
        """
        # Below the lowest layer there is no past to go on from.
        shared = worth_sharing(lessons) if self.placement.index else 0
        past = DynamicCache(config=self.model.config)
        begun = [self._capture([lessons[0][:shared]], past)[0]] if shared else []
        found: dict[int, Tensor] = {}
        order = sorted(range(len(lessons)), key=lambda index: len(lessons[index]))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            hidden = self._capture([lessons[i][shared:] for i in chosen], _repeated(past, len(chosen)))
            own = (hidden[row, : len(lessons[index]) - shared] for row, index in enumerate(chosen))
            found |= {index: torch.cat([*begun, mine]) for index, mine in zip(chosen, own)}
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
        shared = self._shared(lessons, positions)
        lessons = [lesson[shared:] for lesson in lessons]
        ids, mask = self._padded(lessons)
        rows = [row for row, span in enumerate(positions) for _ in span]
        columns = [column - shared for span in positions for column in span]
        device = ids.device
        self.positions = torch.tensor(rows, device=device), torch.tensor(columns, device=device)
        self.replayed = None
        if self.placement.index > 0:
            self.replayed = pad_sequence([hidden[shared:] for hidden in below], batch_first=True)
        self.tokens += sum(len(lesson) for lesson in lessons)
        cache, state = self._begun(len(lessons)) if shared else (None, None)
        mask = torch.cat([mask.new_ones(len(lessons), shared), mask], dim=1)
        added = None if memories is None else MemoryForward.of_texts(memories, state, list(map(len, lessons)), ids)
        try:
            with entering(ForwardContext(memory=added)):
                inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache}
                return self.model(**inputs, use_cache=cache is not None).logits[0]
        finally:
            self.positions, self.replayed = None, None

    def _shared(self, lessons: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> int:
        """How many tokens of these lessons have been read already: all of the common beginning, or none."""
        count = len(self.beginning)
        begins = all(list(lesson[:count]) == self.beginning for lesson in lessons)
        return count if begins and all(span[0] >= count for span in positions) else 0

    def _begun(self, rows: int) -> tuple[DynamicCache, GateState]:
        """The past of that many rows that have read the common beginning."""
        assert self.gate_state is not None
        state = self.gate_state.select(torch.zeros(rows, dtype=torch.long, device=self.model.device))
        return _repeated(self.past, rows), state

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
        reached: list[Tensor] = []
        ids, mask = self._padded(lessons)
        mask = torch.cat([mask.new_ones(len(lessons), past.get_seq_length()), mask], dim=1)
        handle = self._layer().register_forward_pre_hook(_keeping(reached, stop=True), with_kwargs=True)
        try:
            self.model(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=True)
        except _Reached:
            pass
        finally:
            handle.remove()
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


def _keeping(kept: list[Tensor], stop: bool = False) -> Callable[[nn.Module, tuple, dict[str, Any]], None]:
    """A hook that keeps what enters a layer."""

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        kept.append(args[0] if args else kwargs["hidden_states"])
        if stop:
            raise _Reached

    return hook


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
