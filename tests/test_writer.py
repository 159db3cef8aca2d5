"""Answers in batches are the answers one by one."""

import torch
from converted import speaker
from tiny import tokens
from words import tokenizer

from ttt_retrofit.consolidation.writer import Writer


def test_answers_that_have_ended_leave_the_batch_and_none_changes():
    writer = Writer(speaker().unwrap(), tokenizer())
    prompts = [tokens(1, length, seed=length)[0].tolist() for length in range(4, 20)]
    usual = writer.answer(prompts, 24, kept=1)
    writer.ends = {answer.ids[3] for answer in usual[::2]}  # half of them end early
    alone = [writer.answer([prompt], 24)[0] for prompt in prompts]
    before = writer.tokens
    together = writer.answer(prompts, 24)
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    for one, other in zip(together, alone):
        assert one.indices.shape == other.indices.shape
        assert torch.allclose(one.logprobs.float(), other.logprobs.float(), atol=5e-3)
    assert len({len(answer.ids) for answer in together}) > 1
    assert writer.tokens - before < sum(map(len, prompts)) + len(prompts) * max(len(a.ids) for a in together)
