"""What editors and type checkers see of `wrap`, `from_pretrained`, `consolidate` and `ask`."""

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from ttt_retrofit import AutoModelForCausalLM, Memory, TTTPreTrainedModel, wrap
from ttt_retrofit.consolidation.job import ConsolidationJob

ROOT = Path(__file__).parent.parent
SNIPPET = """
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
"""
WRONG = "\n    TTTConfig(window=3)\n"


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


@pytest.mark.slow
def test_mypy_agrees_and_refuses_an_unknown_field(tmp_path):
    # In the project's directory, whose cache of `make check` spares it reading torch again.
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET + WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", str(path)], cwd=ROOT, capture_output=True, text=True
    )
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    assert len(errors) == 1 and 'Unexpected keyword argument "window"' in errors[0], done.stdout + done.stderr
