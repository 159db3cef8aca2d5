"""Code that stands beside a model runs when somebody says so, and never because of what stands on stdin."""

import json
import shutil

import pytest
from commands import SMALL, document, fails
from transformers import AutoTokenizer

import ttt_retrofit

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({marker!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
OF_MODEL = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
OF_TOKENIZER = {"AutoTokenizer": ["own.OwnTokenizer", None]}


@pytest.fixture
def made(base, tmp_path):
    """Makes a model with code of its own, or only a tokenizer with it; the second path is there once it has run."""

    def make(model):
        directory, marker = tmp_path / "own", tmp_path / "ran"
        shutil.copytree(base, directory)
        (directory / "own.py").write_text(CODE.format(marker=str(marker)))
        changes = {"tokenizer_config.json": {"auto_map": OF_TOKENIZER, "tokenizer_class": "OwnTokenizer"}}
        if model:
            changes["config.json"] = {"auto_map": OF_MODEL, "model_type": "own"}
        for name, change in changes.items():
            (directory / name).write_text(json.dumps(json.loads((directory / name).read_text()) | change))
        return directory, marker

    return make


@pytest.mark.parametrize(
    "arguments",
    [["chat", "{}"], ["serve", "{}", "--port", "0"], ["read", "{}", "-"], ["eval", "{}", "-"], ["convert", "{}", "new"],
     ["consolidate", "{}", "-", "--memory", "new"], ["plot", "reading", "{}", "-"], ["info", "{}"]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_a_yes_on_stdin_runs_no_code(arguments, made, tmp_path, monkeypatch):
    directory, marker = made(model=True)
    monkeypatch.chdir(tmp_path)
    said = fails(*(part.format(directory) for part in arguments), stdin="y\nyes\n1\n")
    assert "--trust-remote-code" in said and not marker.exists()


@pytest.mark.slow
def test_code_of_a_tokenizer_alone_does_not_run_either(made, monkeypatch):
    directory, marker = made(model=False)
    said = fails("chat", directory, stdin="y\n")
    assert "--trust-remote-code" in said and not marker.exists()
    model = ttt_retrofit.AutoModelForCausalLM.from_pretrained(directory)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(ttt_retrofit.InputError, match="Pass tokenizer="):
        model.read("where is Marek ?")
    assert not marker.exists()


def test_the_library_asks_nobody_either(made, monkeypatch):
    directory, marker = made(model=True)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        ttt_retrofit.AutoModelForCausalLM.from_pretrained(directory)
    assert not marker.exists()


@pytest.mark.slow
def test_code_runs_where_it_is_trusted(made, story):
    directory, marker = made(model=True)
    assert document("read", directory, story, "--trust-remote-code", *SMALL)["tokens_seen"] > 0 and marker.exists()
    assert AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
