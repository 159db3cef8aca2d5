"""A model's layers called without its head read as the model does, or say that they cannot."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from remembered import memory
from tiny import FAMILIES, tiny, tokens
from torch import nn

from ttt_retrofit import InputError, TTTCache, TTTConfig, UnsupportedModelError, wrap

# Everything learns, fast enough to be seen after one chunk.
EAGER = TTTConfig(layers="all", chunk_size=6, sliding_window=12, sink_tokens=2, inner_lr=1.0, inner_optimizer="sgd")
IDS = tokens(2, 20)
MASK = torch.ones_like(IDS)
MASK[0, :5], MASK[1, 17:] = 0, 0


class Heads:
    """What a model's head is given, call by call."""

    def __init__(self, head: nn.Module) -> None:
        self.given: list[torch.Tensor] = []
        self.hook = head.register_forward_pre_hook(lambda module, args: self.given.append(args[0].detach()))

    def take(self) -> torch.Tensor:
        self.hook.remove()
        return torch.cat(self.given, dim=1)


def backbones(model) -> list[nn.Module]:
    """Without the model itself, which some families give for their backbone."""
    return list({id(m): m for m in (model.base_model, model.get_decoder()) if m is not model}.values())


# ModernBERT's head is of two parts, and the hook below would see what the first of them gives.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "modernbert-decoder"])
def test_the_backbone_gives_what_the_head_is_given(family):
    model = wrap(tiny(family), EAGER)
    with torch.no_grad():
        head = Heads(model.get_output_embeddings())
        model(IDS, use_cache=False)
        expected = head.take()
        for backbone in backbones(model):
            output = backbone(IDS)
            assert torch.equal(output.last_hidden_state, expected)
            assert isinstance(output.past_key_values, TTTCache) and output.past_key_values.columns == 20
            assert backbone(IDS, use_cache=False).past_key_values is None
            assert torch.equal(backbone(IDS, return_dict=False)[0], expected)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma3", "qwen2_moe"])
def test_padding_and_calls_that_go_on_from_a_cache_are_the_models(family):
    model = wrap(tiny(family), EAGER)
    head = model.get_output_embeddings()
    with torch.no_grad():
        expected = model(IDS, attention_mask=MASK).logits
        for backbone in backbones(model):
            hidden = backbone(IDS, attention_mask=MASK).last_hidden_state
            torch.testing.assert_close(head(hidden)[MASK.bool()], expected[MASK.bool()], atol=1e-5, rtol=0)
            first = backbone(IDS[:, :7])
            rest = backbone(IDS[:, 7:], past_key_values=first.past_key_values)
            parts = torch.cat([first.last_hidden_state, rest.last_hidden_state], dim=1)
            torch.testing.assert_close(head(parts), model(IDS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_it_hears_memories_and_learns_as_it_is_told(family):
    model = wrap(tiny(family), EAGER)
    head = model.get_output_embeddings()
    given = [{}, {"learn_from": "none"}, {"memories": [memory(model, 1), None]}]
    with torch.no_grad():
        hidden = [model.base_model(IDS, **changes).last_hidden_state for changes in given]
        for changes, found in zip(given, hidden):
            assert torch.equal(head(found), model(IDS, **changes).logits)
        assert not torch.allclose(hidden[0], hidden[1], atol=1e-3)
        assert not torch.allclose(hidden[0][0], hidden[2][0], atol=1e-3)
        model.load_memory(memory(model, 2))
        assert torch.equal(head(model.base_model(IDS)[0]), model(IDS).logits)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_through_it_are_the_models(checkpointing):
    found = []
    for through in (False, True):
        model = wrap(tiny("llama"), EAGER).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        logits = model.lm_head(model.base_model(IDS)[0]) if through else model(IDS).logits
        loss = model.loss_function(logits=logits, labels=IDS, vocab_size=model.vocabulary_size)
        loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and any("log_lr" in name for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_what_the_model_refuses_its_backbone_refuses():
    model = wrap(tiny("llama"), EAGER)
    with pytest.raises(InputError, match="inputs_embeds"):
        model.base_model(inputs_embeds=torch.zeros(1, 4, 32))
    with pytest.raises(InputError, match="expected a TTTCache"):
        model.base_model(IDS, past_key_values=tiny("llama")(IDS).past_key_values)


def test_a_layer_called_alone_is_refused():
    model = wrap(tiny("llama"), EAGER)
    plain = model.base_model._base_class.forward  # the family's own, past everything that is ours
    with pytest.raises(UnsupportedModelError, match=r"without a converted model around them.*unwrap\(\)"):
        plain(model.base_model, IDS)


def test_copies_and_pickles_have_backbones_of_their_own():
    model = wrap(tiny("llama"), EAGER)
    expected = model.base_model(IDS)[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            other.lm_head.weight.zero_()  # learning, it now goes another way
        assert not torch.allclose(other.base_model(IDS)[0], expected, atol=1e-3)
    assert torch.equal(model.base_model(IDS)[0], expected)
    assert type(pickle.loads(pickle.dumps(model)).unwrap().base_model) is type(tiny("llama").base_model)


def test_a_model_that_is_no_longer_needed_frees_its_memory_at_once():
    model = wrap(tiny("llama"), EAGER)
    gone, backbone = weakref.ref(model), model.base_model
    gc.collect()
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()
    with pytest.raises(UnsupportedModelError, match="no longer there"):
        backbone(IDS)


def test_unwrapped_the_backbone_is_the_familys():
    model, plain = tiny("llama"), tiny("llama")
    unwrapped = wrap(model, EAGER).unwrap()
    assert type(unwrapped.base_model) is type(plain.base_model)
    assert vars(unwrapped.base_model).keys() == vars(plain.base_model).keys()
    assert torch.equal(unwrapped.base_model(IDS)[0], plain.base_model(IDS)[0])
