"""The command line: every verb on a tiny model, what it prints, what it leaves on disk, and how it fails."""

import dataclasses
import json
import re
import time
from pathlib import Path

import pytest
import torch
from commands import SMALL, document, fails, run
from peft import PeftModel
from remembered import memory as remembered
from tiny import tiny, tokens
from words import OTHER_STORY, STORY, tokenizer

import ttt_retrofit
from ttt_retrofit import ConfigError, Memory, MemoryConfig, TTTCache, TTTConfig, wrap
from ttt_retrofit.memory.store import MemoryStore

QUICK = ["answer_tokens=12", "min_recall=0", "max_drift=10", "max_changed=1", "wordings=1", "epochs=0.1"]
SHORT = ["--window", "64", "--set", "chunk_size=8"]
RECIPE = [part for setting in QUICK for part in ("--recipe", setting)]


@pytest.mark.slow
def test_a_converted_model_loads_with_its_tokenizer(base, tmp_path):
    target = tmp_path / "converted"
    said = document("convert", base, target, *SMALL)
    model = ttt_retrofit.AutoModelForCausalLM.from_pretrained(target)
    assert model.ttt.chunk_size == 8 and said["ttt"] == model.ttt.to_dict()
    assert (target / "tokenizer.json").exists()
    assert said["parameters_that_learn"] == sum(48 * 32 for _ in model.sites)
    assert "converted already" in fails("convert", target, tmp_path / "again")
    assert "exists already" in fails("convert", base, target)
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]


@pytest.mark.slow
def test_an_interrupted_conversion_leaves_nothing(base, tmp_path, monkeypatch):
    def half(model, directory):
        (directory / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr("ttt_retrofit.model.modeling.TTTMixin.save_pretrained", half)
    assert "Stopped." in run("convert", base, tmp_path / "converted", *SMALL, code=130).stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_interrupted_training_goes_on_from_its_checkpoint(base, story, tmp_path, monkeypatch):
    target = tmp_path / "tuned"
    arguments = ["train", base, story, target, "--steps", "4", "--sequence-length", "32", *SMALL]
    arguments += ["--gradients", "first_order", "--training", "save_steps=2"]
    from ttt_retrofit_cli import following

    class Interrupted(following.Follow):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(following, "Follow", Interrupted)
        assert "goes on from the last checkpoint" in run(*arguments, code=130).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tuned-checkpoints"]
    result = run(*arguments, "--json")
    assert "checkpoint-2" in result.stderr and json.loads(result.stdout)["steps"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


@pytest.mark.parametrize("settings", [[], ["--set", "fast_weights=lora"], ["--set", "fast_weights=prime"]])
def test_info_counts_what_a_cache_of_such_a_model_holds(base, settings):
    said = document("info", base, *SMALL, *settings)
    config = {"sliding_window": 16, "chunk_size": 8, "sink_tokens": 2, **said["ttt"]}
    model = wrap(tiny("llama"), TTTConfig.from_dict(config))
    cache = model.read(tokens(1, 64))
    fast = sum(tensor.nbytes for name, tensor in cache.fast.tensors().items() if name != "steps")
    assert said["state_bytes_per_row"]["fast_weights"] == fast
    full = tiny("llama")(tokens(1, 10)).past_key_values
    per_token = sum(layer.keys.nbytes + layer.values.nbytes for layer in full.layers) // 10
    assert said["full_attention_bytes_per_token"] == per_token
    assert said["state_bytes_per_row"]["keys_and_values"] == per_token * (16 - 1 + 2 + 8)


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "gemma3n_text", "deepseek_v3", "qwen2_moe"])
def test_info_counts_the_keys_of_any_family(family, tmp_path):
    tiny(family).save_pretrained(tmp_path)
    kept = tiny(family)(tokens(1, 5)).past_key_values.layers
    per_token = sum(layer.keys.nbytes + layer.values.nbytes for layer in kept if layer.keys is not None) // 5
    assert document("info", tmp_path, *SMALL)["full_attention_bytes_per_token"] == per_token


def test_info_tells_a_converted_model(base, tmp_path):
    run("convert", base, tmp_path / "converted", *SMALL)
    here, there = document("info", base, *SMALL), document("info", tmp_path / "converted")
    assert not here["converted"] and there["converted"]
    assert {**here, "model": 0, "converted": 0} == {**there, "model": 0, "converted": 0}


@pytest.fixture(scope="module")
def converted(base, tmp_path_factory):
    """A converted checkpoint with a window of 16."""
    directory = tmp_path_factory.mktemp("models") / "converted"
    run("convert", base, directory, *SMALL)
    return directory


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--preset", "fast"], "a preset is for a base"),
        *((["--set", setting], "is converted already") for setting in ("layers=all", "rank=4", "fast_weights=lora")),
        (["--set", "target_modules=up"], "is converted already"),
        (["--set", "chunk_size=32"], "chunk_size=32 is longer than sliding_window=16"),
    ],
)
def test_info_refuses_what_read_refuses(settings, said, converted, story):
    refused = fails("info", converted, *settings)
    assert said in refused and refused == fails("read", converted, story, *settings)


def test_info_refuses_a_rule_that_cannot_learn_there(base, story):
    settings = [*SMALL, "--set", "inner_rule=in_place", "--set", "target_modules=up"]
    refused = fails("info", base, *settings)
    assert "down projection" in refused and refused == fails("read", base, story, *settings)


def test_info_shows_a_converted_model_as_it_would_be_configured(converted):
    said = document("info", converted, "--window", "12", "--set", "inner_lr=0.5")
    assert said["converted"] and said["ttt"]["sliding_window"] == 12 and said["ttt"]["inner_lr"] == 0.5


@pytest.mark.slow
def test_reading_saves_a_state_and_goes_on_from_it(base, story, tmp_path):
    state = tmp_path / "state.safetensors"
    first = document("read", base, story, "--save", state, *SMALL)
    assert len(first["loss_by_chunk"]) == first["tokens_seen"] // 8
    second = document("read", base, story, "--from", state, *SMALL)
    both = document("read", base, story, story, *SMALL)
    assert second["tokens_seen"] == both["tokens_seen"] == 2 * first["tokens_seen"]
    assert second["loss_by_chunk"] == pytest.approx(both["loss_by_chunk"], abs=1e-4)
    config = TTTConfig.from_dict(document("info", base, *SMALL)["ttt"])
    model = ttt_retrofit.AutoModelForCausalLM.from_pretrained(base, ttt_config=config)
    assert TTTCache.load(state, model).tokens_seen.tolist() == [first["tokens_seen"]]


@pytest.mark.parametrize(("state", "said"), [("", "is a directory"), ("a file/state", "a file is no directory")])
def test_a_state_that_cannot_be_saved_is_refused_before_anything_is_read(state, said, story, tmp_path):
    (tmp_path / "a file").touch()
    assert said in fails("read", "no/such/model/anywhere", story, "--save", tmp_path / state)


def test_a_state_is_saved_in_directories_that_are_made_for_it(base, story, tmp_path):
    state = tmp_path / "new" / "states" / "state.safetensors"
    assert document("read", base, story, "--save", state, *SMALL)["saved"] == str(state) and state.exists()


@pytest.mark.parametrize("rule", ["gradient", "in_place"])
def test_reading_says_by_which_rule_it_learned(rule, base, story):
    arguments = ["read", base, story, *SMALL, "--set", f"inner_rule={rule}"]
    assert document(*arguments)["inner_rule"] == rule
    assert re.search(rf"inner rule +{rule} ", run(*arguments).stdout)


def test_stdin_is_a_file(base):
    assert document("read", base, "-", *SMALL, stdin=STORY)["files"][0]["file"] == "-"


def test_eval_gives_the_losses_of_three_ways_of_reading(base, story):
    said = document("eval", base, story, *SMALL)["files"][0]["systems"]
    assert list(said) == ["full attention", "window + sinks", "window + sinks + TTT"]
    assert all(len(system["loss_by_quarter"]) == 4 for system in said.values())
    ids = tokenizer()(STORY, return_tensors="pt").input_ids
    with torch.no_grad():
        loss = tiny("llama", max_position_embeddings=4096)(ids, labels=ids).loss.item()
    assert said["full attention"]["loss"] == pytest.approx(loss, abs=1e-4)


def test_demo_wants_a_model_and_a_text_and_reads_in_four_ways(base, story):
    assert "make demo" in fails("demo")
    shown = run("demo", base, story, "--set", "chunk_size=8", "--set", "sliding_window=16").stdout
    assert all(name in shown for name in ("full attention", "window + sinks", "window + sinks + TTT"))


def test_demo_reads_through_its_own_window_whatever_a_checkpoint_says(converted, story):
    arguments = ["demo", converted, story, "--tokens", "40"]
    assert document(*arguments)["ttt"]["sliding_window"] == 512
    assert document(*arguments, "--set", "sliding_window=24")["ttt"]["sliding_window"] == 24


@pytest.mark.slow
def test_a_consolidated_memory_is_listed_shown_rolled_back_exported_and_combined(base, questions, tmp_path):
    user, messages = tmp_path / "ines", tmp_path / "said.json"
    messages.write_text(json.dumps([{"role": "user", "content": STORY}, {"role": "assistant", "content": "Bolt"}]))
    said = document("consolidate", base, messages, "--memory", user, "--questions", questions, *RECIPE, *SHORT)
    assert said["version"] == 1 and said["report"]["accepted"]
    listed = document("memory", "list", user)
    assert listed["current"] == 1 and listed["versions"][0]["entries"][0]["sources"][0]["kind"] == "chat"
    assert "current" in run("memory", "list", user).stdout
    assert document("memory", "show", user)["entries"] == listed["versions"][0]["entries"]
    assert "recall" in run("memory", "show", user).stdout
    document("memory", "export", user, tmp_path / "adapter", "--rank", "4")
    PeftModel.from_pretrained(tiny("llama", max_position_embeddings=4096), tmp_path / "adapter")
    assert len(document("memory", "combine", user, user, tmp_path / "both")["entries"]) == 2
    assert len(Memory.load(tmp_path / "both").names()) == 2
    assert document("memory", "rollback", user, "--yes") == {"directory": str(user), "before": 1, "current": None}
    assert "no version is current" in fails("memory", "show", user)
    assert "empty" in fails("memory", "rollback", user, "--yes")


@pytest.mark.slow
def test_a_rejected_memory_is_not_saved_and_exits_with_1(base, story, questions, tmp_path):
    user = tmp_path / "ines"
    recipe = ["--questions", questions, *RECIPE, "--recipe", "min_recall=1.0", *SHORT]
    result = run("consolidate", base, story, "--memory", user, *recipe, "--json", code=1)
    said = json.loads(result.stdout)
    assert said["version"] is None and not said["report"]["accepted"]
    assert MemoryStore(user / "memory").versions() == []


def test_memories_saved_alone_are_shown_and_combined_with_weights(tmp_path):
    model = wrap(tiny("llama"), TTTConfig(chunk_size=8, sliding_window=16))
    for name, seed in (("a", 1), ("b", 2)):
        remembered(model, seed).save(tmp_path / name)
    document("memory", "combine", tmp_path / "a", tmp_path / "b", tmp_path / "c", "--weight", "1", "--weight", "0.5")
    assert Memory.load(tmp_path / "c").names() == ["entry1", "entry2"]
    assert "2 memories" in fails("memory", "combine", tmp_path / "a", tmp_path / "b", tmp_path / "d", "--weight", "1")
    assert not (tmp_path / "d").exists()


def test_looking_at_no_memory_makes_no_directory(tmp_path):
    for verb in ("list", "show", "rollback"):
        assert "no memory store" in fails("memory", verb, tmp_path / "nobody")
    assert not (tmp_path / "nobody").exists()


def test_a_chat_keeps_turns_and_obeys_commands(base, tmp_path):
    user = tmp_path / "ines"
    said = [
        "where is Marek ?",
        "/help",
        "/memory",
        "/save",
        "/forget nobody",
        "/rollback",
        "/nothing",
        "who ?",
        "/quit",
    ]
    arguments = ["chat", base, "--memory", user, "--max-new-tokens", "4", *SHORT]
    result = run(*arguments, "--json", stdin="\n".join(said))
    kept = json.loads(result.stdout)
    assert [turn["user"] for turn in kept["turns"]] == ["where is Marek ?", "who ?"]
    assert len(kept["messages"]) == 4 and kept["entries"] == []
    for part in ("/rollback ", "Nothing is remembered yet", "nothing is remembered yet", "is empty", "is no command"):
        assert part in result.stderr
    again = document(*arguments, stdin="/forget all\n")
    assert again["messages"] == [] and again["turns"] == []


@pytest.mark.slow
def test_a_chat_consolidates_while_nobody_types(base, questions, tmp_path, monkeypatch):
    from ttt_retrofit_cli import output
    from ttt_retrofit_cli.chat import chat
    from ttt_retrofit_cli.options import ModelOptions, RecipeOptions, ReviewOptions

    monkeypatch.setattr("ttt_retrofit_cli.chat.PATIENCE", 0.0)

    class Typist:
        """Types three messages, waits until the memory is there, then asks for it and leaves."""

        def __iter__(self):
            yield from (f"{STORY}\n", f"{OTHER_STORY}\n", "who ?\n")
            while not (tmp_path / "memory" / "current.json").exists():
                time.sleep(0.05)
            yield from ("/memory\n", f"/save {tmp_path / 'saved'}\n", "/quit\n")

    out = output.Output(as_json=True)
    monkeypatch.setattr("sys.stdin", Typist())
    seen = []
    monkeypatch.setattr(out, "remark", seen.append)
    options = ModelOptions(window=64, settings=["chunk_size=8"], device="cpu")
    chat(out, base, RecipeOptions(questions=Path(questions), recipe=QUICK), options, ReviewOptions(), tmp_path,
         max_new_tokens=4)  # fmt: skip
    assert any("consolidating older turns" in line for line in seen)
    assert any("accepted:" in line for line in seen) and any("Remembered, oldest first" in line for line in seen)
    assert len(Memory.load(tmp_path / "saved").names()) == 1


def test_training_writes_a_model_and_cleans_up(base, story, tmp_path):
    target = tmp_path / "tuned"
    said = document(
        "train", base, story, target, "--held-out", story, "--steps", "2", "--sequence-length", "32", *SMALL,
        "--gradients", "first_order", "--training", "learning_rate=1e-3",
    )  # fmt: skip
    assert said["steps"] == 2 and said["evaluation"]["eval_loss"] != said["evaluation_before"]["eval_loss"]
    assert ttt_retrofit.AutoModelForCausalLM.from_pretrained(target).ttt.chunk_size == 8
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_training_is_evaluated_without_the_gain_of_updates_where_nobody_asks_for_it(base, story, tmp_path):
    arguments = ["train", base, story, tmp_path / "tuned", "--held-out", story, "--steps", "1", *SMALL]
    arguments += ["--sequence-length", "32", "--gradients", "first_order"]
    shown = run(*arguments, "--training", "evaluate_without_updates=false").stdout
    assert "nats/token" in shown and "from updates" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["read", "no/such/model/anywhere", "{story}"], "no model directory"),
        (["read", "{base}", "nowhere.txt"], "nowhere.txt"),
        (["read", "{base}", "{story}", "--set", "chunk_size"], "expected NAME=VALUE"),
        (["read", "{base}", "{story}", "--set", "chunks=3"], "Unknown TTTConfig fields"),
        (["read", "{base}", "{story}", "--from", "nowhere.state"], "nowhere.state cannot be read"),
        (["read", "no/such/model/anywhere", "{story}", "--device", "gpu"], "--device gpu: torch has no such device"),
        (["train", "{base}", "{story}", "{tmp}/y", "--device", "cuda:99"], "Choose one of ['cpu'"),
        (["train", "{base}", "{story}", "{tmp}/y", "--training", "output_dir=z"], "checkpoints stand beside"),
        (["eval", "{base}", "{story}", "--device", "meta"], "--device meta: torch has no such device"),
        (["eval", "{base}", "{story}", "--set", "sliding_window=null"], "Give --set sliding_window=N"),
        (
            ["consolidate", "{base}", "{story}", "--memory", "{tmp}/x", "--recipe", "recal=1"],
            "Unknown ConsolidationConfig fields",
        ),
        (["consolidate", "{base}", "{story}", "--memory", "{tmp}/x", "--recipe", "keep_text=no"], "True or False"),
        (["consolidate", "{base}", "{story}", "--memory", "{tmp}/x", "--recipe", "min_recall=high"], "from 0 to 1"),
        (["consolidate", "{base}", "{story}", "--memory", "{tmp}/x", "--recipe", "memory=4"], "memory.NAME"),
        (["consolidate", "{base}", "{story}", "--memory", "{tmp}/x", "--recipe", "memory.rnk=4"], "rank"),
        (["train", "{base}", "{story}", "{tmp}/y", "--training", "nothing=1"], "Unknown fields"),
        (["train", "{base}", "{story}", "{tmp}/y", "--training", "save_steps=often"], "save_steps='often'"),
        (["train", "{base}", "{story}", "{tmp}/y", "--training", "optim=adamm"], "adamm is not a valid OptimizerNames"),
        (["memory", "show", "{base}"], "no memory store"),
    ],
)
def test_what_a_user_can_mend_is_one_line(arguments, said, base, story, tmp_path):
    given = [part.format(base=base, story=story, tmp=tmp_path) for part in arguments]
    assert said in fails(*given)
    assert list(tmp_path.glob("*/*.safetensors")) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama17"}, "does not recognize this architecture"),
        ({}, "Should have a `model_type` key"),
        ({"model_type": "llama", "hidden_size": "wide"}, "'hidden_size' expected int"),
        ({"model_type": "siglip"}, "no causal language model"),
    ],
)
def test_what_is_no_model_for_us_is_one_line(config, said, story, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for arguments in (["info", tmp_path], ["read", tmp_path, story]):
        assert said in fails(*arguments)


def test_a_model_without_a_tokenizer_is_one_line(story, tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    assert "has no tokenizer" in fails("read", tmp_path, story, *SMALL)


def test_names_are_shown_as_they_are(base, story, tmp_path):
    odd = tmp_path / "[red]odd.txt"
    odd.write_text(STORY)
    assert "[red]odd.txt" in run("eval", base, odd, *SMALL).stdout.replace("\n", "")
    target = tmp_path / "[b]model"
    assert str(target) in run("convert", base, target, *SMALL).stdout.replace("\n", "")


def test_bad_options_exit_with_2(base, story):
    assert "No such option" in run("read", base, story, "--nothing", code=2).stderr
    assert run("read", base, code=2).stdout == ""


def test_recipes_are_fields_of_the_configuration():
    from ttt_retrofit_cli.recipes import recipe

    made = recipe(QUICK)
    assert dataclasses.asdict(made)["epochs"] == 0.1 and made.min_recall == 0
    placed = recipe(["memory.rank=4", "memory.layers=[2, 3]", "memory.gated=False", "notepad=5"])
    assert placed.memory == MemoryConfig(rank=4, layers=(2, 3), gated=False) and placed.notepad == 5


@pytest.mark.parametrize("word", ["true", "True", "FALSE", "False"])
def test_true_and_false_are_meant_in_any_case(word):
    from ttt_retrofit_cli.recipes import recipe

    assert recipe([f"keep_text={word}"]).keep_text is (word.lower() == "true")


def test_a_removed_field_of_a_recipe_says_what_to_do():
    from ttt_retrofit_cli.recipes import recipe

    for said in ("strategy=single", "memory.kind=full"):
        with pytest.raises(ConfigError, match="any more"):
            recipe([said])


def test_none_is_a_value_as_python_spells_it_and_a_word_otherwise():
    from ttt_retrofit_cli.settings import settings

    assert settings(["sliding_window=None", "learn_from=none"]) == {"sliding_window": None, "learn_from": "none"}
