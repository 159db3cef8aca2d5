"""Conversations that were read apart go on together as each goes on alone."""

import pytest
import torch
from converted import converted, speaker
from remembered import memory as remembered
from tiny import tokens

from ttt_retrofit.streaming.joining import join, stay

PROMPTS = [5, 30, 17, 64]  # in a first chunk, in the middle of one, beyond the window, at a chunk's end


def read(model, length, memory=None):
    cache = model.new_cache()
    with torch.no_grad():
        model(tokens(1, length, length), past_key_values=cache, memories=[memory])
    return cache


def logits(model, cache, ids, memories):
    with torch.no_grad():
        found = [
            model(ids[:, at : at + 1], past_key_values=cache, memories=memories).logits for at in range(ids.shape[1])
        ]
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "qwen3", "gemma3n_text", "deepseek_v3"])
@pytest.mark.parametrize("kind", ["delta", "lora"])
def test_rows_that_are_joined_go_on_as_each_does_alone(family, kind):
    model = converted(family, kind)
    more = tokens(len(PROMPTS), 20, 99)
    alone = [logits(model, read(model, n), more[row : row + 1], [None]) for row, n in enumerate(PROMPTS)]
    joined = join(model, model.new_cache(), [read(model, n) for n in PROMPTS])
    torch.testing.assert_close(logits(model, joined, more, None), torch.cat(alone), atol=2e-5, rtol=1e-4)
    assert joined.counts == [n + 20 for n in PROMPTS]


@pytest.mark.slow
def test_rows_leave_and_others_join_in_between():
    model = converted("llama")
    more = tokens(4, 30, 99)
    alone = [logits(model, read(model, n), more[row : row + 1], [None]) for row, n in enumerate(PROMPTS)]
    cache = join(model, model.new_cache(), [read(model, n) for n in PROMPTS[:3]])
    first = logits(model, cache, more[:3, :10], None)
    stay(cache, [0, 2], 0)
    cache = join(model, model.new_cache(), [cache, read(model, PROMPTS[3])])
    second = logits(model, cache, torch.cat([more[[0, 2], 10:], more[3:, :20]]), None)
    torch.testing.assert_close(first, torch.cat(alone[:3])[:, :10], atol=2e-5, rtol=1e-4)
    expected = torch.cat([alone[0][:, 10:], alone[2][:, 10:], alone[3][:, :20]])
    torch.testing.assert_close(second, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_each_keeps_its_memory():
    model = speaker()
    memories = [remembered(model, 1, 2), None, remembered(model, 3), remembered(model, 1)]
    more = tokens(4, 20, 99)
    alone = [
        logits(model, read(model, n, memory), more[row : row + 1], [memory])
        for row, (n, memory) in enumerate(zip(PROMPTS, memories))
    ]
    joined = join(model, model.new_cache(), [read(model, n, memory) for n, memory in zip(PROMPTS, memories)])
    # In float64 they agree to 2e-7; here rounding is carried on by updates.
    torch.testing.assert_close(logits(model, joined, more, memories), torch.cat(alone), atol=2e-4, rtol=1e-3)
    silent = logits(model, join(model, model.new_cache(), [read(model, n) for n in PROMPTS]), more, [None] * 4)
    assert not torch.allclose(silent[0], alone[0][0], atol=1e-3)


@pytest.mark.slow
def test_the_longest_memory_may_leave():
    model = speaker()
    memories = [remembered(model, 3), remembered(model, 1, 2, 4), remembered(model, 1, 5)]
    more = tokens(3, 24, 99)
    alone = [
        logits(model, read(model, n, memory), more[row : row + 1], [memory])
        for row, (n, memory) in enumerate(zip(PROMPTS, memories))
    ]
    cache = join(model, model.new_cache(), [read(model, n, memory) for n, memory in zip(PROMPTS, memories)])
    logits(model, cache, more[:, :12], memories)
    stay(cache, [0, 2], memories=2)
    found = logits(model, cache, more[[0, 2], 12:], [memories[0], memories[2]])
    torch.testing.assert_close(found, torch.cat([alone[0], alone[2]])[:, 12:], atol=2e-5, rtol=1e-4)
