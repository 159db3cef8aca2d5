"""Inner learning rates in units of the weights: the same function written in other units is learned alike."""

import pytest
import torch
from tiny import tiny, tokens

from ttt_retrofit import ConfigError, TTTConfig, wrap

READ = {"layers": "all", "chunk_size": 8, "sliding_window": 16, "sink_tokens": 2}
IDS = tokens(1, 7, seed=1).repeat(1, 8)


def in_other_units(scale):
    """The same function: what leaves `up` is smaller, and `down` makes up for it."""
    model = tiny("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight /= scale
            layer.mlp.down_proj.weight *= scale
    return model


def losses(scale, **config):
    return wrap(in_other_units(scale), TTTConfig(**READ, **config)).read(IDS).loss_by_chunk


@pytest.mark.parametrize("optimizer", ["adam", "muon", "sgd"])
def test_one_setting_learns_alike_at_any_scale(optimizer):
    small, large = losses(1 / 16, inner_optimizer=optimizer), losses(16, inner_optimizer=optimizer)
    assert (small - large).abs().max() < 1e-4
    assert (small - losses(1, inner_lr=0.0)).abs().max() > 1e-3  # and does learn


def test_an_absolute_rate_does_not():
    assert (losses(1 / 16, inner_lr=1e-3) - losses(16, inner_lr=1e-3)).abs().max() > 1e-2


def test_a_rate_that_is_given_wins():
    assert TTTConfig(inner_lr=1e-3, relative_lr=5.0).step_size == (1e-3, False)
    assert TTTConfig(fast_weights="prime").step_size == (1e-2, True)
    assert TTTConfig(fast_weights="prime", relative_lr=5e-3).step_size == (5e-3, True)
    assert TTTConfig(relative_lr=5e-3).in_words == (
        "window 2048, sinks 4, chunk 256, delta on down of layers middle, gradient, adam 0.005 of each matrix"
    )
    assert torch.equal(losses(1, inner_lr=0.0, relative_lr=5.0), losses(1, relative_lr=0.0))


def test_an_absolute_rate_that_is_far_too_large_is_reported(caplog):
    model = wrap(in_other_units(1 / 16), TTTConfig(**READ))
    assert not caplog.records
    model.configure_ttt(inner_lr=5e-4)
    assert "times their root mean square at each chunk, where 0.0026 was found to suit" in caplog.text
    caplog.clear()
    wrap(in_other_units(16), TTTConfig(**READ, inner_lr=5e-4))
    assert not caplog.records


@pytest.mark.parametrize("rate", [-1e-3, float("nan"), float("inf"), "fast", True])
def test_what_is_no_rate_is_refused(rate):
    with pytest.raises(ConfigError, match=r"relative_lr=.*expected None or a finite number"):
        TTTConfig(relative_lr=rate)


def test_a_prime_mlp_is_measured_by_what_it_stands_beside():
    dense, experts = (
        wrap(tiny(family), TTTConfig(fast_weights="prime", rank=4, **READ)) for family in ("llama", "mixtral")
    )
    norm = dense.model.layers[0].mlp.down_proj.weight.norm()
    torch.testing.assert_close(dense.sites[0].base_norm, norm, rtol=0.15, atol=0)  # estimated from probes
    assert experts.sites[0].base_norm == 32**0.5
