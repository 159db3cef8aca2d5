"""The family matrix: what can be converted computes what its base computes until it learns, and can be taken back."""

import pytest
import torch
import transformers
from tiny import FAMILIES, REFUSED, UNGATED, snapshot, tiny, tokens

from ttt_retrofit import ConfigError, TTTConfig, UnsupportedModelError, wrap

CHUNK = 6
# Everything learns, fast enough to be seen after one chunk.
EAGER = {"layers": "all", "chunk_size": CHUNK, "sliding_window": 12, "sink_tokens": 2}
EAGER |= {"inner_optimizer": "sgd", "inner_lr": 1.0, "max_relative_update": 0.3}
UNLEARNED = TTTConfig(layers="all", chunk_size=CHUNK, sliding_window=None, inner_lr=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_learning_or_window_logits_equal_the_base(family):
    model, ids = tiny(family), tokens(2, 20)
    with torch.no_grad():
        base = model(ids).logits
        torch.testing.assert_close(wrap(model, UNLEARNED)(ids).logits, base, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_window_as_long_as_the_context_logits_equal_the_base(family):
    model, ids = tiny(family), tokens(2, 20)
    with torch.no_grad():
        base = model(ids).logits
        converted = wrap(model, TTTConfig(layers="all", chunk_size=CHUNK, sliding_window=20, inner_lr=0.0))
        torch.testing.assert_close(converted(ids).logits, base, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_rows_equal_the_base_with_its_positions(family):
    model, ids = tiny(family), tokens(2, 20)
    mask = torch.ones_like(ids)
    mask[0, :5], mask[1, 17:] = 0, 0
    inputs = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp_min(0)}
    with torch.no_grad():
        base = model(ids, **inputs).logits
        logits = wrap(model, UNLEARNED)(ids, **inputs).logits
    torch.testing.assert_close(logits[mask.bool()], base[mask.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_unwrap_gives_back_the_base_as_it_was(family):
    model, ids = tiny(family), tokens(1, 14)
    before = snapshot(model)
    with torch.no_grad():
        base = model(ids).logits
        converted = wrap(model, TTTConfig(**EAGER))
        assert isinstance(converted, before["class"]) and isinstance(converted.config, before["config"])
        assert type(converted) is not before["class"]
        converted(ids)
        plain = converted.unwrap()
        assert plain is model and snapshot(plain) == before
        assert torch.equal(plain(ids).logits, base)


KINDS = [
    {"fast_weights": kind, "target_modules": role} for kind in ("delta", "lora") for role in ("gate", "up", "down")
]
KINDS += [{"fast_weights": "prime"}]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
@pytest.mark.parametrize("family", FAMILIES)
def test_fast_weights_speak_from_the_second_chunk_on(family, kind):
    model, ids = tiny(family), tokens(1, 2 * CHUNK)
    config = TTTConfig(**EAGER, **kind, rank=4)
    if family in UNGATED and kind.get("target_modules") == "gate":
        with pytest.raises(ConfigError, match="projections seen are"):
            wrap(model, config)
        return
    if family == "opt" and kind["fast_weights"] == "prime":
        with pytest.raises(UnsupportedModelError, match="holds its MLP projections directly"):
            wrap(model, config)
        return
    with torch.no_grad():
        base = model(ids).logits
        logits = wrap(model, config)(ids).logits
    torch.testing.assert_close(logits[:, :CHUNK], base[:, :CHUNK], atol=1e-5, rtol=0)
    assert (logits[:, CHUNK:] - base[:, CHUNK:]).abs().max() > 1e-3


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_converted_is_refused_and_left_as_it_was(family):
    model = tiny(family)
    before = snapshot(model)
    with pytest.raises(UnsupportedModelError, match=REFUSED[family][1]):
        wrap(model, TTTConfig(layers="all"))
    assert snapshot(model) == before


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen3_moe", "jetmoe"])
def test_prime_sits_beside_a_mixture_of_experts(family):
    model, ids = tiny(family), tokens(1, 2 * CHUNK)
    with torch.no_grad():
        base = model(ids).logits
        converted = wrap(model, TTTConfig(**EAGER, fast_weights="prime", rank=4))
        logits = converted(ids).logits
    assert [site.site.layer for site in converted.sites] == [0, 1, 2, 3]
    torch.testing.assert_close(logits[:, :CHUNK], base[:, :CHUNK], atol=1e-5, rtol=0)
    assert (logits[:, CHUNK:] - base[:, CHUNK:]).abs().max() > 1e-3


def test_every_family_has_its_own_class():
    model = wrap(tiny("qwen3"), TTTConfig(layers="all"))
    assert isinstance(model, transformers.Qwen3ForCausalLM)
    assert type(model).__qualname__ == "TTTQwen3ForCausalLM"
    # Other libraries decide by these how a model is treated.
    assert type(model).__name__ == "Qwen3ForCausalLM" and model.config.model_type == "qwen3"
