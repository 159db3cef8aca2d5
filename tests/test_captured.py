"""What is recorded and replayed gives what reading gives; on the CPU a tape of operations stands for a CUDA graph."""

import pytest
import torch
from test_ring import CHUNK, assert_alike, assert_same_state, converted, gone_on
from tiny import tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ttt_retrofit.streaming import captured

BEFORE = 30


class Tape(TorchDispatchMode):
    """Operations on tensors, done again in the same tensors: no line of Python is run again."""

    replays = 0

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "lift_fresh"):
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        Tape.replays += 1
        for func, args, kwargs, result in self.done:
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(tree_leaves(result), tree_leaves(again)):
                    _ = old.copy_(new) if isinstance(old, Tensor) else None


def recorded(function, device):
    tape = Tape()
    with tape:
        result = function()
    return result, tape.replay


@pytest.fixture
def on_tape(monkeypatch):
    monkeypatch.setattr(captured, "record", recorded)
    monkeypatch.setattr(captured, "DEVICES", ("cpu",))
    monkeypatch.setattr(Tape, "replays", 0)


def both(steps):
    """What `steps` gives without a ring and over one: logits and a cache."""
    plain, static = (steps(converted(static_shapes=static)) for static in (False, True))
    assert_alike(static[0], plain[0])
    assert_same_state(static[1], plain[1])
    return static[1]


@pytest.mark.parametrize("rows", [1, 2])
def test_chunks_steps_and_tokens_are_replayed(on_tape, rows):
    ids = tokens(rows, 120)

    def steps(model):
        cache = model.read(ids[:, :BEFORE])
        logits = [gone_on(model, cache, ids[:, BEFORE:], 6 * CHUNK, *[1] * (2 * CHUNK + 1))]
        logits.append(gone_on(model, cache, ids[:, BEFORE + 8 * CHUNK + 1 :], 3 * CHUNK, 4))
        return torch.cat(logits, dim=1), cache

    cache = both(steps)
    assert {name if isinstance(name, str) else name[0] for name in cache.ring.recordings.of} == {
        "chunk",
        "step",
        "read",
    }
    # Of six chunks and of every further one all but the first are replayed, and their steps but for one more.
    assert Tape.replays > 2 * CHUNK + 10


def test_what_is_recorded_is_forgotten_when_the_model_changes(on_tape):
    ids, seen = tokens(1, 150), []

    def steps(model):
        cache, done, logits = model.read(ids[:, :BEFORE]), BEFORE, []

        def go_on(*widths):
            nonlocal done
            logits.append(gone_on(model, cache, ids[:, done:], *widths))
            done += sum(widths)
            return cache.ring and cache.ring.recordings

        before = go_on(3 * CHUNK)
        model.configure_ttt(relative_lr=0.02)
        after = go_on(3 * CHUNK, *[1] * 4)
        assert before is None or before is not after
        hook = model.model.layers[0].register_forward_hook(lambda module, given, output: seen.append(1) or None)
        replays = Tape.replays
        go_on(1, 1)
        assert Tape.replays == replays and seen
        hook.remove()
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
        assert (go_on(*[1] * CHUNK) is None) or Tape.replays > replays
        return torch.cat(logits, dim=1), cache

    both(steps)


def test_a_model_keeps_the_recordings_of_the_conversation_it_has_read_last(on_tape):
    ids = tokens(1, 120)

    def steps(model):
        one, other = model.read(ids[:, :BEFORE]), model.read(ids[:, 2:50])
        logits = [gone_on(model, one, ids[:, BEFORE:], *[CHUNK] * 3), gone_on(model, other, ids[:, 50:], *[CHUNK] * 3)]
        assert one.ring is None or (one.ring.recordings is None and other.ring.recordings.of)
        logits.append(gone_on(model, one, ids[:, BEFORE + 3 * CHUNK :], *[CHUNK] * 3))
        assert one.ring is None or (one.ring.recordings.of and other.ring.recordings is None)
        return torch.cat(logits, dim=1), one

    both(steps)
    assert Tape.replays


def test_what_cannot_be_recorded_is_read_as_it_is_and_said(on_tape, monkeypatch):
    def refused(function, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(captured, "record", refused)
    ids, said = tokens(1, 80), []
    monkeypatch.setattr(captured.logger, "warning_once", said.append)

    def steps(model):
        cache = model.read(ids[:, :BEFORE])
        return gone_on(model, cache, ids[:, BEFORE:], 4 * CHUNK, 1, 1, 1), cache

    both(steps)
    assert said and "could not be recorded" in said[0]
