"""The examples do what they say, in reduced form: a tiny random model in place of the real one."""

import importlib.util
import json
import math
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers
import typer
from launched import launch
from test_docs import NAME, indulgent, stage  # noqa: F401 -- indulgent is a fixture
from test_hub import hub  # noqa: F401 -- a fixture
from transformers import AutoTokenizer
from typer.testing import CliRunner

from ttt_retrofit import AutoModelForCausalLM, TTTConfig, wrap
from ttt_retrofit.memory.store import MemoryStore

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
READING = {"tokens": 200, "window": 32, "chunk": 16}


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    sources = " ".join(path.read_text() for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")])
    return stage(tmp_path_factory.mktemp("examples"), sources)


@pytest.fixture
def directory(shared, tmp_path, monkeypatch):
    """Where an example runs: the model's name is a directory of it, and what is written stays within the test."""
    (tmp_path / Path(NAME).parent).symlink_to(shared / Path(NAME).parent)
    (tmp_path / "book.txt").symlink_to(shared / "book.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


BOOK = Path("book.txt")


def test_generate_goes_on_from_a_saved_state_as_from_the_whole_text(directory):
    losses, continuation = example("generate").main(NAME, BOOK, **READING, max_new_tokens=8)
    assert losses["all"] != losses["none"]
    model, tokenizer = wrap(NAME, TTTConfig(sliding_window=32, chunk_size=16)), AutoTokenizer.from_pretrained(NAME)
    ids = tokenizer(BOOK.read_text(), return_tensors="pt").input_ids[:, :200]
    assert continuation == tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False)[0, 200:])


def test_pipeline_writes_in_a_batch_what_it_writes_alone(directory, monkeypatch):
    module = example("pipeline")
    together, answer = module.main(NAME, 8)
    assert len(together) == 3 and answer
    for prompt, text in zip(module.PROMPTS, together):
        assert text.startswith(prompt)
        monkeypatch.setattr(module, "PROMPTS", [prompt])
        assert module.main(NAME, 8) == ([text], answer)


def test_many_users_each_hear_their_own_memory(directory, indulgent):  # noqa: F811
    module = example("many_users")
    answers, memories = module.main(NAME, 8)
    assert set(memories) == {"ines", "otto"} and set(answers) == {*memories, "guest"}
    model, tokenizer = wrap(NAME, TTTConfig(learn_from="none")), AutoTokenizer.from_pretrained(NAME)
    asked = [{"role": "user", "content": module.QUESTION}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    for user, answer in answers.items():
        own = model.generate(**prompt, memories=[memories.get(user)], max_new_tokens=8, do_sample=False)[0]
        assert answer == tokenizer.decode(own[prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_an_agent_forgets_the_words_and_keeps_the_memory(directory, indulgent, capsys):  # noqa: F811
    module, store = example("agent"), Path("users/ines")
    module.main(NAME, store, tool_seconds=0.2, idle_seconds=60, max_new_tokens=4)
    assert "while the tool ran" in capsys.readouterr().out
    turns = (store / "turns.json").read_text()
    assert module.QUESTION in turns and not any(said in turns for said in list(module.TURNS)[:-1])
    remembered = MemoryStore(store / "memory").load().names()
    module.main(NAME, store, idle_seconds=0, max_new_tokens=4)
    assert remembered == MemoryStore(store / "memory").load().names()
    assert next(iter(module.TURNS)) not in capsys.readouterr().out  # it goes on; nothing is said again


def test_a_rule_of_ones_own_learns_otherwise_than_the_gradient(directory):
    losses = example("custom_rule").main(NAME, BOOK, tokens=96, window=32)
    gradient, surprise = losses["gradient"], losses["surprise"]
    assert len(gradient) == len(surprise) == 6
    assert surprise[0] == gradient[0] and all(mine != its for mine, its in zip(surprise[1:], gradient[1:]))


def test_a_base_in_4_bits_learns_as_well(directory):
    found = example("quantized").main(NAME, BOOK, **READING, rank=4)
    full, four = found["32 bits"], found["4 bits"]
    assert four["weights, MB"] < full["weights, MB"] and four["state, MB"] == full["state, MB"]
    assert all(figures["nats/token"] != figures["without updates"] for figures in found.values())


def test_a_meta_trained_model_loads_with_what_it_learned(directory):
    (directory / "held_out.txt").write_text(" ".join(reversed(BOOK.read_text().split())))
    texts, settings = [BOOK, Path("held_out.txt")], {"sequence_length": 64, "window": 32, "chunk": 16, "steps": 2}
    after = example("meta_train").main(texts, NAME, Path("tuned"), "first_order", **settings)
    assert math.isfinite(after["eval_loss"])
    tuned, fresh = transformers.AutoModelForCausalLM.from_pretrained("tuned"), wrap(NAME, TTTConfig(**tuned_config()))
    before = {name: tensor for name, tensor in fresh.named_parameters() if ".ttt." in name}
    assert before and any(not torch.equal(tuned.get_parameter(name), tensor) for name, tensor in before.items())


def test_a_meta_training_is_launched_in_two_processes_that_share_the_base(directory):
    script, settings = str(EXAMPLES / "meta_train.py"), ["--sequence-length", "64", "--window", "32", "--chunk", "16"]
    launch([script, str(BOOK), "--model", NAME, *settings, "--steps", "1", "--gradients", "first_order", "--shard"], 2)
    tuned, fresh = transformers.AutoModelForCausalLM.from_pretrained("tuned"), wrap(NAME, TTTConfig(**tuned_config()))
    differ = {n for n, p in fresh.named_parameters() if not torch.equal(tuned.get_parameter(n), p)}
    assert differ and all("down_proj" in name or name.endswith("log_lr") for name in differ)


def tuned_config() -> dict:
    return json.loads(Path("tuned/config.json").read_text())["ttt"]


def test_what_is_pushed_says_what_was_measured(directory, hub):  # noqa: F811
    losses = example("push_to_hub").main(NAME, "me/reader", text=BOOK, **READING)
    assert set(hub.created) == {"me/reader"} and {"model.safetensors", "tokenizer.json"} <= set(hub.files)
    local = Path("converted/README.md").read_text()
    assert len(set(losses.values())) == 2
    assert all(f"| {name} | {loss:.4f} |" in hub.files["README.md"] and name in local for name, loss in losses.items())
    assert AutoModelForCausalLM.from_pretrained("converted").ttt.sliding_window == 32


def test_plain_peft_says_the_same_in_a_process_of_its_own(directory, indulgent):  # noqa: F811
    assert example("export_lora").main(NAME) < 1e-4
    assert json.loads(Path("adapter/adapter_config.json").read_text())["peft_type"] == "LORA"


def test_lm_eval_finds_the_loss_that_the_model_has(directory):
    found = example("harness").main(NAME, text=BOOK, characters=900, window=32, chunk=16, longest=512)
    page, tokenizer = BOOK.read_text()[:900], AutoTokenizer.from_pretrained(NAME)
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(page, add_special_tokens=False).input_ids]])
    model = wrap(NAME, TTTConfig(sliding_window=32, chunk_size=16))
    for name, learn_from in (("without updates", "none"), ("with updates", "all")):
        with torch.no_grad():
            nats = model(ids, labels=ids, learn_from=learn_from).loss.item() * (ids.shape[1] - 1)
        expected = math.exp(nats / len(re.split(r"\s+", page)))
        assert found[name]["text"]["word_perplexity,none"] == pytest.approx(expected, rel=1e-3)


def test_the_needle_is_looked_for_in_every_way(directory, indulgent):  # noqa: F811
    """The notebook's cells run here, not in a kernel: no more packages, and what a test patches holds."""
    smaller = {"MODEL": NAME, "NOVEL": "book.txt", "HAYSTACK": 60, "EPOCHS": 3, "WINDOW": 16, "CHUNK": 8}
    cells = json.loads((EXAMPLES / "needle.ipynb").read_text())["cells"]
    names: dict = {"__name__": "needle"}
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), f"needle.ipynb, code cell {number}", "exec"), names)
        names |= smaller if "parameters" in cell["metadata"].get("tags", ()) else {}
    table = names["table"]
    assert len(table) == 7 and all(math.isfinite(row["answer"] + row["elsewhere"]) for row in table.values())
    assert table["read, then ask"]["answer"] != table["the same window, no updates"]["answer"]
    assert names["memory"].report.accepted and names["model"].memory is names["memory"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_commands_of_a_docstring_are_understood(name):
    module = example(name)
    app = typer.Typer()
    app.command()(module.main)
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    commands = [line for line in module.__doc__.splitlines() if f"examples/{name}.py" in line]
    assert commands and all(option in said.output for line in commands for option in re.findall(r" (--[\w-]+)", line)
                            if option != "--multi_gpu")  # fmt: skip


def test_every_example_is_listed_with_its_command():
    listed = (EXAMPLES / "README.md").read_text()
    assert SCRIPTS and NOTEBOOKS
    assert all(f"python examples/{name}.py" in listed for name in SCRIPTS)
    assert all(f"examples/{name}" in listed for name in NOTEBOOKS)
