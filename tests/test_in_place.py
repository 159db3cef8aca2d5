"""In-Place TTT's rule: the step is the paper's equation, and what it keeps of its own.

What it shares with the gradient is tested beside it, in `test_contracts` and `test_inner_loop`.
"""

import json

import pytest
import torch
from test_contracts import CHUNK, LEARNING, LENGTH, RULES, assert_same, read
from tiny import tiny, tokens

from ttt_retrofit import ConfigError, InputError, TTTCache, TTTConfig, TTTTrainingConfig, UnsupportedModelError, wrap
from ttt_retrofit.inner.in_place import gradient

RULE = {**LEARNING, **RULES["in_place"]}


def converted(**changes):
    return wrap(tiny("llama"), TTTConfig(**{**RULE, **changes}))


# ---------------------------------------------------------------------- the rule


def test_the_write_is_the_next_tokens_embedding_times_the_key_summed_by_hand():
    """Three tokens, keys of two features, embeddings of two: W grows by e(x2) z1ᵀ + e(x3) z2ᵀ; z3 has no value yet."""
    keys = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    embeddings = torch.tensor([[[7.0, 7.0], [1.0, 10.0], [0.0, 100.0]]])
    both, second = torch.tensor([[True, True]]), torch.tensor([[False, True]])
    assert (-gradient(keys, embeddings, both)).tolist() == [[[1.0, 2.0], [10.0 + 300.0, 20.0 + 400.0]]]
    assert (-gradient(keys, embeddings, second)).tolist() == [[[0.0, 0.0], [300.0, 400.0]]]


def test_the_write_is_the_gradient_of_the_papers_loss():
    """L = -⟨Z Wᵀ, V̂⟩ (§3.2), with V̂ a convolution whose kernel is 1 at the next token, and 0 past the chunk's end."""
    keys, embeddings = torch.randn(2, CHUNK, 5), torch.randn(2, CHUNK, 3)
    weight = torch.randn(2, 3, 5, requires_grad=True)
    kernel = torch.tensor([0.0, 1.0]).expand(3, 1, 2)
    causal = torch.nn.functional.pad(embeddings.mT, (0, 1))
    values = torch.nn.functional.conv1d(causal, kernel, groups=3).mT
    (-((keys @ weight.mT) * values).sum()).backward()
    everything = torch.ones(2, CHUNK - 1, dtype=torch.bool)
    torch.testing.assert_close(gradient(keys, embeddings, everything), weight.grad)


@pytest.mark.parametrize("rows", [1, 2])
def test_fast_weights_are_the_sum_of_what_every_chunk_wrote(rows):
    """Eq. 1 of the paper, over the activations that a hook of our own sees: sgd, no trust region, two chunks."""
    model, ids, lr = converted(inner_lr=1e-3, max_relative_update=1e9), tokens(rows, 2 * CHUNK), 1e-3
    keys: list[torch.Tensor] = []
    mlp = model.model.layers[2].mlp
    mlp.act_fn.register_forward_hook(lambda module, args, output: keys.append(output))
    ups: list[torch.Tensor] = []
    mlp.up_proj.register_forward_hook(lambda module, args, output: ups.append(output))
    with torch.no_grad():
        fast = model(ids).past_key_values.fast.sites
        words = model.get_input_embeddings()(ids)
    expected = torch.zeros(rows, 32, 48)
    for chunk in range(2):
        z, x = keys[chunk] * ups[chunk], words[:, chunk * CHUNK : (chunk + 1) * CHUNK]
        for t in range(CHUNK - 1):
            expected += lr * x[:, t + 1, :, None] * z[:, t, None, :]
    (name,) = [name for name in fast if "layers.2." in name]
    torch.testing.assert_close(fast[name].weights["delta"], expected, atol=1e-9, rtol=1e-4)


def test_no_graph_is_built_and_no_gradient_taken(monkeypatch):
    model, ids = converted(), tokens(1, 3 * CHUNK)
    monkeypatch.setattr(torch.autograd, "grad", None)
    modes: list[bool] = []
    model.model.norm.register_forward_hook(lambda module, args, output: modes.append(output.requires_grad))
    with torch.no_grad():
        assert model(ids).past_key_values.fast.sites
    assert modes == [False] * 3


# ---------------------------------------------------------------------- what is written


def test_the_trust_region_bounds_what_was_written():
    model, ids = converted(inner_lr=1e6, max_relative_update=0.05), tokens(2, 4 * CHUNK)
    with torch.no_grad():
        fast = model(ids).past_key_values.fast.sites
    for site in model.sites:
        moved = torch.linalg.vector_norm(fast[site.site.name].weights["delta"], dim=(-2, -1))
        torch.testing.assert_close(moved / site.base_norm, torch.full((2,), 0.05))


def test_in_16_bits_what_was_written_is_kept_in_32():
    model, ids = converted().bfloat16(), tokens(2, 3 * CHUNK)
    with torch.no_grad():
        fast = model(ids).past_key_values.fast.sites
    assert all(
        state.weights["delta"].dtype == torch.float32 and state.weights["delta"].any() for state in fast.values()
    )


def test_a_call_with_gradients_enabled_gives_the_same_and_can_be_trained_through():
    model, ids = converted(), tokens(2, 3 * CHUNK)
    expected = read(model, ids)
    output = model(ids, labels=ids)
    torch.testing.assert_close(output.logits, expected[0])
    output.loss.backward()
    assert model.get_input_embeddings().weight.grad.isfinite().all()


def test_model_and_conversation_survive_saving(tmp_path):
    model, ids = converted(), tokens(2, LENGTH)
    model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["ttt"]["inner_rule"] == "in_place"
    again = type(model).from_pretrained(tmp_path / "model")
    assert again.ttt == model.ttt
    whole, (_, cache) = read(model, ids), read(model, ids[:, :15])
    cache.save(tmp_path / "cache")
    loaded = TTTCache.load(tmp_path / "cache", again)
    rest = read(again, ids[:, 15:], cache=loaded)
    assert_same((whole[0][:, 15:], whole[1]), rest)


def test_generation_goes_on_writing():
    model, ids = converted(), tokens(2, CHUNK)
    output = model.generate(
        ids, max_new_tokens=2 * CHUNK, do_sample=False, return_dict_in_generate=True, eos_token_id=-1
    )
    assert output.past_key_values.fast.steps.tolist() == [2, 2]


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize("kind", ["lora", "prime"])
def test_kinds_without_a_matrix_to_write_into_are_refused(kind):
    with pytest.raises(ConfigError, match=rf"in_place.*{kind}.*delta"):
        TTTConfig(inner_rule="in_place", fast_weights=kind)


@pytest.mark.parametrize("targets", [("gate", "up", "down"), ("up",), ("gate_proj",)])
def test_other_projections_are_refused_and_the_model_is_left_as_it_was(targets):
    model = tiny("llama")
    with pytest.raises(ConfigError, match=r"down projection; found \['(gate|up): model.layers.*target_modules"):
        wrap(model, TTTConfig(**{**RULE, "target_modules": targets}))
    assert type(model).__name__ == "LlamaForCausalLM"
    wrapped = wrap(model, TTTConfig(**{**LEARNING, "target_modules": targets}))
    with pytest.raises(ConfigError, match="down projection"):
        wrapped.configure_ttt(inner_rule="in_place")
    assert wrapped.ttt.inner_rule == wrapped.config.ttt["inner_rule"] == "gradient"


def test_a_projection_by_name_will_do():
    assert converted(target_modules=("down_proj",)).ttt.inner_rule == "in_place"


def test_embeddings_of_another_width_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"width 16, into the output of.*\(32\)"):
        wrap(tiny("opt", word_embed_proj_dim=16), TTTConfig(**RULE))


def test_meta_training_is_refused(tmp_path):
    arguments = TTTTrainingConfig(output_dir=tmp_path, sequence_length=2 * CHUNK, report_to=[])
    with pytest.raises(ConfigError, match=r"inner_rule='in_place'.*configure_ttt"):
        arguments.check_fits(converted().ttt, None)


def test_the_rule_can_be_changed_but_a_conversation_keeps_its_own():
    model, ids = converted(), tokens(1, 2 * CHUNK)
    _, cache = read(model, ids)
    model.configure_ttt(inner_rule="gradient")
    with pytest.raises(InputError, match="inner_rule='in_place' there, 'gradient' here"):
        read(model, ids, cache=cache)
