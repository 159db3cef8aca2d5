"""Outer gradients: what a sweep over chunks finds is the derivative of the outer loss."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import tiny, tokens

from ttt_retrofit import ConfigError, InputError, TTTConfig, wrap
from ttt_retrofit.inner import inner_optimizers
from ttt_retrofit.inner.inner_loop import next_token_losses
from ttt_retrofit.inner.learning import fresh
from ttt_retrofit.outer import chunks as meta_chunks
from ttt_retrofit.outer import smoothing
from ttt_retrofit.outer.chunks import by_differences, by_double_backward
from ttt_retrofit.outer.gradients import _second_order, outer_gradients, through_updates
from ttt_retrofit.outer.parameters import choose
from ttt_retrofit.streaming.reading import Outer, Settings, read
from ttt_retrofit.streaming.tokens import align

CHUNK = 6
LEARNING = {"layers": "all", "chunk_size": CHUNK, "sliding_window": 8, "sink_tokens": 2, "rank": 3}
LEARNING |= {"inner_optimizer": "sgd", "inner_lr": 0.1, "max_relative_update": 0.3}
RATES = {"sgd": 1.0, "normalized_sgd": 1e-2, "adam": 1e-2, "muon": 0.02}


def converted(family="gpt2", **changes):
    model = wrap(tiny(family), TTTConfig(**{**LEARNING, **changes})).double().eval()
    with torch.no_grad():  # away from zero, where one factor of a product has no gradient
        for name, parameter in model.named_parameters():
            if ".start_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def wide_corner(monkeypatch):
    """Adam with a corner wide enough for finite differences to see, the same in all its forms."""

    monkeypatch.setattr(inner_optimizers, "ADAM_EPS", 1e-2)
    monkeypatch.setattr(inner_optimizers.Adam, "step_", inner_optimizers.InnerOptimizer.step_)
    monkeypatch.setattr(meta_chunks, "differentiable", lambda name: inner_optimizers.inner_optimizer(name).direction)


def exact_loss(model, ids, order=1):
    """The mean over chunks of the loss taken before each update, with a graph."""
    losses, outer = [], Outer(record=True, order=order)
    for segment in read(model, model.new_cache(), align(ids, None, None), Settings(learn=True, outer=outer)):
        part = ids[:, segment.starts[0] : segment.starts[0] + segment.taken[0]]
        losses.append(next_token_losses(segment.output.logits, part).mean())
    return torch.stack(losses).mean()


def slope(loss, parameters, directions, step):
    """The directional derivative, by central differences."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions):
                parameter.add_(direction, alpha=sign * step)
        values.append(loss().item())
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions):
                parameter.sub_(direction, alpha=sign * step)
    return (values[0] - values[1]) / (2 * step)


def sweep(model, outer, ids, exact=None, reading=by_differences):
    count = ids.shape[1] // CHUNK if exact is None else exact
    return through_updates(model, outer, align(ids, None, None), count, reading).gradients


def assert_same(found, expected, rtol, names):
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[parameter], gradient, rtol=rtol, atol=rtol * scale, msg=names.get(parameter))


# Families whose norms compute in float64 when asked to, and two that round to float32 inside.
EXACT, ROUNDED = ["gpt2", "gpt_neox", "phi"], ["llama", "qwen3", "gemma3_text"]
KINDS = [("delta", "sgd"), ("delta", "adam"), ("lora", "adam"), ("lora", "muon"), ("prime", "sgd")]
KINDS += [("subspace", "normalized_sgd")]
CASES = [(family, *kind) for family in EXACT[:2] for kind in KINDS]
CASES += [(family, kind, "sgd") for family in ROUNDED for kind in ("delta", "lora", "prime")]


@pytest.fixture
def long_difference(request, monkeypatch):
    """The families that round cannot tell short differences from noise."""
    if request.getfixturevalue("family") in ROUNDED:
        monkeypatch.setitem(meta_chunks.DIFFERENCE, torch.float64, 1e-3)


@pytest.mark.parametrize("family,kind,optimizer", CASES)
def test_exact_gradients_match_finite_differences(family, kind, optimizer, wide_corner, long_difference):
    gentle = 0.1 if family in ROUNDED else 1.0  # long differences need a smooth function
    model = converted(family, fast_weights=kind, inner_optimizer=optimizer, inner_lr=gentle * RATES[optimizer])
    outer, ids = choose(model, ["start", "log_lr"]), tokens(2, 4 * CHUNK)
    found = sweep(model, outer, ids)
    step, tolerance = (1e-6, 1e-5) if family in EXACT else (1e-3, 1e-2)
    groups = {
        "start": [s.parameter for by_name in outer.starts.values() for s in by_name.values()],
        "log_lr": [site.log_lr for site in outer.rates.values()],
    }
    for name, parameters in groups.items():
        gradients = [found[p] for p in parameters]
        for directions in (gradients, [torch.randn_like(p) for p in parameters]):
            length = torch.stack([d.square().sum() for d in directions]).sum().sqrt()
            directions = [d / length for d in directions]
            expected = sum((g * d).sum().item() for g, d in zip(gradients, directions))
            measured = slope(lambda: exact_loss(model, ids), parameters, directions, step)
            assert measured == pytest.approx(expected, rel=tolerance, abs=tolerance * 1e-2), name


@pytest.mark.parametrize("family,kind,optimizer", [(f, *k) for f in ("gpt2", "llama") for k in KINDS])
def test_differences_double_backward_and_autograd_over_the_whole_read_agree(
    family, kind, optimizer, wide_corner, long_difference
):
    # A tiny prime MLP's trust region, that of the small projection beside it, is a corner at large steps.
    gentle = 0.1 if family in ROUNDED or kind == "prime" else 1.0
    model = converted(family, fast_weights=kind, inner_optimizer=optimizer, inner_lr=gentle * RATES[optimizer])
    outer, ids = choose(model, ["start", "log_lr"]), tokens(2, 4 * CHUNK)
    names = {p: name for name, p in model.named_parameters()}
    whole = dict(zip(outer.all, torch.autograd.grad(exact_loss(model, ids, order=2), outer.all)))
    assert_same(sweep(model, outer, ids, reading=by_double_backward), whole, 1e-5, names)
    assert_same(sweep(model, outer, ids), whole, 1e-5 if family == "gpt2" else 1e-2, names)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "olmo2"])
@pytest.mark.parametrize("kind", ["delta", "lora"])
def test_layers_below_the_first_site_are_run_once(family, kind, monkeypatch):
    model = converted(family, fast_weights=kind, layers=[2, 3], inner_optimizer="adam", inner_lr=1e-3)
    outer, ids = choose(model, ["start", "log_lr"]), tokens(2, 4 * CHUNK)
    assert len(outer.below) == 2 and outer.lowest == 3
    runs = []
    mlp = next(module for name, module in outer.below[0].named_modules() if name.endswith("mlp"))
    mlp.register_forward_hook(lambda *_: runs.append(1))
    found = sweep(model, outer, ids)
    assert len(runs) == 4
    names = {p: name for name, p in model.named_parameters()}
    whole = sweep(model, replace(outer, below=[]), ids)
    assert_same(found, whole, 1e-9, names)


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
def test_sinks_that_move_along_are_followed(kind):
    """For `delta`, whose start is the projection, but for the keys of the moved sinks themselves."""
    config = TTTConfig(**{**LEARNING, "fast_weights": kind, "inner_lr": 0.05})
    model = wrap(tiny("gpt_neox", max_position_embeddings=20), config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".start_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    outer, ids = choose(model, ["log_lr"] if kind == "delta" else ["start", "log_lr"]), tokens(1, 5 * CHUNK)
    names = {p: name for name, p in model.named_parameters()}
    whole = dict(zip(outer.all, torch.autograd.grad(exact_loss(model, ids, order=2), outer.all)))
    assert_same(sweep(model, outer, ids), whole, 1e-5, names)
    assert_same(sweep(model, outer, ids, reading=by_double_backward), whole, 1e-9, names)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("family", "kind"), [("gpt2", "delta"), ("gpt2", "lora"), ("gpt_neox", "delta")])
def test_every_parameter_of_the_model_can_be_trained(family, kind, rows, wide_corner):
    model = converted(family, fast_weights=kind)
    outer, ids = choose(model, ["everything"]), tokens(rows, 4 * CHUNK)
    names = {p: name for name, p in model.named_parameters()}
    assert outer.lowest == 0 and {names[p] for p in outer.all} == set(names.values())
    loss = exact_loss(model, ids, order=2)
    whole = {p: g for p, g in zip(outer.all, torch.autograd.grad(loss, outer.all, allow_unused=True)) if g is not None}
    found = sweep(model, outer, ids)
    assert_same({p: found[p] for p in whole}, whole, 1e-5, names)
    by_first_order = outer_gradients(model, outer, ids, None, "first_order").gradients
    assert {names[p] for p in whole} - {names[p] for p in by_first_order} == set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delta", "lora"])
def test_lora_on_the_upper_layers_can_be_trained(kind, wide_corner):
    peft = pytest.importorskip("peft")
    model = converted("gpt_neox", fast_weights=kind, layers=[2, 3], inner_lr=0.5)
    config = peft.LoraConfig(
        r=2, target_modules=["query_key_value"], layers_to_transform=[2, 3], init_lora_weights=False
    )
    peft.get_peft_model(model, config).double().eval()
    outer, ids = choose(model, ["start", "log_lr", "lora"]), tokens(2, 4 * CHUNK)
    names = {p: name for name, p in model.named_parameters()}
    assert len(outer.below) == 2 and outer.lowest == 2 and len(outer.others) == 4
    whole = dict(zip(outer.all, torch.autograd.grad(exact_loss(model, ids, order=2), outer.all)))
    assert_same(sweep(model, outer, ids), whole, 1e-5, names)
    assert_same(sweep(model, outer, ids, reading=by_double_backward), whole, 1e-9, names)


@pytest.mark.parametrize("kind", ["delta", "lora"])
def test_a_padded_row_counts_as_it_does_alone(kind):
    model = converted("gpt2", fast_weights=kind)
    outer, ids = choose(model, ["start", "log_lr"]), tokens(2, 5 * CHUNK)
    mask = torch.ones_like(ids)
    mask[1, 3 * CHUNK + 2 :] = 0  # three chunks and a part of one, which is not read
    for mode in ("exact", "truncated", "first_order"):
        both = outer_gradients(model, outer, ids, mask, mode, 2)
        rows = [outer_gradients(model, outer, ids[:1], None, mode, 2)]
        k = {"first_order": 0, "truncated": 2, "exact": 3}[mode]
        rows.append(through_rows(model, outer, ids[1:, : 3 * CHUNK], k))
        names = {p: name for name, p in model.named_parameters()}
        mixed = {p: (5 * rows[0].gradients[p] + 3 * rows[1].gradients[p]) / 8 for p in outer.all}
        assert_same(both.gradients, mixed, 1e-6, names)
        assert both.losses.isnan().sum() == 2


def through_rows(model, outer, ids, exact):
    return through_updates(model, outer, align(ids, None, None), exact, by_differences)


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("mode", ["exact", "truncated"])
def test_keeping_every_few_states_gives_the_same(kind, mode):
    model = converted("gpt2", fast_weights=kind, inner_optimizer="adam", inner_lr=1e-3)
    outer, ids = choose(model, ["start", "log_lr"]), tokens(2, 7 * CHUNK)
    whole = outer_gradients(model, outer, ids, None, mode, 5)
    again = outer_gradients(model, outer, ids, None, mode, 5, rematerialise=True)
    assert torch.equal(again.losses, whole.losses)
    assert all(torch.equal(again.gradients[p], g) for p, g in whole.gradients.items())
    for name, tensor in whole.cache.fast.tensors().items():
        assert torch.equal(again.cache.fast.tensors()[name], tensor)


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
def test_truncation_at_or_beyond_the_number_of_chunks_is_exact(kind):
    model = converted("gpt2", fast_weights=kind)
    outer, ids = choose(model, ["start", "log_lr"]), tokens(2, 4 * CHUNK)
    exact = outer_gradients(model, outer, ids, None, "exact").gradients
    for k in (4, 9):
        found = outer_gradients(model, outer, ids, None, "truncated", k).gradients
        assert all(torch.equal(found[p], exact[p]) for p in exact)
    assert not torch.allclose(
        outer_gradients(model, outer, ids, None, "truncated", 2).gradients[p_of(exact)], first(exact)
    )


def p_of(gradients):
    return next(iter(gradients))


def first(gradients):
    return gradients[p_of(gradients)]


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen3", "gemma3_text"])
def test_truncated_gradients_match_finite_differences(family, kind, long_difference):
    """Before the last k chunks the directions of steps, and the keys, are constants; from there on nothing is."""
    model = converted(family, fast_weights=kind, max_relative_update=1e9)
    outer, ids, k = choose(model, ["start"]), tokens(1, 4 * CHUNK), 2
    found = outer_gradients(model, outer, ids, None, "truncated", k).gradients
    starts = {n: {key: s.parameter for key, s in by.items()} for n, by in outer.starts.items()}
    pieces = ids.split(CHUNK, 1)
    states, cache = [], model.new_cache()
    with torch.no_grad():
        for piece in pieces[: 4 - k + 1]:
            states.append(copy.deepcopy(cache))
            cache = model(piece, past_key_values=cache).past_key_values

    def losses(shift, state, text):
        """The losses of the chunks of `text` read from `state`, its fast weights moved."""
        state = copy.deepcopy(state)
        state.prepare(1, ids.device)
        if not state.fast.sites:
            with torch.no_grad():
                state.fast = fresh(model, 1, Outer())
        for name, by_name in shift.items():
            for key, value in by_name.items():
                state.fast.sites[name].weights[key] = state.fast.sites[name].weights[key] + value
        before = len(state.losses[0])
        with torch.no_grad():
            return sum(model(text, past_key_values=state).past_key_values.losses[0][before:])

    directions = {n: {key: torch.randn_like(p) for key, p in by.items()} for n, by in starts.items()}
    step = 1e-5 if family in EXACT else 1e-3

    def total(sign):
        shift = {}
        for name, by_name in outer.starts.items():
            for key, start in by_name.items():
                d = directions[name][key]
                d = d.T if start.transposed else d
                shift.setdefault(name, {})[key] = sign * step * d
        fixed = sum(losses(shift, states[i], pieces[i]) for i in range(4 - k))
        return fixed + losses(shift, states[4 - k], torch.cat(pieces[4 - k :], 1))

    measured = (total(1) - total(-1)) / (2 * step) / 4
    expected = sum((found[p] * directions[n][key]).sum().item() for n, by in starts.items() for key, p in by.items())
    tolerance = 1e-5 if family in EXACT else 2e-2
    assert measured == pytest.approx(expected, rel=tolerance, abs=tolerance * 1e-1)


def test_one_chunk_has_no_updates_to_follow():
    model = converted("gpt2", fast_weights="lora")
    outer, ids = choose(model, ["start", "log_lr"]), tokens(2, CHUNK)
    names = {p: name for name, p in model.named_parameters()}
    found = {m: outer_gradients(model, outer, ids, None, m).gradients for m in ("first_order", "exact", "none")}
    stored = set(outer.direct)
    starts = {mode: {p: g for p, g in gs.items() if p in stored} for mode, gs in found.items()}
    assert_same(starts["first_order"], starts["exact"], 1e-9, names)
    assert_same(starts["none"], starts["exact"], 1e-9, names)
    assert all(found[m][site.log_lr] == 0 for m in ("first_order", "exact") for site in outer.rates.values())


@pytest.mark.parametrize("kind", ["delta", "lora"])
def test_plain_fine_tuning_is_the_gradient_of_a_read_without_updates(kind):
    model = converted("gpt2", fast_weights=kind)
    outer, ids = choose(model, ["start", "log_lr"]), tokens(2, 3 * CHUNK)
    plain = outer_gradients(model, outer, ids, None, "none")
    again = outer_gradients(model, outer, ids, None, "none", rematerialise=True)
    assert set(plain.gradients) == {s.parameter for by in outer.starts.values() for s in by.values()}
    assert all(torch.equal(again.gradients[p], g) for p, g in plain.gradients.items())
    parameters, directions = zip(*plain.gradients.items())

    def loss():
        return outer_gradients(model, outer, ids, None, "none").losses.double().mean()

    expected = sum((d * d).sum().item() for d in directions)
    assert slope(loss, parameters, directions, 1e-6) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_fresh_start_has_gradients_of_ordinary_size(kind, optimizer):
    """One factor has no gradient there, and the derivative of an unsmoothed Adam at zero is 1e8."""
    model = wrap(tiny("llama"), TTTConfig(**{**LEARNING, "fast_weights": kind, "inner_optimizer": optimizer}))
    model.configure_ttt(inner_lr=5e-4)
    outer, ids = choose(model, ["start", "log_lr"]), tokens(2, 4 * CHUNK)
    first_order = outer_gradients(model, outer, ids, None, "first_order").gradients
    exact = outer_gradients(model, outer, ids, None, "exact").gradients
    length = {name: torch.cat([g.flatten() for g in gs.values()]).norm() for name, gs in
              (("first", first_order), ("exact", exact))}  # fmt: skip
    assert length["exact"] < 10 * length["first"]


def test_smoothing_leaves_a_direction_nearly_as_it_is():
    gradient = torch.randn(2, 8, 9).exp() * torch.randn(2, 8, 9).sign()
    state = {"m": torch.zeros_like(gradient), "v": torch.zeros_like(gradient)}
    step = torch.ones(2)
    plain, smooth = (
        inner_optimizers.Adam().direction(gradient, state, step),
        smoothing.smooth_adam(gradient, state, step),
    )
    assert torch.cosine_similarity(plain[0].flatten(), smooth[0].flatten(), 0) > 0.95
    assert all(torch.equal(plain[1][name], smooth[1][name]) for name in state)


@pytest.mark.parametrize("reached", [True, False])
def test_the_written_out_derivative_of_adam_is_that_of_autograd(reached):
    step, parts = torch.tensor([1, 3]), []
    for optimizer in (smoothing.smooth_adam, smoothing.smooth_adam_once):
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(2, 4, 5, generator=generator, dtype=torch.float64) * reached for _ in range(3)]
        gradient, m, v = (value.requires_grad_() for value in (values[0], values[1], values[2].square()))
        m, v = (value.detach().requires_grad_() for value in (m, v))
        direction, new = optimizer(gradient, {"m": m, "v": v}, step)
        outputs = [direction, new["m"], new["v"]]
        seeds = [torch.randn(2, 4, 5, generator=generator, dtype=torch.float64) for _ in outputs]
        parts.append([*outputs, *torch.autograd.grad(outputs, (gradient, m, v), seeds)])
    for slow, fast in zip(*parts):
        torch.testing.assert_close(fast, slow)
        assert fast.isfinite().all()


class Saved:
    """A tensor that a graph keeps alive."""

    held = most = 0

    def __init__(self, tensor):
        self.tensor = tensor.detach()  # an output would hold the graph that holds it
        Saved.held += tensor.nbytes
        Saved.most = max(Saved.most, Saved.held)

    def __del__(self):
        Saved.held -= self.tensor.nbytes


def test_no_graph_outlives_its_chunk():
    """What graphs keep alive at any time does not grow with the number of chunks."""
    model = converted("gpt2")
    outer = choose(model, ["start", "log_lr"])
    largest = []
    for chunks in (4, 8):
        Saved.held = Saved.most = 0
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            outer_gradients(model, outer, tokens(1, chunks * CHUNK), None, "exact")
        largest.append(Saved.most)
    assert largest[1] <= 1.05 * largest[0]


def test_unfit_parameters_and_sequences_are_refused():
    model = converted("gpt2")
    with pytest.raises(ConfigError, match=r"\['starts'\].*'start'"):
        choose(model, ["starts"])
    with pytest.raises(ConfigError, match="no LoRA"):
        choose(model, ["lora"])
    with pytest.raises(InputError, match="5 tokens"):
        outer_gradients(model, choose(model, ["start"]), tokens(1, CHUNK - 1), None, "exact")


def test_differences_are_taken_only_where_products_are_not_rounded():
    model = converted("llama").float()
    assert _second_order(model) is by_differences
    torch.set_float32_matmul_precision("medium")  # TF32 on a GPU, bfloat16 here
    try:
        assert _second_order(model) is by_double_backward
        assert _second_order(model.double()) is by_differences
    finally:
        torch.set_float32_matmul_precision("highest")
