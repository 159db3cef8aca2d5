"""A memory of another author keeps within what `consolidate` makes, says what it may do, and moves no terminal."""

import dataclasses
import io
import json

import pytest
import torch
from converted import converted, logits
from remembered import memory
from rich.console import Console
from tiny import tokens

from ttt_retrofit import CheckpointError, Memory
from ttt_retrofit.memory.card import memory_card
from ttt_retrofit.memory.gates import Background
from ttt_retrofit.memory.report import Report
from ttt_retrofit.util.shown import shown
from ttt_retrofit_cli.output import Output, table

IDS = tokens(1, 20)


def writing_to(path, o, i):
    def change(made):
        entry = dataclasses.replace(made.entries[0], weights={path: {"a": torch.ones(1, i), "b": torch.ones(o, 1)}})
        return dataclasses.replace(made, entries=(entry,))

    return change


def gated_by(**changes):
    def change(made):
        entry = made.entries[0]
        return dataclasses.replace(
            made, entries=(dataclasses.replace(entry, gate=dataclasses.replace(entry.gate, **changes)),)
        )

    return change


def ungated(made):
    return dataclasses.replace(made, config=dataclasses.replace(made.config, gated=False))


def louder(made):
    return dataclasses.replace(made, entries=tuple(entry.scaled(1e3) for entry in made.entries))


def seen_against(background):
    return lambda made: dataclasses.replace(made, background=background)


BEYOND = {
    "lm_head": (writing_to("lm_head", 97, 32), r"writes to lm_head"),
    "attention": (writing_to("model.layers.1.self_attn.q_proj", 32, 32), r"self_attn\.q_proj"),
    "always": (ungated, r"no gate and is always active"),
    "loud": (louder, r"times its own norm"),
    "open": (gated_by(closed=-3.0, opened=-2.0), r"stands open"),
    "nearly open": (gated_by(closed=-0.9, opened=-0.8), r"stands open"),
    "long keys": (gated_by(keys=torch.full((2, 32), 9.0)), r"stands open"),
    "far background": (
        seen_against(Background(torch.full((32,), 9.0), torch.zeros(32, 0), torch.zeros(0))),
        r"longer than 1",
    ),
    "whitening": (
        seen_against(Background(torch.zeros(32), torch.eye(32)[:, :2], torch.full((2,), 50.0))),
        r"whitening outside",
    ),
}


@pytest.mark.parametrize("how", BEYOND)
def test_a_memory_of_another_author_that_may_do_more_is_refused_unless_trusted(how, tmp_path):
    change, message = BEYOND[how]
    model = converted()
    change(memory(model, 1)).save(tmp_path)
    with pytest.raises(CheckpointError, match=rf"{message}.*safe=False"):
        model.load_memory(tmp_path)
    assert model.memory is None
    trusted = model.load_memory(tmp_path, safe=False)
    assert model.memory is trusted and logits(model, IDS).isfinite().all()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe", "phi3"])
def test_what_consolidation_makes_is_safe(family, tmp_path):
    model = converted(family)
    layers = (0, 3) if family == "qwen3_moe" else (1, 2, 3)
    target = ("up", "down") if family == "gpt2" else ("gate", "up", "down")
    memory(model, 1, 2, layers=layers, target_modules=target).save(tmp_path)
    assert model.load_memory(tmp_path).names() == ["entry1", "entry2"]


def test_an_adapter_is_usable_as_an_object_and_from_a_directory_when_it_is_trusted(tmp_path):
    model = converted()
    memory(model, 1, gated=False).to_lora(tmp_path / "adapter")
    adapter = Memory.from_lora(tmp_path / "adapter", model)
    assert model.load_memory(adapter) is adapter
    adapter.save(tmp_path / "memory")
    with pytest.raises(CheckpointError, match="always active"):
        model.load_memory(tmp_path / "memory")
    model.load_memory(tmp_path / "memory", safe=False)


REPORT = Report(True, "all \x1b[2Jgood\nrecall 100%", 0.0, 1.0, 9, 0.0, 0.0, 0.0, 0.0)


def test_a_memory_says_what_it_may_do_and_marks_its_report_as_its_own_word():
    made = dataclasses.replace(memory(converted(), 1), report=REPORT, base_name="\x1b]0;evil\x07")
    said = str(made)
    assert "9 projections" in said and "where its gates open" in said and "as the file says" in said
    assert "\x1b" not in said and "\x07" not in said and "good\\nrecall" in said
    assert "always active" in str(ungated(made))
    assert "As the file says of itself" in memory_card("a/b", "base", False, 1, 0, 9, REPORT)


NAMES = ["\x1b[31mred", "\x9b2J", "back\x08space", "\u202eturned", "[bold]markup[/bold]", "[link=http://x]y[/link]"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_says_is_shown_and_not_obeyed(name, capsys):
    out = Output(as_json=False)
    out.console = out.aside = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    rows = table(f"of {name}", ["entry", "figure"])
    rows.add_row(name, "1")
    out.result({}, rows, f"said {name}")
    out.remark(name)
    written = out.console.file.getvalue()
    assert written.count(shown(name)) == 4 and not set(written) & set("\x1b\x9b\x08\u202e")
    Output(as_json=True).result({"name": name})
    document = capsys.readouterr().out
    assert json.loads(document) == {"name": name} and not set(document) & set("\x1b\x9b\x08\u202e")
