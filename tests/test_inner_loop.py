"""The inner loop: when a loss is taken, that gradients of both orders are right, and what a bad chunk can do."""

import pytest
import torch
from test_contracts import RULES
from tiny import tiny, tokens

from ttt_retrofit import TTTConfig, wrap
from ttt_retrofit.inner import inner_optimizers, learning
from ttt_retrofit.inner.context import FastTerms, ForwardContext, entering
from ttt_retrofit.inner.inner_loop import chunk_loss, next_token_losses, next_token_losses_once
from ttt_retrofit.streaming.reading import Outer, Settings, read
from ttt_retrofit.streaming.tokens import align
from ttt_retrofit.streaming.window import Attended

CHUNK = 6
LEARNING = {"layers": "all", "chunk_size": CHUNK, "sliding_window": 10, "sink_tokens": 2, "rank": 3}
LEARNING |= {"inner_optimizer": "sgd", "inner_lr": 0.1, "max_relative_update": 0.3}


def converted(family="llama", **changes):
    return wrap(tiny(family), TTTConfig(**{**LEARNING, **changes}))


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize("rule", RULES)
def test_the_first_chunk_is_read_by_the_base_and_its_loss_is_taken_before_its_update(rule):
    model, ids = tiny("llama"), tokens(2, 2 * CHUNK)
    with torch.no_grad():
        base = model(ids).logits
        output = wrap(model, TTTConfig(**{**LEARNING, **RULES[rule]}))(ids)
    losses = output.past_key_values.loss_by_chunk
    assert losses.shape == (2, 2)
    torch.testing.assert_close(losses[:, 0], next_token_losses(base[:, :CHUNK], ids[:, :CHUNK]).mean(1))
    torch.testing.assert_close(losses[:, 1], next_token_losses(output.logits[:, CHUNK:], ids[:, CHUNK:]).mean(1))
    assert not torch.allclose(output.logits[:, CHUNK:], base[:, CHUNK:], atol=1e-4)


def test_reading_the_same_text_again_costs_less():
    model, ids = converted(inner_lr=1.0), tokens(1, CHUNK)
    with torch.no_grad():
        losses = model(ids.repeat(1, 6)).past_key_values.loss_by_chunk[0]
    assert losses[-1] < losses[1] - 0.1


def test_chunk_loss_is_the_mean_over_the_tokens_learned_from():
    losses = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    learned = torch.tensor([[True, False, True], [False, False, False]])
    assert chunk_loss(losses, learned).tolist() == [2.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_fast_losses_and_their_gradient_are_those_of_cross_entropy(dtype):
    logits = (4 * torch.randn(2, CHUNK, 97)).to(dtype)
    ids, weight = tokens(2, CHUNK), torch.rand(2, CHUNK - 1)
    slow, fast = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected, found = next_token_losses(slow, ids), next_token_losses_once(fast, ids)
    torch.testing.assert_close(found, expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad)


def test_reading_hands_on_no_graph():
    model, ids = converted(), tokens(1, 2 * CHUNK)
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
    assert not out.logits.requires_grad and not any(hidden.requires_grad for hidden in out.hidden_states)


# ---------------------------------------------------------------------- first order


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt"])
@pytest.mark.parametrize("rows", [1, 2])
def test_the_step_is_the_gradient_of_the_chunk_loss(family, rows):
    """sgd at rate 1 without a trust region leaves minus the gradient behind: finite differences in fp64 agree."""
    model = converted(family, inner_lr=1.0, max_relative_update=1e9).double()
    ids = tokens(rows, CHUNK)
    with torch.no_grad():
        fast = model(ids).past_key_values.fast.sites

    indices = torch.arange(CHUNK).expand(rows, -1)

    def loss(weights):
        attended = Attended(indices, indices, None, 0, False)
        with torch.no_grad(), entering(ForwardContext(FastTerms(weights, rows), attended=lambda: attended)):
            return next_token_losses(model.base_forward(input_ids=ids).logits, ids).mean(1)

    for name, state in fast.items():
        step = state.weights["delta"]
        for row in range(rows):
            direction = torch.zeros_like(step)
            direction[row] = torch.randn_like(step[row])
            nudge = 1e-5 * direction
            slope = (loss({name: {"delta": nudge}}) - loss({name: {"delta": -nudge}})) / 2e-5
            assert slope[row] == pytest.approx(-(step[row] * direction[row]).sum().item(), rel=1e-5, abs=1e-9)
            assert slope.abs().sum() == slope[row].abs()  # no row feels another's weights


# ---------------------------------------------------------------------- second order


def total_loss(model, ids, order):
    """The outer loss: the mean over chunks of the loss taken before each update."""
    outer, losses = Outer(record=True, order=order), []
    for segment in read(model, model.new_cache(), align(ids, None, None), Settings(learn=True, outer=outer)):
        start = segment.starts[0]
        part = ids[:, start : start + segment.taken[0]]
        losses.append(next_token_losses(segment.output.logits, part).mean())
    return torch.stack(losses).mean()


def away_from_zero(model):
    """At a fresh start one factor is zero, the other has no gradient, and adam and muon leap from there."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".start_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))


def slope(model, ids, parameters, directions, step):
    """The directional derivative of the outer loss, by central differences."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions):
                parameter.add_(direction, alpha=sign * step)
        values.append(total_loss(model, ids, order=1).item())
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions):
                parameter.sub_(direction, alpha=sign * step)
    return (values[0] - values[1]) / (2 * step)


# Families whose norms compute in float64 when asked to; those of the others round to float32 inside, so that steps
# have to be long and functions smooth.
EXACT, ROUNDED = ["gpt2", "gpt_neox", "phi"], ["llama", "qwen3", "gemma2", "mistral"]
CASES = [("delta", "sgd"), ("delta", "adam"), ("delta", "muon"), ("lora", "adam"), ("prime", "sgd"), ("prime", "muon")]
OUTER_CASES = [(family, *case) for family in EXACT for case in CASES]
OUTER_CASES += [(family, *case) for family in ROUNDED for case in (("delta", "sgd"), ("lora", "adam"))]


@pytest.mark.parametrize("family,kind,optimizer", OUTER_CASES)
def test_outer_gradients_match_finite_differences(family, kind, optimizer, monkeypatch):
    # Adam's first step is the sign of the gradient, softened by eps alone; differences need a wider corner to see it.
    monkeypatch.setattr(inner_optimizers, "ADAM_EPS", 1e-2)
    lr = {"sgd": 1.0, "adam": 1e-2, "muon": 0.02}[optimizer]
    model = converted(family, fast_weights=kind, inner_optimizer=optimizer, inner_lr=lr, sliding_window=8).double()
    away_from_zero(model)
    ids = tokens(2, 4 * CHUNK)
    step, tolerance = (1e-6, 1e-5) if family in EXACT else (1e-3, 1e-2)
    groups = {
        "start": [p for name, p in model.named_parameters() if ".start_" in name],
        "log_lr": [p for name, p in model.named_parameters() if name.endswith("log_lr")],
        "slow": [p for name, p in model.named_parameters() if ".ttt." not in name and p.ndim == 2],
    }
    assert groups["log_lr"] and groups["slow"] and bool(groups["start"]) == (kind != "delta")
    for name, parameters in groups.items():
        if not parameters:
            continue
        gradients = torch.autograd.grad(total_loss(model, ids, order=2), parameters)
        # Along the gradient itself, and along a random direction, both of length one over all parameters.
        for directions in (gradients, [torch.randn_like(p) for p in parameters]):
            length = torch.stack([d.square().sum() for d in directions]).sum().sqrt()
            directions = [d / length for d in directions]
            expected = sum((g * d).sum().item() for g, d in zip(gradients, directions))
            found = slope(model, ids, parameters, directions, step)
            assert found == pytest.approx(expected, rel=tolerance, abs=tolerance * 1e-2), name


def test_first_order_leaves_out_the_path_through_the_inner_gradient():
    """Both orders agree on log_lr until an update is differentiated through: from the third chunk on."""
    model = converted("gpt2", max_relative_update=1e9).double()
    rates = [p for name, p in model.named_parameters() if name.endswith("log_lr")]

    def gradient(chunks, order):
        return torch.stack(torch.autograd.grad(total_loss(model, tokens(1, chunks * CHUNK), order), rates))

    torch.testing.assert_close(gradient(2, 1), gradient(2, 2), rtol=1e-9, atol=0)
    assert not torch.allclose(gradient(3, 1), gradient(3, 2), rtol=1e-4)


def test_using_a_model_leaves_no_graph_behind():
    model = converted()
    with torch.no_grad():
        cache = model(tokens(1, 3 * CHUNK + 1)).past_key_values
    assert not any(tensor.requires_grad for tensor in cache.fast.tensors().values())
    assert not any(layer.keys.requires_grad for layer in cache.layers)
    assert all(p.grad is None for p in model.parameters())


# ---------------------------------------------------------------------- bad chunks

POISON = 91  # a token that `tokens` never draws


def poisoned(value, rows=2):
    """A model that computes `value` for one token, and a batch whose first row holds it in its second chunk."""
    model, ids = converted(sliding_window=CHUNK), tokens(rows, 10 * CHUNK)
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = value
    clean = ids.clone()
    ids[0, CHUNK + 2] = POISON
    return model, ids, clean


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("split", [CHUNK, 4])
def test_a_chunk_that_is_not_finite_drops_the_update_of_its_row_alone(value, split):
    model, ids, clean = poisoned(value)
    with torch.no_grad():
        cache = None
        for part in ids.split(split, dim=1):
            cache = model(part, past_key_values=cache).past_key_values
        expected = model(clean[1:]).past_key_values
    state = cache.fast.tensors()
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert cache.loss_by_chunk[0, 1].isnan()
    # What layers have seen of the token lives on for a window per layer; then the row learns again.
    assert torch.isfinite(cache.loss_by_chunk[0, [0, -2, -1]]).all()
    assert cache.fast.steps.tolist() == [int(torch.isfinite(cache.loss_by_chunk[0]).sum()), 10]
    for name, tensor in expected.fast.tensors().items():
        torch.testing.assert_close(state[name][1:], tensor, atol=1e-5, rtol=1e-5, msg=name)


def test_a_diverging_chunk_is_dropped():
    """A loss worse than guessing says that something broke; learning from it would break more."""
    model, ids = converted(), tokens(2, 2 * CHUNK)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
        cache = model(ids).past_key_values
    assert (cache.loss_by_chunk > 10).all()
    assert cache.fast.steps.tolist() == [0, 0]
    assert all(tensor.abs().max() == 0 for tensor in cache.fast.tensors().values())


def test_a_dropped_update_is_reported_once(monkeypatch):
    """By whoever looks at the losses first: nobody else waits for the device."""
    heard = []
    learning.logger.warning_once.cache_clear()
    monkeypatch.setattr(learning.logger, "warning", lambda message, *rest: heard.append(message))
    model, ids, clean = poisoned(float("nan"))
    with torch.no_grad():
        read = [model(some).past_key_values for some in (clean, ids, ids)]
    assert not heard and read[0].losses and not heard
    assert all(found.losses for found in read)
    assert len(heard) == 1 and "dropped" in heard[0]
