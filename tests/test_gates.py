"""Which of several memories is active: the one whose studied questions the text resembles most."""

import dataclasses

import torch

from ttt_retrofit.consolidation.train import gate_calibration
from ttt_retrofit.memory import gates


def bank(*keys, closed=0.3):
    """Gates whose memories have one key each; nothing is common to all texts."""
    width = len(keys[0])
    background = gates.Background(torch.zeros(1, width), torch.zeros(1, width, 1), torch.ones(1, 1))
    stacked = torch.nn.functional.normalize(torch.tensor(keys), dim=-1)[None, :, None]
    bounds = torch.full((1, len(keys)), closed)
    return gates.Gates(background, stacked, bounds, bounds + 0.05)


def opened(text, memories, before=None):
    """How far each gate is open at the end of one text of hidden states."""
    opening, after = gates.openings_and_state(torch.tensor([text]), before, torch.tensor([len(text)]), memories)
    return opening[0, -1].tolist(), after


def settled(state):
    return [state] * gates.MIN_TOKENS


def test_of_two_memories_the_one_that_knows_speaks_and_of_equals_both():
    asked = settled([1.0, 0.0, 0.0])
    near, far, other = [1.0, 0.1, 0.0], [0.8, 0.6, 0.0], [1.0, 0.0, 0.1]
    assert opened(asked, bank(far))[0] == [1.0]
    assert opened(asked, bank(near, far))[0] == [1.0, 0.0]
    assert opened(asked, bank(near, other))[0] == [1.0, 1.0]


def test_a_memory_that_is_always_active_closes_no_other_gate():
    always = bank([1.0, 0.0, 0.0], [0.8, 0.6, 0.0])
    always = dataclasses.replace(always, closed=torch.tensor([[-3.0, 0.3]]), opened=torch.tensor([[-2.0, 0.35]]))
    assert opened(settled([1.0, 0.0, 0.0]), always)[0] == [1.0, 1.0]
    assert opened([[1.0, 0.0, 0.0]], always)[0] == [1.0, 0.0]  # about nothing yet


DOGS, CATS = [1.0, 0.0, 0.3], [0.0, 1.0, 0.3]
BETWEEN = [0.4, 0.6, 0.3]  # words that resemble the second a little more


def test_the_memory_that_was_asked_goes_on_speaking():
    memories = bank(DOGS, CATS)
    _, asked = opened(settled(DOGS), memories)
    assert opened(settled(BETWEEN), memories)[0] == [0.0, 1.0]
    replying, _ = opened([BETWEEN] * 6, memories, asked)
    assert replying == [1.0, 0.0]


def test_another_question_takes_the_word():
    memories = bank(DOGS, CATS)
    _, asked = opened(settled(DOGS), memories)
    _, replied = opened([BETWEEN] * 6, memories, asked)
    assert opened(settled(CATS) * 2, memories, replied)[0] == [0.0, 1.0]


def test_how_a_text_is_split_into_calls_changes_no_gate():
    other = [0.3, 0.3, 1.0]
    text = torch.tensor([[DOGS, BETWEEN, CATS, other, BETWEEN, [-1.0, -1.0, 0.0], DOGS, CATS]]).repeat_interleave(5, 1)
    memories = bank(DOGS, CATS, other)
    whole, end = gates.openings_and_state(text, None, torch.tensor([40]), memories)
    parts, before = [], None
    for part in text.split([3, 1, 1, 15, 20], dim=1):
        opening, before = gates.openings_and_state(part, before, torch.tensor([part.shape[1]]), memories)
        parts.append(opening)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-4)
    assert (whole > 0).any(1).all() and (whole == 0).any(1).all()
    for name, tensor in end.tensors().items():
        assert torch.allclose(before.tensors()[name].float(), tensor.float(), atol=1e-5), name


def test_padding_changes_neither_the_gates_nor_what_is_carried_on():
    generator = torch.Generator().manual_seed(1)
    text, memories = torch.rand(2, 20, 3, generator=generator), bank(DOGS, CATS)
    both, after = gates.openings_and_state(text, None, torch.tensor([20, 12]), memories)
    alone, end = gates.openings_and_state(text[1:, :12], None, torch.tensor([12]), memories)
    assert torch.allclose(both[1:, :12], alone, atol=1e-5)
    for name, tensor in after.tensors().items():
        assert torch.allclose(tensor[1:], end.tensors()[name], atol=1e-5), name


def test_the_few_questions_that_could_be_anybodys_do_not_shut_a_gate_to_all_others():
    """Of 60 studied questions one is also an unrelated one, word for word; the others are near none."""
    generator = torch.Generator().manual_seed(0)

    def about(direction):
        hidden = 0.05 * torch.randn(12, 96, generator=generator) + torch.eye(96)[direction]
        return gate_calibration.TextMeans.of(hidden, [0] * 12, ())

    told = [about(direction) for direction in range(59)]
    anybodys = about(59)
    unrelated = [about(direction) for direction in range(60, 96)]
    background = gate_calibration.find_background(unrelated)
    texts, asked = unrelated[:18], [*unrelated[18:], anybodys]

    def gate_of(studied, asked):
        return gate_calibration.find_gate([(text, 6) for text in studied], texts, asked, background)

    without, with_it = gate_of(told, unrelated[18:]), gate_of([*told, anybodys], asked)
    assert with_it.closed < without.closed + 0.05
    assert all(gate_calibration.highest(text, with_it.keys, background) > with_it.opened for text in told)
    assert gate_calibration.highest(anybodys, with_it.keys, background) < with_it.closed
    assert gate_of([*told[:19], anybodys], asked).keys.shape[0] == 2 * 20, "of a few, none is left out"
