"""What editors see of `wrap`, `from_pretrained`, `consolidate` and `ask`; `typed.py` is what mypy sees."""

import inspect
import typing

import pytest
from transformers import PreTrainedModel

from ttt_retrofit import AutoModelForCausalLM, Memory, TTTPreTrainedModel, wrap
from ttt_retrofit.consolidation.job import ConsolidationJob


@pytest.mark.parametrize(
    "function", [wrap, AutoModelForCausalLM.from_pretrained, AutoModelForCausalLM.from_config], ids=lambda f: f.__name__
)
def test_what_converts_says_that_it_gives_a_converted_model(function):
    assert inspect.signature(function).return_annotation == "TTTPreTrainedModel"
    assert {"read", "consolidate", "ask", "generate"} <= set(dir(TTTPreTrainedModel))


def test_the_kind_of_answer_depends_on_the_arguments():
    job, memory = (typing.get_type_hints(one)["return"] for one in typing.get_overloads(TTTPreTrainedModel.consolidate))
    assert (job, memory) == (ConsolidationJob, Memory)
    one, many = (typing.get_type_hints(one)["return"] for one in typing.get_overloads(TTTPreTrainedModel.ask))
    assert (one, many) == (str, list[str])


def test_a_converted_model_is_an_instance_of_its_type():
    from converted import converted

    model = converted("llama")
    assert isinstance(model, TTTPreTrainedModel) and isinstance(model, PreTrainedModel)
    assert not isinstance(model.unwrap(), TTTPreTrainedModel)
