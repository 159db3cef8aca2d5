"""A user's code as a type checker sees it: read by mypy in `make check`, never run."""

from typing import assert_type

from torch import Tensor
from transformers import PreTrainedModel, Qwen3ForCausalLM

from ttt_retrofit import AutoModelForCausalLM, Memory, TTTCache, TTTConfig, TTTPreTrainedModel, wrap
from ttt_retrofit.consolidation.job import ConsolidationJob


def use(base: Qwen3ForCausalLM) -> None:
    model = wrap(base, TTTConfig(chunk_size=64))
    assert_type(model, TTTPreTrainedModel)
    assert_type(AutoModelForCausalLM.from_pretrained("name"), TTTPreTrainedModel)
    cache = model.read("text")
    assert_type(cache, TTTCache)
    assert_type(cache.loss_by_chunk, Tensor)
    assert_type(model.consolidate("text", keep_text=True), Memory)
    assert_type(model.consolidate("text", background=True), ConsolidationJob)
    assert_type(model.ask(cache, "where?"), str)
    assert_type(model.ask(cache, ["where?", "who?"]), list[str])
    assert_type(model.unwrap(), PreTrainedModel)
    model.generate(max_new_tokens=3)
    TTTConfig(window=3)  # type: ignore[call-arg]  # an unknown field; were it taken, mypy would warn of this comment
