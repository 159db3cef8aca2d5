"""Callers choose the grad mode; the inner loop learns the same in each."""

import pytest
import torch
from converted import converted, ttt
from tiny import tiny, tokens

from ttt_retrofit import TTTCache, UnsupportedModelError, wrap

KINDS = pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
IDS = tokens(2, 37)
GREEDY = {"max_new_tokens": 13, "do_sample": False, "eos_token_id": None}
MASK = torch.ones_like(IDS).index_put_((torch.tensor(1), torch.arange(9)), torch.tensor(0))


def ways_to_use(model) -> list:
    """Forward, multi-turn, read and generate; every result as tensors."""
    out = model(IDS)
    later = model(tokens(2, 11, seed=1), past_key_values=out.past_key_values)
    padded = model(IDS, attention_mask=MASK)
    cache = model.read(IDS)
    greedy = model.generate(IDS, **GREEDY)
    beams = model.generate(IDS, num_beams=3, **GREEDY)
    first = model.generate(IDS, return_dict_in_generate=True, **GREEDY)
    turn = torch.cat([first.sequences, tokens(2, 5, seed=2)], dim=1)
    second = model.generate(turn, past_key_values=first.past_key_values, **GREEDY)
    return [out.logits, later.logits, padded.logits[1, 9:], cache.loss_by_chunk, greedy, beams, second]


@KINDS
def test_inference_mode_gives_what_no_grad_gives(kind):
    model = converted("llama", kind)
    with torch.no_grad():
        expected = ways_to_use(model)
    with torch.inference_mode():
        found = ways_to_use(model)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


@KINDS
def test_a_call_with_grad_enabled_gives_the_same_logits(kind):
    model = converted("llama", kind)
    with torch.no_grad():
        expected = ways_to_use(model)
    for a, b in zip(ways_to_use(model), expected):
        torch.testing.assert_close(a.detach(), b, rtol=0, atol=2e-3)  # Adam turns noise of tiny gradients into steps


@KINDS
def test_a_cache_goes_from_mode_to_mode(kind):
    model = converted("llama", kind)
    more = tokens(2, 11, seed=1)
    with torch.no_grad():
        expected = model(more, past_key_values=model.read(IDS)).logits
    with torch.inference_mode():
        inside = model.read(IDS)
        beams = model.generate(IDS, num_beams=2, return_dict_in_generate=True, **GREEDY).past_key_values
    outside = model.read(IDS)
    with torch.no_grad():
        torch.testing.assert_close(model(more, past_key_values=inside).logits, expected, rtol=0, atol=1e-5)
        assert model(more.repeat(2, 1), past_key_values=beams).logits.isfinite().all()
    with torch.inference_mode():
        torch.testing.assert_close(model(more, past_key_values=outside).logits, expected, rtol=0, atol=1e-5)
    with_grad = model(more, past_key_values=model.read(IDS))
    with_grad.logits.sum().backward()
    torch.testing.assert_close(with_grad.logits.detach(), expected, rtol=0, atol=1e-5)


def test_a_cache_saved_under_inference_mode_is_whole(tmp_path):
    model = converted()
    with torch.inference_mode():
        model.read(IDS).save(tmp_path / "cache")
        loaded = TTTCache.load(tmp_path / "cache", model)
    with torch.no_grad():
        assert model(tokens(2, 11), past_key_values=loaded).logits.isfinite().all()


@KINDS
def test_a_model_converted_under_inference_mode_reads(kind, tmp_path):
    plain = tiny("llama")
    plain.save_pretrained(tmp_path)
    with torch.inference_mode():
        for model in (wrap(plain, ttt(kind)), wrap(tmp_path, ttt(kind))):
            inside = model(IDS).logits
            with torch.inference_mode(False), torch.no_grad():
                assert torch.equal(model(IDS).logits, inside)


def test_a_base_made_under_inference_mode_is_refused():
    with torch.inference_mode():
        model = tiny("llama")
    with pytest.raises(UnsupportedModelError, match=r"inference_mode.*Load it outside"):
        wrap(model, ttt())


@KINDS
def test_grad_flows_through_a_plain_call(kind):
    model = converted("llama", kind)
    model(IDS, labels=IDS).loss.backward()
    slow = model.get_submodule("model.layers.0.mlp.down_proj").weight.grad
    assert slow is not None and slow.abs().max() > 0
    site = model.sites[0]
    for name in model.kind.learned_start:
        assert site.get_parameter(f"start_{name}").grad.abs().max() > 0
    assert site.log_lr.grad is not None and site.log_lr.grad.abs() > 0
