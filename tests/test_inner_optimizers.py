"""sgd, normalized_sgd, adam and muon: pure, equal to their references, the same in place, and differentiable."""

import pytest
import torch

from ttt_retrofit.inner.inner_optimizers import inner_optimizer, orthogonalise

NAMES = ["sgd", "normalized_sgd", "adam", "muon"]
ADAM, MUON = inner_optimizer("adam"), inner_optimizer("muon")
ROWS, SHAPE = 3, (5, 7)


def gradients(count):
    return [torch.randn(ROWS, *SHAPE) for _ in range(count)]


def fresh(name, dtype=torch.float32):
    return {slot: torch.zeros_like(value, dtype=dtype) for slot, value in drawn(name).items()}


def drawn(name, dtype=torch.float32):
    method = inner_optimizer(name)
    return {slot: torch.rand(ROWS, *method.slot_shape(slot, SHAPE), dtype=dtype) for slot in method.slots}


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_untouched(name):
    gradient, state = gradients(1)[0], drawn(name)
    before = gradient.clone(), {slot: value.clone() for slot, value in state.items()}
    _, new = inner_optimizer(name).direction(gradient, state, torch.ones(ROWS))
    assert torch.equal(gradient, before[0]) and all(torch.equal(state[slot], before[1][slot]) for slot in state)
    assert new.keys() == state.keys() and all(not torch.equal(new[slot], state[slot]) for slot in state)


@pytest.mark.parametrize("name", NAMES)
def test_each_row_has_its_own_optimizer(name):
    """Rows at different steps, together and alone."""
    gradient, steps = gradients(1)[0], torch.tensor([1, 5, 9])
    state = drawn(name)
    together, _ = inner_optimizer(name).direction(gradient, state, steps)
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone, _ = inner_optimizer(name).direction(
            gradient[one], {slot: value[one] for slot, value in state.items()}, steps[one]
        )
        torch.testing.assert_close(together[one], alone)


@pytest.mark.parametrize("name", NAMES)
def test_in_place_equals_pure(name):
    weight, state, lr = torch.randn(ROWS, *SHAPE), fresh(name), 0.01
    weight_, state_ = weight.clone(), {slot: value.clone() for slot, value in state.items()}
    for step, gradient in enumerate(gradients(4), start=1):
        direction, state = inner_optimizer(name).direction(gradient, state, torch.full((ROWS,), step))
        weight = weight - lr * direction
        rows, lr_, done = torch.full((ROWS,), float(step)), torch.tensor(lr), torch.zeros(ROWS)
        inner_optimizer(name).step_(weight_, gradient, state_, rows, lr_, torch.zeros(ROWS), done)
        assert done.all()
    torch.testing.assert_close(weight_, weight)
    for slot in state:
        torch.testing.assert_close(state_[slot], state[slot])


def test_adam_equals_torch():
    weight = torch.randn(ROWS, *SHAPE)
    parameter, state = torch.nn.Parameter(weight.clone()), fresh("adam")
    reference = torch.optim.Adam([parameter], lr=0.01)
    for step, gradient in enumerate(gradients(5), start=1):
        parameter.grad = gradient
        reference.step()
        direction, state = ADAM.direction(gradient, state, torch.full((ROWS,), step))
        weight = weight - 0.01 * direction
    torch.testing.assert_close(weight, parameter.detach(), atol=1e-6, rtol=1e-6)


def test_the_direction_of_normalized_sgd_is_the_gradients_at_any_scale():
    (gradient,) = gradients(1)
    normalized, step = inner_optimizer("normalized_sgd"), torch.ones(ROWS)
    found, carried = normalized.direction(gradient, fresh("normalized_sgd"), step)
    torch.testing.assert_close(found, gradient / gradient.square().mean((1, 2), keepdim=True).sqrt())
    torch.testing.assert_close(normalized.direction(1e-6 * gradient, fresh("normalized_sgd"), step)[0], found)
    again, _ = normalized.direction(3 * gradient, carried, 2 * step)
    mean = (0.9 * 0.1 + 0.1 * 9) / (1 - 0.9**2)  # of the squares, in units of the first
    torch.testing.assert_close(again, 3 * found / mean**0.5)
    assert normalized.carried(SHAPE) == 5 * 7 + 1


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_the_direction_of_muon_is_nearly_orthogonal(shape):
    direction = orthogonalise(torch.randn(ROWS, *shape))
    singular = torch.linalg.svdvals(direction)
    assert direction.shape == (ROWS, *shape)
    assert singular.min() > 0.3 and singular.max() < 1.3


def test_muon_points_where_the_gradient_does():
    gradient = gradients(1)[0]
    direction, _ = MUON.direction(gradient, fresh("muon"), torch.ones(ROWS))
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    assert torch.cosine_similarity(direction.flatten(1), (u @ v).flatten(1)).min() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_match_finite_differences(name):
    gradient = torch.randn(ROWS, *SHAPE, dtype=torch.float64, requires_grad=True)
    state = drawn(name, torch.float64)
    torch.autograd.gradcheck(lambda g: inner_optimizer(name).direction(g, state, torch.full((ROWS,), 3))[0], gradient)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_of_zero_gives_a_finite_step_and_a_finite_derivative(name):
    gradient = torch.zeros(ROWS, *SHAPE, requires_grad=True)
    direction, _ = inner_optimizer(name).direction(gradient, fresh(name), torch.ones(ROWS))
    (derivative,) = torch.autograd.grad(direction.sum(), gradient)
    assert direction.abs().max() == 0 and torch.isfinite(derivative).all()
