"""Gradient checkpointing recomputes each chunk in the backward pass and changes no gradient."""

import warnings

import pytest
import torch
from converted import converted, perturb, ttt
from tiny import tiny, tokens

from ttt_retrofit import wrap

IDS = tokens(2, 37)  # four chunks and a part of one, under a window of two chunks


def gradients(model, enable: str | None, **inputs) -> dict[str, torch.Tensor]:
    model.train()
    if enable:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # neither is announced as deprecated here
            getattr(model, enable)()
        assert model.is_gradient_checkpointing
    model.zero_grad()
    model(IDS, labels=IDS, **inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("enable", ["activation_checkpointing_enable", "gradient_checkpointing_enable"])
@pytest.mark.parametrize(
    "family, kind",
    [("llama", "delta"), ("llama", "lora"), ("llama", "prime"), ("gpt2", "lora"), ("gemma3_text", "delta")],
)
def test_gradients_are_those_without(family, kind, enable):
    model = converted(family, kind, inner_optimizer="sgd")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = gradients(model, None)
    checkpointed = gradients(model, enable)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    learned = [f"start_{part}" for part in model.kind.learned_start] + ["log_lr"]
    for name in learned:
        assert any(key.endswith(name) and g.abs().max() > 0 for key, g in plain.items())


def test_padding_and_earlier_context_change_nothing_of_that():
    model = converted("llama", "lora", inner_optimizer="sgd")
    mask = torch.ones_like(IDS)
    mask[1, :9] = 0
    plain = gradients(model, None, attention_mask=mask)
    checkpointed = gradients(model, "activation_checkpointing_enable", attention_mask=mask)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_sinks_that_move_along_change_nothing_of_that():
    model = perturb(wrap(tiny("llama", max_position_embeddings=32), ttt("lora", inner_optimizer="sgd")))
    plain = gradients(model, None)
    checkpointed = gradients(model, "activation_checkpointing_enable")
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_it_is_switched_off_again():
    model = wrap(tiny("llama"), ttt())
    model.activation_checkpointing_enable()
    model.activation_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable()
    model.gradient_checkpointing_disable()
    assert not model.is_activation_checkpointing


def test_arguments_of_the_trainer_are_taken():
    model = wrap(tiny("llama"), ttt())
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing


def test_activations_are_not_kept():
    """What a graph keeps alive grows with the layers' inner tensors; recomputed, only chunks' ends stay."""
    saved = {}
    for enable in (False, True):
        model = converted("llama", "delta").train()
        if enable:
            model.activation_checkpointing_enable()
        count = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, c=count: (c.append(t.nbytes), t)[1], lambda t: t):
            model(IDS, labels=IDS)
        saved[enable] = sum(count)
    assert saved[True] < 0.7 * saved[False]


def test_what_was_enabled_before_wrapping_stays_enabled_and_is_given_back():
    base = tiny("llama")
    base.activation_checkpointing_enable()
    model = wrap(base, ttt(inner_optimizer="sgd"))
    plain = gradients(wrap(tiny("llama"), ttt(inner_optimizer="sgd")), None)
    assert model.is_activation_checkpointing
    for name, gradient in gradients(model, None).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6, msg=name)
    assert model.unwrap().is_activation_checkpointing
