"""Fast weights on calibrated directions: which directions, and what a step does to B."""

import pytest
import torch
import torch.nn.functional as F
from converted import converted, logits, perturb, ttt
from tiny import tiny, tokens

from ttt_retrofit import CheckpointError, InputError, TTTCache, TTTConfig, wrap
from ttt_retrofit.inner.calibration import LENGTH, ROWS, calibration_inputs, principal_directions

CHUNK = 8


def subspace(family="llama", **changes):
    return converted(family, "subspace", **changes)


def test_directions_are_those_of_largest_energy_and_orthonormal():
    generator = torch.Generator().manual_seed(0)
    energy = 0.5 ** torch.arange(20.0)
    turned = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q
    x = torch.randn(400, 20, generator=generator) * energy @ turned
    exact = torch.linalg.svd(x).Vh[:4]
    found = principal_directions(x, 4, generator)
    torch.testing.assert_close(found @ found.T, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close((found @ exact.T).abs(), torch.eye(4), atol=1e-3, rtol=0)


def test_there_are_as_many_directions_as_asked_for_where_inputs_have_fewer():
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    found = principal_directions(x, 6, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found @ found.T, torch.eye(6), atol=1e-4, rtol=0)


def test_wrapping_calibrates_on_tokens_drawn_at_random():
    model, again = wrap(tiny("llama"), ttt("subspace")), wrap(tiny("llama"), ttt("subspace"))
    (x,) = (x for _, x in calibration_inputs(model, {"site": model.sites[-1].module_in(model)}, torch.Generator()))
    kept, chance = (x @ model.sites[-1].fixed_a.T).square().sum(), 4 / 48 * x.square().sum()
    assert x.shape == (ROWS * LENGTH, 48) and kept > 3 * chance  # of another draw
    assert all(torch.equal(one.fixed_a, other.fixed_a) for one, other in zip(model.sites, again.sites))


def test_halves_of_a_fused_projection_share_their_directions():
    gate, up = wrap(tiny("phi3"), ttt("subspace", layers=[1], target_modules=["gate", "up"])).sites
    assert gate.path == up.path and torch.allclose((gate.fixed_a @ up.fixed_a.T).abs(), torch.eye(4), atol=0.05)


def test_a_step_is_one_of_plain_gradient_descent_on_b():
    model, lr = subspace(layers=[2], inner_optimizer="sgd", inner_lr=0.5, max_relative_update=1e3), 0.5
    ids, (site,) = tokens(2, CHUNK), model.sites
    cache = model.read(ids)
    start, a, rate = site.start["b"].detach(), site.fixed_a, lr * site.log_lr.exp().item()
    for row in range(2):
        b = start.clone().requires_grad_()
        plain = tiny("llama")
        down = plain.model.layers[2].mlp.down_proj
        down.register_forward_hook(lambda _, args, out, b=b: out + args[0] @ a.T @ b.T)
        out = plain(ids[row : row + 1]).logits[0]
        (gradient,) = torch.autograd.grad(F.cross_entropy(out[:-1], ids[row, 1:]), b)
        found = cache.fast.sites[site.site.name].weights["b"][row]
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(found, b.detach() - rate * gradient, atol=1e-6, rtol=1e-4)


def test_on_all_directions_gradient_descent_is_that_of_the_full_matrix():
    settings = {"layers": [1, 2], "inner_optimizer": "sgd", "inner_lr": 0.5}
    full, all_directions = (wrap(tiny("llama"), ttt(kind, rank=48, **settings)) for kind in ("delta", "subspace"))
    ids = tokens(2, 5 * CHUNK)
    torch.testing.assert_close(logits(all_directions, ids), logits(full, ids), atol=1e-3, rtol=1e-3)
    assert (logits(full, ids) - full(ids, learn_from="none").logits).abs().max() > 0.05


def test_only_b_and_its_moments_are_carried():
    cache = subspace().read(tokens(3, 2 * CHUNK))
    assert {name.split("|", 1)[1] for name in cache.fast.tensors() if "|" in name} == {"b", "b|m", "b|v"}
    assert all(value.shape == (3, 32, 4) for name, value in cache.fast.tensors().items() if "|" in name)


def test_padding_batches_and_calls_change_nothing():
    model, ids = subspace(), tokens(2, 27)
    alone = [logits(model, row[None]) for row in ids]
    torch.testing.assert_close(logits(model, ids), torch.cat(alone), atol=1e-4, rtol=1e-4)
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), ids], 1)
    mask = torch.cat([torch.zeros(2, 5, dtype=torch.long), torch.ones_like(ids)], 1)
    with torch.no_grad():
        torch.testing.assert_close(
            model(padded, attention_mask=mask).logits[:, 5:], torch.cat(alone), atol=1e-4, rtol=1e-4
        )
        cache, parts = None, []
        for part in ids.split(5, 1):
            out = model(part, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, 1), torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_beams_carry_their_own_fast_weights():
    model, ids = subspace(), tokens(2, 3 * CHUNK)
    out = model.generate(ids, num_beams=2, max_new_tokens=CHUNK + 2, do_sample=False, eos_token_id=None)
    assert out.shape == (2, 4 * CHUNK + 2)


def test_a_saved_model_goes_on_with_a_saved_conversation(tmp_path):
    model, ids = subspace(), tokens(1, 2 * CHUNK + 3)
    model.read(ids).save(tmp_path / "talk.safetensors")
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model").eval()
    caches = (TTTCache.load(tmp_path / "talk.safetensors", one) for one in (model, again))
    with torch.no_grad():
        mine, theirs = (one(tokens(1, 9, seed=2), past_key_values=c).logits for one, c in zip((model, again), caches))
    assert torch.equal(mine, theirs)


def test_a_conversation_on_other_directions_is_refused(tmp_path):
    model, other = subspace(), subspace()
    other.sites[0].fixed_a.neg_()
    cache = model.read(tokens(1, 2 * CHUNK))
    cache.save(tmp_path / "talk.safetensors")
    with pytest.raises(CheckpointError, match="another base model"):
        TTTCache.load(tmp_path / "talk.safetensors", other)
    with pytest.raises(InputError, match="other weights"):
        other(tokens(1, 3), past_key_values=cache)


def test_bf16_learns_in_full_precision():
    model = perturb(wrap(tiny("llama").to(torch.bfloat16), ttt("subspace")))
    cache = model.read(tokens(1, 3 * CHUNK))
    assert all(value.dtype == torch.float32 for name, value in cache.fast.tensors().items() if "|" in name)
    assert torch.isfinite(cache.loss_by_chunk).all()


def test_there_are_no_more_directions_than_inputs():
    (site,) = wrap(tiny("llama"), TTTConfig.preset("small", layers=[1])).sites
    torch.testing.assert_close(site.fixed_a @ site.fixed_a.T, torch.eye(48), atol=1e-4, rtol=0)
    assert site.start["b"].shape == (32, 48)
