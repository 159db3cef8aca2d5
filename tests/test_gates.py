"""Which of several memories speaks: the one whose studied questions the text resembles most."""

import dataclasses

import torch

from ttt_retrofit import gates


def bank(*keys, closed=0.3):
    """Gates whose memories have one key each; nothing is common to all texts."""
    width = len(keys[0])
    background = gates.Background(torch.zeros(1, width), torch.zeros(1, width, 1), torch.ones(1, 1))
    stacked = torch.nn.functional.normalize(torch.tensor(keys), dim=-1)[None, :, None]
    bounds = torch.full((1, len(keys)), closed)
    return gates.Gates(background, stacked, bounds, bounds + 0.05)


def test_of_two_memories_the_one_that_knows_speaks_and_of_equals_both():
    seen = torch.full((1, 1), gates.SETTLED)
    asked = torch.tensor([[[1.0, 0.0, 0.0]]])
    near, far, other = [1.0, 0.1, 0.0], [0.8, 0.6, 0.0], [1.0, 0.0, 0.1]
    assert gates.openings(asked, seen, bank(far)).tolist() == [[[1.0]]]
    assert gates.openings(asked, seen, bank(near, far)).tolist() == [[[1.0, 0.0]]]
    assert gates.openings(asked, seen, bank(near, other)).tolist() == [[[1.0, 1.0]]]


def test_a_memory_that_always_speaks_silences_no_other():
    seen = torch.full((1, 1), gates.SETTLED)
    always = bank([1.0, 0.0, 0.0], [0.8, 0.6, 0.0])
    always = dataclasses.replace(always, closed=torch.tensor([[-3.0, 0.3]]), opened=torch.tensor([[-2.0, 0.35]]))
    assert gates.openings(torch.tensor([[[1.0, 0.0, 0.0]]]), seen, always).tolist() == [[[1.0, 1.0]]]
