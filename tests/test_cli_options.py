"""Options that verbs share: configuration files, versions, the numbers a model computes in, the system prompt."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from commands import SMALL, document, fails, run
from safetensors.torch import load_file

RECIPES = Path(__file__).parents[1] / "docs" / "recipes.md"


@pytest.fixture
def filed(tmp_path):
    """A configuration file of that text."""

    def write(text):
        path = tmp_path / "options.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_holds_options_and_the_command_line_wins(base, filed):
    path = filed("window: 16\nset: {chunk_size: 8, sink_tokens: 2, relative_lr: 1e-3, learn_from: all}\n")
    said = document("info", base, "--config", path)["ttt"]
    assert (said["sliding_window"], said["chunk_size"], said["sink_tokens"], said["relative_lr"]) == (16, 8, 2, 1e-3)
    said = document("info", base, "--config", path, "--window", "32", "--set", "chunk_size=4")["ttt"]
    assert (said["sliding_window"], said["chunk_size"], said["sink_tokens"]) == (32, 4, 2)  # each wins by its name


def test_a_file_holds_arguments_and_switches(base, story, filed):
    path = filed(f"model: {base}\nfiles: [{story}]\nwindow: 16\nset: [chunk_size=8]\njson: true\nsave:\n")
    assert json.loads(run("read", "--config", path).stdout)["tokens_seen"] > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("windw: 16", "Known are ['json', 'model', 'preset', 'set', 'trust-remote-code', 'window']."),
        ("windw: 16", "windw is no option of "),
        ("window: wide", "window: 'wide' does not fit."),
        ("window: 10.5", "window: 10.5 does not fit."),
        ("window: [16]", "window: [16] does not fit. Expected one value, not a list."),
        ("window: 0", "window: 0 does not fit."),
        ("window: {a: 1}", "Expected a value, not names with values."),
        ("trust-remote-code: perhaps", "trust-remote-code: 'perhaps' does not fit."),
        ("config: other.yaml", "config is no option"),
        ("- window", "expected option names with values"),
        ("window: [", "no YAML"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_line_with_its_name_and_the_key(text, said, base, filed):
    path = filed(text)
    error = fails("info", base, "--config", path)
    assert error.startswith(f"error: {path}: ") and said in error


def test_a_file_that_is_not_there_is_one_line(base, tmp_path):
    assert "nowhere.yaml: the file cannot be read" in fails("info", base, "--config", tmp_path / "nowhere.yaml")


def test_every_verb_takes_a_file():
    from ttt_retrofit_cli.app import OF_MEMORIES, OF_PLOTS, VERBS

    groups = {(): VERBS, ("memory",): OF_MEMORIES, ("plot",): OF_PLOTS}
    for group, verbs in groups.items():
        for verb in verbs:
            assert "--config" in run(*group, verb, "--help").stdout


def test_the_file_of_the_recipes_is_one(base, tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", RECIPES.read_text(), re.DOTALL)
    path = tmp_path / "chat.yaml"
    path.write_text(text.replace("Qwen/Qwen3-0.6B", base).replace("users/ines", str(tmp_path / "ines")))
    said = document("chat", "--config", path, "--max-new-tokens", "2", stdin="who ?\n")
    assert [turn["user"] for turn in said["turns"]] == ["who ?"] and said["directory"] == str(tmp_path / "ines")


def test_versions_are_told_without_loading_anything():
    packages = ("ttt-retrofit", "torch", "transformers")
    assert run("--version").stdout.splitlines() == [f"{package} {version(package)}" for package in packages]


@pytest.mark.parametrize(("dtype", "kept"), [("bfloat16", torch.bfloat16), (None, torch.float32)])
def test_a_model_is_loaded_in_the_numbers_that_were_named(dtype, kept, base, tmp_path):
    named = [] if dtype is None else ["--dtype", dtype]
    run("convert", base, tmp_path / "converted", *SMALL, *named)
    assert load_file(tmp_path / "converted" / "model.safetensors")["lm_head.weight"].dtype == kept


def test_numbers_that_no_model_computes_in_are_refused():
    assert "--dtype" in run("read", "model", "file", "--dtype", "float8", code=2).stderr


def test_a_system_prompt_is_before_every_turn_and_kept_nowhere(base, tmp_path, monkeypatch):
    prompts = []
    from ttt_retrofit.chat import session

    real = session.prompt_ids

    def noting(tokenizer, prompt, **settings):
        prompts.append(prompt)
        return real(tokenizer, prompt, **settings)

    monkeypatch.setattr(session, "prompt_ids", noting)
    user = tmp_path / "ines"
    said = document("chat", base, "--system", "Answer in Braga .", "--memory", user, "--max-new-tokens", "2", *SMALL,
                    stdin="who ?\nwhat ?\n")  # fmt: skip
    assert [prompt[0] for prompt in prompts] == [{"role": "system", "content": "Answer in Braga ."}] * 2
    assert {message["role"] for message in said["messages"]} == {"user", "assistant"}
    assert not any("Answer in Braga" in path.read_text() for path in user.rglob("*.json"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--adapters", "a"], "--adapters is for a gateway before an engine"),
        (["--engine-kind", "vllm"], "--engine-kind is for a gateway"),
        (["--engine", "http://127.0.0.1:9"], "--engine needs --adapters DIR"),
        (["--engine", "http://127.0.0.1:9", "--adapters", "a", "--ray"], "cannot be given together"),
        (["--engine", "localhost:9", "--adapters", "a"], "expected the address of a server"),
        (["--engine", "http://127.0.0.1:9", "--adapters", "a"], "cannot be reached"),
    ],
)
def test_what_a_gateway_needs_is_said_before_a_model_is_loaded(base, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    if "--ray" in options:
        pytest.importorskip("ray")
    assert message in fails("serve", base, *options)
