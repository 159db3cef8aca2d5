"""The kinds of fast weights: what they add, where they start, and the bound they stay within."""

import copy

import pytest
import torch
import torch.nn.functional as F

from ttt_retrofit import TTTConfig
from ttt_retrofit.inner.discovery import Site
from ttt_retrofit.inner.fast_weights import Bounded, fast_weights, frobenius
from ttt_retrofit.inner.inner_loop import SiteConstants, Stepped, fresh_state, update, update_

KINDS = ["delta", "lora", "prime", "subspace"]
ROWS, INWARD, OUTWARD = 3, 7, 5
BOUND, NORM = 0.1, 4.0


def make(kind, optimizer="sgd", lr=1.0):
    config = TTTConfig(fast_weights=kind, rank=2, inner_optimizer=optimizer, max_relative_update=BOUND)
    role = "block" if kind == "prime" else "down"
    outward = INWARD if kind == "prime" else OUTWARD
    site = Site(0, role, "mlp.down_proj", "mlp", INWARD, outward)
    terms = fast_weights(config)
    start = terms.start(site, torch.Generator().manual_seed(0))
    norms = {name: value.norm() if value.norm() > 0 else torch.tensor(NORM) for name, value in start.items()}
    constants = SiteConstants(start, {"base": torch.tensor(NORM)} | norms, torch.tensor(lr))
    state = fresh_state(terms.shapes(site), start, config, ROWS, like=torch.zeros(()))
    return config, terms, constants, state


def fixed(terms):
    """What a site stores beside the fast weights."""
    site = Site(0, "down", "mlp.down_proj", "mlp", INWARD, OUTWARD)
    return terms.calibrated(site, torch.randn(20, INWARD), torch.Generator().manual_seed(0))


def batched(stored):
    return {name: value[None] for name, value in stored.items()}


def randomised(state, scale=0.1):
    return {name: weight + scale * torch.randn_like(weight) for name, weight in state.weights.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_adds_nothing(kind):
    _, terms, _, state = make(kind)
    onto = torch.randn(ROWS, 4, INWARD if kind == "prime" else OUTWARD)
    assert torch.equal(terms(onto, torch.randn(ROWS, 4, INWARD), state.weights | batched(fixed(terms))), onto)


def test_each_kind_adds_what_its_equation_says():
    x = torch.randn(ROWS, 4, INWARD)
    for kind in KINDS:
        _, terms, _, state = make(kind)
        weights = randomised(state, 1.0)
        onto = torch.randn(ROWS, 4, INWARD if kind == "prime" else OUTWARD)
        stored = fixed(terms)
        added = terms(onto, x, weights | batched(stored)) - onto
        for row in range(ROWS):
            w, z = {name: weight[row] for name, weight in weights.items()} | stored, x[row]
            expected = {
                "delta": lambda w, z: z @ w["delta"].T,
                "lora": lambda w, z: z @ (w["b"] @ w["a"]).T,
                "subspace": lambda w, z: z @ (w["b"] @ w["a"]).T,
                "prime": lambda w, z: (F.silu(z @ w["gate"].T) * (z @ w["up"].T)) @ w["down"].T,
            }[kind](w, z)
            torch.testing.assert_close(added[row], expected, atol=1e-5, rtol=1e-5)


def change(kind, weights, constants):
    """(B,) the largest relative change of a matrix, from its definition."""
    if kind == "delta":
        return frobenius(weights["delta"]) / NORM
    if kind == "subspace":
        return frobenius(weights["b"] - constants.start["b"]) / NORM
    if kind == "lora":
        start = constants.start
        return frobenius(weights["b"] @ weights["a"] - start["b"] @ start["a"]) / NORM
    moved = [frobenius(weights[name] - constants.start[name]) / constants.scale[name] for name in weights]
    return torch.stack(moved).amax(0)


@pytest.mark.parametrize("kind", KINDS)
def test_displacement_is_the_relative_change(kind):
    _, terms, constants, state = make(kind)
    weights = randomised(state)
    found = terms.displacement(weights, constants.start, constants.scale)
    torch.testing.assert_close(found, change(kind, weights, constants))


def step_in_place(terms, state, gradients, constants, config, step, skipped=(0.0,) * ROWS):
    sites = {"site": state}
    rows = torch.full((ROWS,), float(step)), torch.tensor(skipped)
    update_(terms, sites, {"site": gradients}, {"site": constants}, config, *rows, Stepped.none_of(sites))


@pytest.mark.parametrize("optimizer", ["sgd", "normalized_sgd", "adam", "muon"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_place_a_row_that_is_skipped_stays_as_it_is_whatever_its_gradient(kind, optimizer):
    config, terms, constants, state = make(kind, optimizer)
    before = copy.deepcopy(state)
    gradients = {name: torch.randn_like(weight) for name, weight in state.weights.items()}
    for gradient in gradients.values():
        gradient[1] = torch.nan
    step_in_place(terms, state, gradients, constants, config, 1, skipped=(0.0, 1.0, 0.0))
    expected = update(terms, before, gradients, constants, config, torch.ones(ROWS))
    for name, weight in state.weights.items():
        slots = state.optimizer[name]
        pairs = [(weight, before.weights[name], expected.weights[name])]
        pairs += [(slots[slot], before.optimizer[name][slot], expected.optimizer[name][slot]) for slot in slots]
        for found, old, new in pairs:
            assert torch.equal(found[1], old[1])
            torch.testing.assert_close(found[[0, 2]], new[[0, 2]])


@pytest.mark.parametrize("lr", [1e-3, 1.0, 1e6, 1e25, 1e38])
@pytest.mark.parametrize("optimizer", ["sgd", "normalized_sgd", "adam", "muon"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_trust_region_holds_at_every_learning_rate(kind, optimizer, lr):
    config, terms, constants, pure = make(kind, optimizer, lr)
    in_place = make(kind, optimizer, lr)[3]
    for step in range(1, 6):
        gradients = {name: torch.randn_like(weight) for name, weight in pure.weights.items()}
        pure = update(terms, pure, gradients, constants, config, torch.full((ROWS,), step))
        step_in_place(terms, in_place, gradients, constants, config, step)
        for state in (pure, in_place):
            assert all(torch.isfinite(weight).all() for weight in state.weights.values())
            assert (change(kind, state.weights, constants) <= BOUND * 1.001).all()


@pytest.mark.parametrize("kind", KINDS)
def test_within_the_trust_region_nothing_is_shrunk(kind):
    _, terms, constants, state = make(kind)
    weights = randomised(state, 1e-4)
    shrunk = terms.shrink(weights, constants.start, constants.scale, BOUND)
    for name in weights:
        torch.testing.assert_close(shrunk[name], weights[name], atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_beyond_the_bound_shrinks_alone(kind):
    _, terms, constants, state = make(kind)
    weights = randomised(state, 1e-4)
    weights = {name: torch.cat([weight[:2], weight[2:] + 5.0]) for name, weight in weights.items()}
    shrunk = terms.shrink(weights, constants.start, constants.scale, BOUND)
    for name in weights:
        torch.testing.assert_close(shrunk[name][:2], weights[name][:2], atol=1e-8, rtol=1e-6)
        assert not torch.allclose(shrunk[name][2], weights[name][2])


@pytest.mark.parametrize("kind", KINDS)
def test_sites_that_are_shrunk_together_are_shrunk_as_each_by_itself(kind):
    made = [make(kind) for _ in range(3)]
    sites = [Bounded(randomised(state, size), own.start, own.scale) for (*_, own, state), size in zip(made, (1, 9, 0))]
    terms = made[0][1]
    expected = [terms.shrink(*site, BOUND) for site in sites]
    terms.shrink_(sites, BOUND)
    for site, alone in zip(sites, expected):
        torch.testing.assert_close(site.weights, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_updating_in_place_never_reaches_the_stored_start(kind):
    config, terms, constants, state = make(kind, "adam")
    before = {name: value.clone() for name, value in constants.start.items()}
    gradients = {name: torch.randn_like(w) for name, w in state.weights.items()}
    step_in_place(terms, state, gradients, constants, config, 1)
    assert all(torch.equal(constants.start[name], value) for name, value in before.items())
