"""Reading chunk by chunk: cuts tokens where chunks end, runs the family's own forward, fires updates.

It knows a model only as a `Decoder`: something that can forward tokens, with a list of TTT sites. The result does not
depend on how tokens were split into calls, nor on padding: an unfinished chunk waits in the cache, and is read again
when it is full, from the very keys and values it was first read with.

A memory acts in the turn of the user that is under way. Tokens of a call before its last turn are read without it, and
where a turn begins after one in which a gate was open, that one is read again without it.

A segment is a transaction: it is read on a fork of the cache, which the cache then becomes. After an interrupt it has
happened or it has not, and the next call goes on from there.
B batch rows, T tokens, C chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..inner.context import FastTerms, ForwardContext, entering
from ..inner.learning import Decoder, Outer, fresh, inner_step, losses_of, starting_weights, terms_of, weights_in_use
from ..memory.batch import MemoryBatch, MemoryForward
from ..memory.gates import GateState
from ..util.devices import on_device
from . import sinks
from .cache import TTTCache
from .captured import RingReader
from .kv import IndexedCache
from .outputs import drop_graph
from .state import Held, Pending, RowState
from .tokens import Tokens, align, marks_of
from .turn import Turn
from .views import absorb, view_before_pending, view_of


@dataclass(frozen=True)
class Segment:
    """What one forward within a call produced: row b's tokens starts[b] .. starts[b] + taken[b]."""

    output: Any
    starts: list[int]
    taken: list[int]
    opened: list[bool]  # whether a gate was open, by row


@dataclass(frozen=True)
class Settings:
    """How the tokens of a call are read."""

    learn: bool  # whether they are targets of the inner loss
    outer: Outer = field(default_factory=Outer)
    memory: MemoryBatch | None = None  # the memories that are added
    turns: Sequence[int] = ()  # the token by row with which the turn begins that they act in; () for the first
    hidden_of: int | None = None  # as in `ForwardContext`
    logits_to_keep: int = 0  # for the family's forward, where nothing else needs the logits; 0 keeps all
    family: dict[str, Any] = field(default_factory=dict)  # more arguments for the family's forward
    ring: RingReader | None = None  # what reads where keys and values can be in a ring; None where none is wanted

    def ring_for(self, cache: TTTCache) -> RingReader | None:
        """What reads the next segment over a ring, where that is wanted and can be."""
        plain = self.memory is None and self.hidden_of is None and not self.family and not self.outer.record
        return self.ring if plain and cache.steady else None


def read(
    decoder: Decoder,
    cache: TTTCache,
    tokens: Tokens,
    settings: Settings,
    record: Callable[[TTTCache, list[int]], None] | None = None,
) -> Iterator[Segment]:
    """Read `tokens` on top of `cache`, one segment at a time, updating fast weights whenever a chunk is full.

    record : what else a segment changes: called with the cache that it leaves, and the tokens of the call read so far.
    """
    rows = len(tokens.counts)
    if cache.rows is None:
        bound = cache.fork()
        bound.prepare(rows, tokens.ids.device)
        cache.become(bound)
    else:
        cache.prepare(rows, tokens.ids.device)
    if settings.memory is not None:
        settings = _begin_turns(decoder, cache, tokens, settings)
    yield from _read_segments(decoder, cache, tokens, settings, record)


def _read_segments(
    decoder: Decoder,
    cache: TTTCache,
    tokens: Tokens,
    settings: Settings,
    record: Callable[[TTTCache, list[int]], None] | None = None,
) -> Iterator[Segment]:
    rows = len(tokens.counts)
    starts = [0] * rows
    _finish(decoder, cache, settings)  # what an interrupt has left
    while any(start < count for start, count in zip(starts, tokens.counts)):
        room = room_left(cache, rows, settings.learn)
        taken = [min(r, count - s) for r, count, s in zip(room, tokens.counts, starts)]
        done = [start + take for start, take in zip(starts, taken)]
        forked = cache.fork()
        segment = _read_segment(decoder, forked, tokens, starts, taken, settings)
        _note_turn(cache, forked, tokens, segment, settings)
        if record is not None:
            record(forked, done)
        cache.become(forked)
        _finish(decoder, cache, settings)
        yield segment
        starts = done


def _begin_turns(decoder: Decoder, cache: TTTCache, tokens: Tokens, settings: Settings) -> Settings:
    """The settings for the turns that are under way at the end of a call.

    Where one begins after a turn in which a gate was open, that one is first read again without the memory.
    """
    assert settings.memory is not None
    state = cache.gate_state
    assert state is None or isinstance(state, GateState)
    begins = settings.memory.last_turns(tokens.ids, tokens.counts, state)
    # What gates depend on has begun anew with the turn under way: it tells where that is.
    seen = [0] * len(begins) if state is None else state.seen.tolist()
    turns = [count + (-said if new < 0 else new) for count, said, new in zip(cache.counts, seen, begins)]
    settings = replace(settings, turns=turns)
    if cache.turn is not None and any(old and new >= 0 for old, new in zip(cache.turn.opened, begins)):
        again = cache.before_turn()
        plain = replace(settings, hidden_of=None, logits_to_keep=1, family={})
        for span in cache.turn.spans:
            memory = settings.memory if span.remembers else None
            for _ in _read_segments(
                decoder, again, span.tokens(tokens.ids.device), replace(plain, learn=span.learn, memory=memory)
            ):
                pass
        cache.become(again)
    return settings


def _note_turn(before: TTTCache, cache: TTTCache, tokens: Tokens, segment: Segment, settings: Settings) -> None:
    """Note in `cache` what was read on top of `before`, where a gate is open or was since the turn began."""
    if cache.turn is None:
        if not any(segment.opened):
            return
        cache.turn = Turn(before.snapshot(), list(range(len(segment.opened))), list(segment.opened))
    turn = cache.turn
    turn.opened = [old or new for old, new in zip(turn.opened, segment.opened)]
    ids, positions = tokens.part(segment.starts, segment.taken)
    turn.add(ids, positions, settings.learn, settings.memory is not None)


def read_late(decoder: Decoder, cache: TTTCache, late: Tensor, positions: Tensor | None, settings: Settings) -> None:
    """Read the tokens that are held and turned out to be real, late: (B, S) bool, at positions (B, S)."""
    assert cache.held is not None
    ids, unread = cache.held.ids, cache.held.unread

    def still_unread(forked: TTTCache, read: list[int]) -> None:
        taken = late & (late.cumsum(1) <= on_device(read, late.device)[:, None])
        numbers = torch.arange(cache.columns - ids.shape[1], cache.columns, device=late.device)
        forked.held = Held(ids, unread & ~taken)
        if marks is not None:
            forked.marks = marks + marks_of(taken, numbers)

    marks, settings = cache.marks, replace(settings, logits_to_keep=1)
    for _ in read(decoder, cache, align(ids, late, positions), settings, still_unread):
        pass


def room_left(cache: TTTCache, rows: int, learn: bool) -> list[int]:
    """How many tokens each row takes in one segment, at most."""
    size = cache.ttt.chunk_size
    waiting = cache.pending.lengths if cache.pending else [0] * rows
    # Unlearned tokens belong to no chunk; they are cut at multiples of the chunk size, for bounded memory.
    return [size - (w if learn or w else seen % size) for w, seen in zip(waiting, cache.counts or [0] * rows)]


def _finish(decoder: Decoder, cache: TTTCache, settings: Settings) -> None:
    """Take the step that is due, and learn from chunks that are full and were read in parts."""
    cache.fast.settle()
    lengths = cache.pending.lengths if cache.pending else ()
    full = [row for row, length in enumerate(lengths) if length == cache.ttt.chunk_size]
    if full:
        forked = cache.fork()
        _read_again(decoder, forked, full, settings)
        cache.become(forked)
        cache.fast.settle()


def _read_segment(
    decoder: Decoder, cache: TTTCache, tokens: Tokens, starts: list[int], taken: list[int], settings: Settings
) -> Segment:
    learn, outer = settings.learn, settings.outer
    ids, positions, indices = _cut(cache, tokens, starts, taken)
    waiting = list(cache.pending.lengths) if cache.pending else [0] * len(taken)
    # A chunk that is read whole is learned from in the same forward; one that arrived in parts is read again, when it
    # is all there.
    at_once = [learn and wait == 0 and take == cache.ttt.chunk_size for wait, take in zip(waiting, taken)]

    moving = sinks.rows_to_move(cache, decoder.trained_length, waiting, taken, learn)
    if moving:
        shift = None if tokens.positions is None else positions[:, 0] - indices[:, 0]
        with torch.set_grad_enabled(outer.everywhere), decoder.only(moving):
            sinks.move(decoder, cache, moving, shift, FastTerms(starting_weights(decoder), len(moving)))
    sinks.note_ids(cache, ids, taken)
    cache.note_tokens(ids, taken)
    ring = None if moving else settings.ring_for(cache)
    cache.begin(indices, ids.shape[1], in_ring=ring is not None)
    inputs = {"input_ids": ids, "position_ids": positions, "use_cache": True, **settings.family}
    before = cache.gate_state
    assert before is None or isinstance(before, GateState)
    memory = None
    if settings.memory is not None:
        earlier = [max(turn - count, 0) for turn, count in zip(settings.turns, cache.counts)]
        memory = MemoryForward(settings.memory, before, taken, ids, earlier)
    if ring is not None:
        output = _read_in_ring(ring, decoder, cache, ids, positions, any(at_once), settings)
    elif outer.record or any(at_once):
        view = view_of(cache, with_graph=outer.everywhere)
        fast = cache.fast
        if not fast.sites and (learn or decoder.kind.learned_start):
            fast = fresh(decoder, len(taken), outer)
        terms = terms_of(decoder, fast, len(taken), outer)
        context = ForwardContext(terms, memory, view.attended, outer.second_order, settings.hidden_of)
        output = _forward(decoder, view, context, inputs, outer)
        absorb(cache, view, with_graph=outer.record)
        if any(at_once):
            with torch.enable_grad():
                losses = losses_of(output.logits, ids, outer)
                targets = torch.ones_like(losses, dtype=torch.bool)
                cache.fast, by_row = inner_step(decoder, fast, terms, ids, losses, targets, at_once, outer)
            rows = [row for row, finished in enumerate(at_once) if finished]
            cache.log_losses(rows, by_row if all(at_once) else by_row[on_device(rows, ids.device)])
        if not outer.record:
            drop_graph(output)
    else:
        terms = FastTerms(weights_in_use(decoder, cache.fast, len(taken)), len(taken))
        context = ForwardContext(terms, memory, cache.attended, hidden_of=settings.hidden_of)
        with torch.no_grad(), entering(context):
            output = decoder.base_forward(past_key_values=cache, logits_to_keep=settings.logits_to_keep, **inputs)
    cache.finish(taken)

    if learn or any(waiting):
        _wait(cache, ids, positions, taken, waiting, learn)
    if memory is not None:
        cache.gate_state = memory.after
        _keep_gate_state(cache, before, waiting)
    return Segment(output, starts, taken, [False] * len(taken) if memory is None else memory.opened)


def _read_in_ring(
    ring: RingReader,
    decoder: Decoder,
    cache: TTTCache,
    ids: Tensor,
    positions: Tensor,
    at_once: bool,
    settings: Settings,
) -> Any:
    """The forward of a segment and, of a whole chunk, its update: what `_read_segment` does, over a ring."""
    assert cache.next_index is not None
    over, start, rows = cache.roll(), cache.next_index[0], len(ids)
    if not at_once:
        return ring.read(decoder, over, cache.fast, settings.logits_to_keep, ids, positions, start)
    fast = cache.fast if cache.fast.sites else fresh(decoder, rows, settings.outer)
    targets = torch.ones_like(ids[:, 1:], dtype=torch.bool)
    output, by_row, cache.fast = ring.learn(decoder, over, fast, ids, positions, start, targets)
    cache.log_losses(list(range(rows)), by_row)
    return output


def _cut(cache: TTTCache, tokens: Tokens, starts: list[int], taken: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """This segment's ids, positions and indices, (B, W) each with W the most that a row takes; padding has index -1."""
    assert cache.next_index is not None
    width, device = max(taken), tokens.ids.device
    offsets = torch.arange(width, device=device)
    indices = cache.next_index[:, None] + offsets
    if len(set(taken)) == 1 and len(set(starts)) == 1:
        columns = slice(starts[0], starts[0] + width)
        ids = tokens.ids[:, columns]
        positions = None if tokens.positions is None else tokens.positions[:, columns]
    else:
        cache.padded, cache.uniform = True, False
        real = offsets < on_device(taken, device)[:, None]
        columns_by_row = (on_device(starts, device)[:, None] + offsets).clamp_max(tokens.ids.shape[1] - 1)
        ids = tokens.ids.gather(1, columns_by_row)
        positions = None if tokens.positions is None else tokens.positions.gather(1, columns_by_row)
        indices = indices.masked_fill(~real, -1)
    return ids, indices.clamp_min(0) if positions is None else positions, indices


def _forward(
    decoder: Decoder, view: IndexedCache, context: ForwardContext, inputs: dict[str, Any], outer: Outer
) -> Any:
    """A forward that is learned from.

    Its graph is of everything for the outer loop, else of what the fast terms ask for: from the first TTT site up, or
    none.
    """

    def run() -> Any:
        with torch.set_grad_enabled(outer.everywhere), entering(context):
            return decoder.base_forward(past_key_values=view, **inputs)

    if outer.record and outer.rematerialise:
        for past in view.layers:
            past.copy_past()
        return checkpoint(run, use_reentrant=False)
    return run()


def _wait(cache: TTTCache, ids: Tensor, positions: Tensor, taken: list[int], waiting: list[int], learn: bool) -> None:
    """Put aside the tokens of every chunk that is unfinished, or was finished in more than one part.

    A row that has nothing waiting and is not learning puts nothing aside: its next chunk starts where learning does.
    """
    size = cache.ttt.chunk_size
    stays = [wait > 0 or (learn and take < size) for wait, take in zip(waiting, taken)]
    if not any(stays):
        return
    if cache.pending is None:
        empty = ids.new_zeros(len(taken), size)
        none = torch.zeros_like(empty, dtype=torch.bool)
        cache.pending = Pending(empty, empty.clone(), none, [0] * len(taken), [0] * len(taken))
    pending = cache.pending
    alike = all(stays) and len(set(waiting)) == 1 and len(set(taken)) == 1
    blocks = [slice(None)] if alike else [slice(row, row + 1) for row, stay in enumerate(stays) if stay]
    for rows in blocks:
        first, take = waiting[rows][0], taken[rows][0]
        pending.ids[rows, first : first + take] = ids[rows, :take]
        pending.positions[rows, first : first + take] = positions[rows, :take]
        pending.learned[rows, first : first + take].fill_(learn)
    for row, (wait, take, stay) in enumerate(zip(waiting, taken, stays)):
        if stay:
            before = pending.targets[row] if wait else -1  # the first token of a chunk is no target
            pending.lengths[row] = wait + take
            pending.targets[row] = max(before + learn * take, 0)


def _keep_gate_state(cache: TTTCache, before: RowState | None, waiting: list[int]) -> None:
    """Keep the state before the chunk of rows whose chunk has just begun, for when it is read again."""
    pending = cache.pending
    if pending is None or cache.gate_state is None:
        return
    before = before or cache.gate_state.at_start()
    begun = [row for row, (wait, length) in enumerate(zip(waiting, pending.lengths)) if wait == 0 and length > 0]
    if pending.gate_state is None:
        pending.gate_state = before
    elif begun:
        pending.gate_state = pending.gate_state.replace_rows(on_device(begun, pending.ids.device), before)


def _read_again(decoder: Decoder, cache: TTTCache, rows: list[int], settings: Settings) -> None:
    """Fire the update of chunks that arrived in parts: forward them once more, whole, with a graph."""
    pending, outer, ring = cache.pending, settings.outer, settings.ring_for(cache)
    assert pending is not None and cache.rows is not None and cache.next_index is not None
    learned = any(pending.targets[row] for row in rows)
    if learned and not cache.fast.sites:
        cache.fast = fresh(decoder, cache.rows, outer)
    if learned and ring is not None:
        start, targets = cache.next_index[0] - pending.ids.shape[1], pending.learned[:, 1:]
        chunk = pending.ids, pending.positions, start, targets
        _, by_row, cache.fast = ring.learn(decoder, cache.roll(), cache.fast, *chunk)
        cache.log_losses(rows, by_row)
    elif learned:
        view = view_before_pending(cache, rows)
        everyone = len(rows) == cache.rows
        index = torch.arange(cache.rows, device=pending.ids.device) if everyone else on_device(rows, pending.ids.device)
        chosen = pending if everyone else pending.select(index, rows)
        fast = cache.fast if everyone else cache.fast.select(index)
        ids, targets = chosen.ids, chosen.learned[:, 1:]
        terms = terms_of(decoder, fast, len(rows), outer)
        inputs = {"input_ids": ids, "position_ids": chosen.positions, "use_cache": True}
        memory = None
        if settings.memory is not None and chosen.gate_state is not None:
            before = chosen.gate_state
            assert isinstance(before, GateState)
            size = ids.shape[1]
            earlier = [max(settings.turns[row] - (cache.counts[row] - size), 0) for row in rows]
            memory = MemoryForward(settings.memory.select(index), before, [size] * len(rows), ids, earlier)
        context = ForwardContext(terms, memory, view.attended, outer.second_order)
        with decoder.only(rows):
            output = _forward(decoder, view, context, inputs, outer)
        with torch.enable_grad():
            losses = losses_of(output.logits, ids, outer)
            new, by_row = inner_step(decoder, fast, terms, ids, losses, targets, [True] * len(rows), outer)
        cache.fast = new if everyone else cache.fast.replace_rows(index, new)
        cache.log_losses(rows, by_row)
    for row in rows:
        pending.lengths[row] = pending.targets[row] = 0
