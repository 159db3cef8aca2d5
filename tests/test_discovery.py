"""Discovery: MLP projections are found by their shape, whatever they are called."""

import pytest
import torch
from tiny import tiny, tokens
from torch import nn

from ttt_retrofit import ConfigError, TTTConfig, UnsupportedModelError, wrap
from ttt_retrofit.inner.discovery import find_sites

FOUND = {
    "llama": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "gpt2": (None, "mlp.c_fc", "mlp.c_proj"),
    "gpt_neox": (None, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "opt": (None, "fc1", "fc2"),
    "ctrl": (None, "ffn.0", "ffn.2"),
    "starcoder2": (None, "mlp.c_fc", "mlp.c_proj"),
    "qwen2_moe": ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"),
}


def found(model, **settings):
    return find_sites(model, TTTConfig(**{"layers": "all", **settings}))


@pytest.mark.parametrize("family", FOUND)
def test_roles_are_told_by_shape(family):
    model = tiny(family)
    for role, path in zip(("gate", "up", "down"), FOUND[family]):
        if path is None:
            with pytest.raises(ConfigError, match="projections seen are"):
                found(model, target_modules=role)
            continue
        sites = found(model, target_modules=role)
        assert [site.layer for site in sites] == [0, 1, 2, 3]
        assert all(site.path.endswith(f".{site.layer}.{path}") and site.role == role for site in sites)


@pytest.mark.parametrize("family", ["phi3", "glm", "glm4"])
def test_a_fused_projection_is_two_sites(family):
    gate, up = found(tiny(family), layers=[0], target_modules=("gate", "up"))
    assert gate.path == up.path and gate.path.endswith("mlp.gate_up_proj") and gate.name != up.name
    assert (gate.offset, up.offset) == (0, 48) and gate.out_features == up.out_features == 48


def test_a_fused_gate_computes_the_half_that_the_family_takes_as_gate():
    """Fast weights on the gate half of Phi-3 equal those on Llama's gate, given the same weights."""
    llama, phi = tiny("llama", rms_norm_eps=1e-6), tiny("phi3", rms_norm_eps=1e-6)
    weights = llama.state_dict()
    for layer in range(4):
        stem = f"model.layers.{layer}."
        q, k, v = (weights.pop(f"{stem}self_attn.{name}_proj.weight") for name in "qkv")
        weights[f"{stem}self_attn.qkv_proj.weight"] = torch.cat([q, k, v])
        gate, up = (weights.pop(f"{stem}mlp.{name}_proj.weight") for name in ("gate", "up"))
        weights[f"{stem}mlp.gate_up_proj.weight"] = torch.cat([gate, up])
    phi.load_state_dict(weights)
    for role in ("gate", "up"):
        config = TTTConfig(layers="all", target_modules=role, chunk_size=6, inner_optimizer="sgd", inner_lr=0.5)
        with torch.no_grad():
            logits = [wrap(model, config)(tokens(1, 18)).logits for model in (llama, phi)]
        torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=0)
        llama.unwrap(), phi.unwrap()


@pytest.mark.parametrize(
    "layers,expected",
    [
        ("all", [0, 1, 2, 3]),
        ("first_quarter", [0]),
        ("last_quarter", [3]),
        ("middle", [1, 2]),
        (0.5, [2, 3]),
        (1.0, [0, 1, 2, 3]),
        (0.01, [3]),
        ([2, 0], [0, 2]),
    ],
)
def test_layers_are_chosen_by_name_fraction_or_index(layers, expected):
    assert [site.layer for site in found(tiny("llama"), layers=layers)] == expected


def test_quarters_cover_all_layers_once_at_every_depth():
    for depth in (4, 5, 7, 30):
        model = tiny("llama", num_hidden_layers=depth)
        quarters = [
            site.layer
            for quarter in ("first", "second", "third", "last")
            for site in found(model, layers=f"{quarter}_quarter")
        ]
        assert quarters == list(range(depth))


@pytest.mark.parametrize("name", ["down_proj", "mlp.down_proj", "model.layers.2.mlp.down_proj"])
def test_modules_may_be_named_as_in_peft(name):
    sites = found(tiny("llama"), target_modules=name)
    assert {site.path.rsplit(".", 1)[-1] for site in sites} == {"down_proj"}
    assert [site.layer for site in sites] == ([2] if name.startswith("model") else [0, 1, 2, 3])


def test_dense_layers_among_experts_are_found_and_experts_named_when_asked_for():
    model = tiny("qwen3_moe")
    assert [site.layer for site in found(model)] == [0, 3]
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.1\.mlp\.experts"):
        found(model, layers=[0, 1])


def test_shared_and_dense_parts_of_a_mixture_are_found_together():
    sites = found(tiny("deepseek_v3"))
    assert [site.path.split(".", 3)[-1] for site in sites] == ["mlp.down_proj"] + ["mlp.shared_experts.down_proj"] * 3


def test_the_text_decoder_of_a_multimodal_model_is_found():
    sites = found(tiny("gemma3"))
    assert [site.path for site in sites] == [f"model.language_model.layers.{i}.mlp.down_proj" for i in range(4)]


def test_a_base_without_mlps_is_refused():
    model = tiny("llama")
    for layer in model.model.layers:
        layer.mlp = nn.Identity()
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0.*mlp \(Identity\)"):
        found(model)
    with pytest.raises(UnsupportedModelError, match="no MLP to put a prime MLP beside"):
        found(model, fast_weights="prime")


def test_a_target_that_is_not_there_is_refused_with_what_is():
    with pytest.raises(ConfigError, match=r"'dwon_proj' matches nothing.*gate: model\.layers\.0\.mlp\.gate_proj"):
        found(tiny("llama"), target_modules="dwon_proj")


def test_one_missing_target_among_several_is_refused_too():
    with pytest.raises(ConfigError, match="dwon_proj"):
        found(tiny("llama"), target_modules=("up", "dwon_proj"))


def test_layers_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"\[7\] are out of range.*4 layers, 0 to 3"):
        found(tiny("llama"), layers=[1, 7])


def test_a_rank_larger_than_the_matrix_is_refused():
    with pytest.raises(ConfigError, match=r"rank=33 is larger than the matrix.*32 x 48.*rank <= 32"):
        found(tiny("llama"), fast_weights="lora", rank=33)
