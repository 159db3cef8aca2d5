"""A user's code as a type checker sees it: read by mypy in `make check`, never run."""

import datetime
from collections.abc import Sequence
from typing import assert_type

from torch import Tensor
from transformers import PreTrainedModel, Qwen3ForCausalLM

from ttt_retrofit import AutoModelForCausalLM, Memory, TTTCache, TTTConfig, TTTPreTrainedModel, wrap
from ttt_retrofit.consolidation.job import ConsolidationJob
from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.util.messages import Message


class Own:
    """A writer of facts."""

    name = "own"

    def complete(self, prompts: Sequence[Sequence[Message]], longest: int, seed: int = 0) -> list[str]:
        return ["" for _ in prompts]


def use(base: Qwen3ForCausalLM) -> None:
    model = wrap(base, TTTConfig(chunk_size=64))
    assert_type(model, TTTPreTrainedModel)
    assert_type(AutoModelForCausalLM.from_pretrained("name"), TTTPreTrainedModel)
    cache = model.read("text")
    assert_type(cache, TTTCache)
    assert_type(cache.loss_by_chunk, Tensor)
    assert_type(model.consolidate("text", keep_text=True), Memory)
    assert_type(model.consolidate("text", background=True), ConsolidationJob)
    assert_type(model.consolidate("text", date="2026-03-09", writer="http://host/v1").facts(), list[Fact])
    model.consolidate("text", date=datetime.date(2026, 3, 9), writer=Own())
    model.consolidate("text", writer=7)  # type: ignore[call-overload]
    assert_type(model.ask(cache, "where?"), str)
    assert_type(model.ask(cache, ["where?", "who?"]), list[str])
    assert_type(model.unwrap(), PreTrainedModel)
    model.generate(max_new_tokens=3)
    TTTConfig(window=3)  # type: ignore[call-arg]  # an unknown field; were it taken, mypy would warn of this comment
