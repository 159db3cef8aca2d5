"""One context brings everything to a forward, one set of functions sets hooks, and a call is checked once."""

import ast
from pathlib import Path

import pytest
import torch
from converted import converted
from test_memory import memory
from tiny import tiny, tokens

import ttt_retrofit
from ttt_retrofit import UnsupportedModelError
from ttt_retrofit.inner.context import FastTerms, ForwardContext, current, entering
from ttt_retrofit.inner.hooks import bind, hooks_on, is_bound, unbind
from ttt_retrofit.memory.batch import MemoryForward, hooks_for
from ttt_retrofit.memory.collate import collate
from ttt_retrofit.streaming import inputs

LAYER, UP = "model.layers.1", "model.layers.1.mlp.up_proj"


def test_a_context_takes_nothing_from_the_one_around_it_and_gives_it_back():
    outside, inside = ForwardContext(second_order=True), ForwardContext()
    assert current() is None
    with entering(outside):
        with entering(inside):
            assert current() is inside
        assert current() is outside
    assert current() is None


def test_a_forward_that_came_by_no_hook_is_refused_and_one_that_failed_keeps_its_error():
    missed = FastTerms({"site": {}}, 1)
    refused = pytest.raises(UnsupportedModelError, match=r"never called 1 of the 1 modules.*that of site")
    with refused, entering(ForwardContext(fast=missed)):
        pass
    model = converted()
    batch = collate([memory(model, 1)], model.device, model.dtype)
    context = ForwardContext(memory=MemoryForward(batch, None, [3]))
    with pytest.raises(UnsupportedModelError, match="where memories are added"), entering(context):
        pass
    with pytest.raises(KeyError), entering(ForwardContext(fast=missed)):
        raise KeyError
    assert current() is None


def test_hooks_are_set_once_followed_where_modules_are_replaced_and_removed_from_among_others():
    model, hooks = tiny("llama"), hooks_for(LAYER, [UP])
    projection = model.get_submodule(UP)
    other = projection.register_forward_hook(lambda module, args, output: None)
    for _ in range(2):
        bind(model, hooks)
    assert hooks_on(projection) == [hooks[1]] * 2  # before the forward, and after it
    assert is_bound(model, hooks_for(LAYER, [UP]))
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(32, 48, bias=False)
    assert not is_bound(model, hooks)
    unbind(model)
    assert hooks_on(model.get_submodule(LAYER)) == []
    bind(model, hooks)
    assert is_bound(model, hooks)
    with pytest.raises(UnsupportedModelError, match="is there no more"):
        bind(model, hooks_for("model.layers.0", ["model.layers.9"]))
    assert hooks_on(model.get_submodule("model.layers.0")) == []  # raised before anything was set
    assert list(projection._forward_hooks) == [other.id, *list(projection._forward_hooks)[1:]]


@pytest.mark.parametrize("waiting", [0, 5])
def test_read_is_checked_once_and_says_how_far_it_is(waiting, monkeypatch):
    model, ids, checked, told = converted(), tokens(1, 45), [], []
    cache = model.read(ids[:, :waiting]) if waiting else None
    once = inputs.checked_ids
    monkeypatch.setattr(inputs, "checked_ids", lambda *args, **named: checked.append(1) or once(*args, **named))
    cache = model.read(ids[:, waiting:], past_key_values=cache, progress=told.append)
    assert len(checked) == 1
    chunk = model.ttt.chunk_size
    assert sum(told) == 45 - waiting and told[0] == chunk - waiting and set(told[1:-1]) == {chunk}
    with torch.no_grad():
        whole = model(ids).past_key_values
    torch.testing.assert_close(cache.loss_by_chunk, whole.loss_by_chunk)


def test_a_read_that_goes_on_within_a_chunk_reads_that_chunk_alone_again(monkeypatch):
    model, ids, forwards = converted(), tokens(1, 45), []
    cache = model.read(ids[:, :5])
    once = model.base_forward
    monkeypatch.setattr(model, "base_forward", lambda **given: forwards.append(given["input_ids"]) or once(**given))
    model.read(ids[:, 5:], past_key_values=cache)
    assert [given.shape[1] for given in forwards] == [3, 8, 8, 8, 8, 8, 5]


def test_a_padded_batch_is_read_without_logits_of_all_its_columns():
    model, ids = converted(), tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[0, :21] = 0
    told = []
    cache = model.read(ids, attention_mask=mask, progress=told.append)
    assert cache.tokens_seen.tolist() == [19, 40] and cache.get_seq_length() == 40 == sum(told)
    with torch.no_grad():
        alone = model(ids[:1, 21:]).past_key_values
    torch.testing.assert_close(cache.loss_by_chunk[0, :2], alone.loss_by_chunk[0])


def test_the_library_has_one_context_of_forwards_and_one_of_loading():
    """The first is local to its thread in a form that torch.compile traces; no forward runs in the other."""
    variables, local = set(), set()
    for path in Path(ttt_retrofit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ContextVar":
                variables.add(path.name)
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "threading.local" for base in node.bases):
                local.add(path.name)
    assert (variables, local) == ({"hub.py"}, {"context.py"})
