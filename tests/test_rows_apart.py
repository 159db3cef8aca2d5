"""No value of one row enters another's arithmetic, finite or not; and a memory that holds such values is refused."""

import copy
import dataclasses
import math

import pytest
import torch
from converted import converted
from remembered import memory
from tiny import tokens

from ttt_retrofit import CheckpointError
from ttt_retrofit.inner.hooks import bind
from ttt_retrofit.memory.collate import collate
from ttt_retrofit.memory.gates import Background

IDS = tokens(3, 30)
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])


def of_weights(made, bad):
    entries = [
        dataclasses.replace(
            entry, weights={p: {n: torch.full_like(t, bad) for n, t in w.items()} for p, w in entry.weights.items()}
        )
        for entry in made.entries
    ]
    return dataclasses.replace(made, entries=tuple(entries))


def of_keys(made, bad):
    entries = [
        dataclasses.replace(entry, gate=dataclasses.replace(entry.gate, keys=torch.full_like(entry.gate.keys, bad)))
        for entry in made.entries
    ]
    return dataclasses.replace(made, entries=tuple(entries))


def of_bounds(made, bad):
    gates = [dataclasses.replace(entry.gate, closed=bad) for entry in made.entries]
    return dataclasses.replace(
        made, entries=tuple(dataclasses.replace(e, gate=gate) for e, gate in zip(made.entries, gates))
    )


def of_background(made, bad):
    background = made.background
    return dataclasses.replace(
        made, background=Background(torch.full_like(background.centre, bad), background.directions, background.shrink)
    )


DAMAGED = pytest.mark.parametrize("damage", [of_weights, of_keys, of_background, of_bounds])


@torch.no_grad()
@BAD
@DAMAGED
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_damaged_memory_reaches_no_other_row(damage, bad, order):
    model = converted()
    good, other = memory(model, 1), memory(model, 2, 3)
    # What the check would refuse, as if it had been let through.
    rows = [[good, None, damage(other, bad)][index] for index in order]
    ready = collate(rows, model.device, model.dtype)
    bind(model, ready.hooks)
    whole = [[good, None, other][index] for index in order]
    expected = model(IDS, memories=whole, learn_from="none")
    model._memory_batches.put(rows, (model.device, model.dtype), ready)
    out = model(IDS, memories=rows, learn_from="none")
    again = model(IDS, memories=rows, past_key_values=out.past_key_values, learn_from="none").logits
    assert out.past_key_values.gate_state.near.isfinite().all()
    after = model(IDS, memories=whole, past_key_values=expected.past_key_values, learn_from="none").logits
    for row, index in enumerate(order):
        if index != 2:
            assert torch.equal(out.logits[row], expected.logits[row]) and torch.equal(again[row], after[row])


@DAMAGED
@BAD
def test_a_memory_that_is_not_finite_is_refused(damage, bad, tmp_path):
    model = converted()
    good = memory(model, 1)
    damaged = damage(memory(model, 2), bad)
    damaged.save(tmp_path)
    model.load_memory(good)
    for attempt in (
        lambda: model.load_memory(damaged),
        lambda: model.load_memory(tmp_path),
        lambda: model(IDS, memories=[good, None, damaged]),
    ):
        with pytest.raises(CheckpointError, match=r"not finite|lacks numbers"):
            attempt()
    assert model.memory is good


@torch.no_grad()
@BAD
@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("learn_from", ["all", "none"])
def test_fast_weights_that_are_not_finite_reach_no_other_row(kind, bad, learn_from):
    model = converted("llama", kind)
    cache = model(IDS).past_key_values
    damaged = copy.deepcopy(cache)
    for state in damaged.fast.sites.values():
        for weight in state.weights.values():
            weight[1] = bad
    for length in (20, 1, 7):
        out = model(tokens(3, length), past_key_values=damaged, learn_from=learn_from)
        expected = model(tokens(3, length), past_key_values=cache, learn_from=learn_from)
        damaged, cache = out.past_key_values, expected.past_key_values
        assert not out.logits[1].isfinite().all()
        for row in (0, 2):
            torch.testing.assert_close(out.logits[row], expected.logits[row], rtol=0, atol=1e-3)
