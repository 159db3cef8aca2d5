"""Methods by name: a user's own rule, kind and optimizer work as the library's, and a missing one is named."""

import json
import sys
from pathlib import Path

import pytest
import test_outer_gradients
import torch
from converted import in_fresh_process
from plugin import Gain, Momentum, Weighted
from safetensors.torch import save_file
from test_contracts import CHUNK, LEARNING, LENGTH, PADDINGS, assert_same, padded, read
from tiny import tiny, tokens

from ttt_retrofit import (
    AutoModelForCausalLM,
    CheckpointError,
    ConfigError,
    TTTCache,
    TTTConfig,
    register_fast_weights,
    register_inner_optimizer,
    register_inner_rule,
    wrap,
)
from ttt_retrofit.config import FAST_WEIGHTS, INNER_OPTIMIZERS, INNER_RULES
from ttt_retrofit.inner import InnerRule
from ttt_retrofit.inner.inner_loop import chunk_loss
from ttt_retrofit.outer.parameters import choose

OWN = {"inner_rule": "weighted", "fast_weights": "gain", "inner_optimizer": "momentum"}
REGISTRIES = {registry.setting: registry for registry in (FAST_WEIGHTS, INNER_RULES, INNER_OPTIMIZERS)}
REGISTER = {
    "inner_rule": (register_inner_rule, Weighted),
    "fast_weights": (register_fast_weights, Gain),
    "inner_optimizer": (register_inner_optimizer, Momentum),
}


@pytest.fixture(autouse=True)
def registered_for_one_test(monkeypatch):
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))


def forget(setting):
    del REGISTRIES[setting]._registered[OWN[setting]]


def converted(**changes):
    return wrap(tiny("llama"), TTTConfig(**{**LEARNING, **changes}))


# ---------------------------------------------------------------------- methods of one's own


@pytest.mark.parametrize("changes", [*({name: value} for name, value in OWN.items()), OWN], ids=str)
def test_what_is_read_with_it_does_not_depend_on_calls_neighbours_or_padding(changes):
    model, ids, real = converted(**changes), tokens(2, LENGTH), PADDINGS["left"]
    whole = read(model, ids)
    assert any(state.any() for name, state in whole[1].fast.tensors().items() if name != "steps")
    assert_same(whole, read(model, ids, 7))
    batch, mask = padded(ids, real)
    logits, cache = read(model, batch, attention_mask=mask)
    assert_same((logits, cache), read(model, ids[:1]), row=0)
    assert_same((logits[:, real], cache), read(model, ids[1:, : int(real.sum())]), row=1)


def test_a_rule_steps_along_its_own_loss():
    model, ids = converted(inner_rule="weighted", inner_lr=1.0, max_relative_update=1e9), tokens(2, CHUNK)
    name = model.sites[-1].site.path
    delta = torch.zeros(2, *model.get_submodule(name).weight.shape, requires_grad=True)
    hook = lambda module, args, output: output + args[0] @ delta.mT  # noqa: E731
    model.configure_ttt(learn_from="none")
    handle = model.get_submodule(name).register_forward_hook(hook)
    losses = -model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    handle.remove()
    weights = losses.detach() / losses.detach().sum(1, keepdim=True)
    (expected,) = torch.autograd.grad((losses * weights).sum(), delta)
    model.configure_ttt(learn_from="all")
    _, cache = read(model, ids)
    found = cache.fast.sites[model.sites[-1].site.name].weights["delta"]
    torch.testing.assert_close(found, -expected, atol=1e-6, rtol=1e-4)


def test_a_rule_is_given_the_chunk_as_it_was_read():
    given = []

    @register_inner_rule("watching")
    class Watching(InnerRule):
        inputs = True

        def gradients(self, chunk):
            given.append(chunk)
            return chunk.gradients_of(chunk.loss)

    model, ids = converted(inner_rule="watching"), tokens(2, 2 * CHUNK)
    _, cache = read(model, ids)
    (_, chunk), sites = given, [site.site for site in model.sites]
    assert torch.equal(chunk.ids, ids[:, CHUNK:]) and chunk.targets.all()
    assert torch.equal(chunk.loss, chunk_loss(chunk.losses, chunk.targets))
    torch.testing.assert_close(chunk.loss.detach(), cache.loss_by_chunk[:, 1])
    assert torch.equal(chunk.embed(chunk.ids), model.get_input_embeddings()(chunk.ids))
    assert {name: tuple(x.shape) for name, x in chunk.inputs.items()} == {
        site.name: (2, CHUNK, site.in_features) for site in sites
    }
    assert list(chunk.weights) == [site.name for site in sites]
    plain = converted()
    assert_same(read(model, ids), read(plain, ids))


@pytest.mark.parametrize("wrong", ["a site too few", "a name of its own", "another shape"])
def test_gradients_that_are_not_those_of_the_fast_weights_are_refused(wrong):
    @register_inner_rule("wrong")
    class Wrong(InnerRule):
        backward = False

        def gradients(self, chunk):
            zeros = {site: {"delta": torch.zeros_like(of["delta"])} for site, of in chunk.weights.items()}
            last = list(zeros)[-1]
            if wrong == "a site too few":
                del zeros[last]
            elif wrong == "a name of its own":
                zeros[last]["more"] = zeros[last]["delta"]
            else:
                zeros[last]["delta"] = zeros[last]["delta"][:1]
            return zeros

    with pytest.raises(ConfigError, match=r"inner_rule='wrong' gave a gradient of shape .*layers\.3.*expected"):
        read(converted(inner_rule="wrong"), tokens(2, CHUNK))


def test_a_kind_without_a_start_has_none_to_train():
    model = converted(fast_weights="gain")
    with pytest.raises(ConfigError, match=r"'gain' have none.*log_lr"):
        choose(model, ["start"])
    assert choose(model, ["log_lr"]).all


def test_the_outer_loop_goes_back_through_a_kind_and_an_optimizer_of_ones_own():
    model = test_outer_gradients.converted(fast_weights="gain", inner_optimizer="momentum")
    outer, ids = choose(model, ["log_lr"]), tokens(2, 4 * CHUNK)
    whole = torch.autograd.grad(test_outer_gradients.exact_loss(model, ids, order=2), outer.all)
    found = test_outer_gradients.sweep(model, outer, ids)
    assert all(gradient.abs() > 0 for gradient in whole)
    test_outer_gradients.assert_same(found, dict(zip(outer.all, whole)), 1e-5, {})


# ---------------------------------------------------------------------- saved by name

LOAD = """
import json, sys, torch
from safetensors.torch import load_file
from ttt_retrofit import AutoModelForCausalLM, TTTCache, TTTError
folder = sys.argv[1]
try:
    said = AutoModelForCausalLM.from_pretrained(folder)
except TTTError as error:
    said = [type(error).__name__, str(error)]
sys.path.insert(0, sys.argv[2])
import plugin
model = AutoModelForCausalLM.from_pretrained(folder)
cache = TTTCache.load(folder + "/talk.safetensors", model)
expected = load_file(folder + "/expected/logits.safetensors")
with torch.no_grad():
    logits = model(expected["rest"], past_key_values=cache).logits
print(json.dumps([said, (logits - expected["logits"]).abs().max().item(), model.config.ttt]))
"""


def test_model_and_conversation_come_back_in_a_fresh_process_that_imports_the_methods(tmp_path):
    model, ids = converted(**OWN), tokens(2, LENGTH)
    model.save_pretrained(tmp_path)
    _, cache = read(model, ids[:, :15])
    cache.save(tmp_path / "talk.safetensors")
    logits, _ = read(model, ids[:, 15:], cache=cache)
    (tmp_path / "expected").mkdir()
    save_file({"rest": ids[:, 15:].contiguous(), "logits": logits}, tmp_path / "expected" / "logits.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said, difference, saved = in_fresh_process(LOAD, tmp_path, Path(__file__).parent)
    assert difference == 0 and {name: saved[name] for name in OWN} == OWN
    assert said[0] == "NotRegisteredError" and "fast_weights='gain' is not registered" in said[1]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("setting", OWN)
def test_what_is_not_registered_is_named_with_what_to_do(setting, tmp_path):
    model = converted(**{setting: OWN[setting]})
    model.save_pretrained(tmp_path)
    read(model, tokens(1, 15))[1].save(tmp_path / "talk.safetensors")
    forget(setting)
    message = rf"{setting}='{OWN[setting]}' is not registered.*Choose one of \[.*import the module.*register_{setting}"
    with pytest.raises(ConfigError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        TTTCache.load(tmp_path / "talk.safetensors", converted())
    decorate, method = REGISTER[setting]
    decorate(OWN[setting])(method)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert TTTCache.load(tmp_path / "talk.safetensors", again).tokens_seen.tolist() == [15]


# ---------------------------------------------------------------------- names


def install(folder, package, group, points):
    """A package as pip leaves it: one module, and what its metadata announces."""
    (folder / f"{package}.py").write_text("from plugin import Gain, Momentum, Weighted\n")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {package}:{member}" for name, member in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))


@pytest.mark.parametrize(
    "setting,group,member",
    [
        ("inner_rule", "ttt_retrofit.inner_rules", "Weighted"),
        ("fast_weights", "ttt_retrofit.fast_weights", "Gain"),
        ("inner_optimizer", "ttt_retrofit.inner_optimizers", "Momentum"),
    ],
)
def test_what_an_installed_package_announces_is_found(setting, group, member, tmp_path, monkeypatch):
    install(tmp_path, "announcing", group, {"announced": member})
    monkeypatch.syspath_prepend(tmp_path)
    assert "announced" in REGISTRIES[setting].names() and "announcing" not in sys.modules
    _, cache = read(converted(**{setting: "announced"}), tokens(1, LENGTH))
    assert cache.fast.steps.tolist() == [LENGTH // CHUNK]
    assert REGISTRIES[setting].get("announced") is getattr(sys.modules.pop("announcing"), member)


def test_a_name_that_two_packages_announce_is_refused(tmp_path, monkeypatch):
    for package in ("first", "second"):
        install(tmp_path, package, "ttt_retrofit.inner_rules", {"mine": "Weighted"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"inner_rule='mine'.*first:Weighted.*second:Weighted"):
        TTTConfig(inner_rule="mine")


@pytest.mark.parametrize("setting,name", [*OWN.items(), ("inner_rule", "gradient"), ("fast_weights", "delta")])
def test_a_name_is_not_given_to_another_class(setting, name):
    decorate, _ = REGISTER[setting]
    with pytest.raises(ConfigError, match=rf"{setting}='{name}' is .* already.*another name"):

        @decorate(name)
        class Other:
            pass


def test_the_same_class_defined_anew_takes_its_own_place():
    found = []
    for _ in range(2):

        @register_inner_rule("cell")
        class Cell(InnerRule):
            def gradients(self, chunk):
                return {}

        found.append(Cell)
    assert INNER_RULES.get("cell") is found[1] is not found[0]


@pytest.mark.parametrize("name", ["", None, Weighted])
def test_a_decorator_without_a_name_is_refused(name):
    with pytest.raises(ConfigError, match="expected a name"):
        register_inner_rule(name)


@pytest.mark.parametrize("name", [None, 3, ["gradient"], "weighed"])
def test_a_configuration_that_names_no_method_is_refused(name):
    with pytest.raises(ConfigError, match=r"inner_rule=.* is not registered.*'gradient', 'in_place'"):
        TTTConfig.from_dict(json.loads(json.dumps({"inner_rule": name})))
