"""The norms of families in a forward that is learned from: the same output, and a gradient of fewer operations."""

import pytest
import torch
from converted import converted
from tiny import tiny, tokens

from benchmarks.launches import counted
from ttt_retrofit.inner.context import FastTerms, ForwardContext, entering
from ttt_retrofit.inner.hooks import bind, hooks_on, unbind
from ttt_retrofit.inner.rms_norm import RMSNorm, rms_norms

FORMULAS = ["llama", "olmo2", "gemma2"]  # each another way to write it


def normed(family, dtype):
    """The first norm of a family, hooked, and an input of it."""
    model = tiny(family).to(dtype)
    (hook, *_) = rms_norms(model, model)
    norm = hook.module_in(model)
    torch.manual_seed(0)
    torch.nn.init.normal_(norm.weight)
    bind(model, [hook])
    return model, norm, torch.randn(2, 7, norm.weight.shape[0]).to(dtype).requires_grad_()


def gradient(norm, x, terms):
    context = ForwardContext(terms)
    with entering(context):
        y = norm(x)
    with counted() as counts:
        (found,) = torch.autograd.grad(y, x, torch.linspace(-1, 2, y.numel()).view_as(y).to(y.dtype))
    return y.detach(), found, counts.launches.total()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FORMULAS)
def test_a_norm_gives_the_same_output_to_the_bit_and_the_same_gradient_to_rounding(family, dtype):
    _, norm, x = normed(family, dtype)
    y, found, launches = gradient(norm, x, FastTerms({}, 2, record=True))
    plain_y, plain, plain_launches = gradient(norm, x, None)
    assert torch.equal(y, plain_y)
    tolerance = 1e-5 if dtype is torch.float32 else 3e-2
    torch.testing.assert_close(found, plain, rtol=tolerance, atol=tolerance)
    assert launches < plain_launches - 6


def test_a_norm_is_left_to_the_family_where_no_graph_is_kept_and_under_autocast():
    _, norm, x = normed("llama", torch.float32)
    terms = FastTerms({}, 2, record=True)
    with entering(ForwardContext(terms)):
        with torch.no_grad():
            norm(x)
        with torch.autocast("cpu"):
            norm(x)
        norm(x.detach())
    assert not terms.zeros and not terms.withheld


def test_modules_of_another_formula_are_left_alone():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.eps = torch.nn.Parameter(torch.ones(8)), 1e-6

        def forward(self, x):
            return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), Odd(), torch.nn.RMSNorm(8, eps=1e-6), torch.nn.LayerNorm(8))
    assert rms_norms(model, model) == []


def test_only_norms_that_a_gradient_can_reach_are_hooked_and_unwrap_removes_the_hooks():
    model = converted(layers=(1,))
    hooked = {path for path, module in model.named_modules() if any(isinstance(h, RMSNorm) for h in hooks_on(module))}
    assert "model.norm" in hooked and not any(path.startswith("model.layers.0.") for path in hooked)
    assert not any(hooks_on(module) for module in model.unwrap().modules())


@pytest.mark.parametrize("family", ["qwen3", *FORMULAS])
def test_a_model_learns_the_same_with_its_own_norms(family):
    ids, model = tokens(2, 64), converted(family, inner_optimizer="sgd")  # Adam makes much of rounding
    with_ours = model.read(ids).fast.tensors()
    norms = [module for module in model.modules() if any(isinstance(h, RMSNorm) for h in hooks_on(module))]
    assert norms
    for module in norms:
        unbind(module)
    for name, value in model.read(ids).fast.tensors().items():
        torch.testing.assert_close(with_ours[name], value, rtol=1e-3, atol=1e-5, msg=name)
