"""Rows and tables about cost: states are carried from step to step, and what was not measured is marked."""

import json
from argparse import Namespace

import pytest
import torch
from tiny import tiny
from transformers import LlamaConfig

from benchmarks import (
    by_length,
    by_length_report,
    cost_ratios,
    recurrent,
    recurrent_models,
    speed_and_memory,
    timed_models,
)
from benchmarks.harness.processes import here
from benchmarks.measure import FULL, SINKS
from benchmarks.recurrent_models import state_bytes, systems

WINDOW = 512
VOCABULARY, DEPTH = 100, 2
RECURRENT = ("Mamba 2", "Gated DeltaNet", "RWKV", "linear attention")


@pytest.fixture
def shallow(monkeypatch):
    shared = recurrent_models.SHARED | {"vocab_size": VOCABULARY, "num_hidden_layers": DEPTH}
    monkeypatch.setattr(recurrent_models, "SHARED", shared)
    monkeypatch.setattr(recurrent_models, "DEPTH", DEPTH)
    monkeypatch.setattr(recurrent_models, "LINEAR", ["linear_attention"] * DEPTH)


@pytest.mark.parametrize("name", [FULL, SINKS, *RECURRENT])
@torch.no_grad()
def test_a_step_goes_on_from_the_state_of_the_one_before(shallow, name):
    torch.manual_seed(0)
    system = systems(WINDOW)[name]
    model = system.build().eval()
    ids = torch.randint(3, VOCABULARY, (1, 40))
    at_once, whole = system.step(model, ids, None, 0)
    _, state = system.step(model, ids[:, :38], None, 0)
    for position in (38, 39):
        logits, state = system.step(model, ids[:, position : position + 1], state, position)
    torch.testing.assert_close(logits, at_once[:, -1:], rtol=1e-3, atol=1e-4)
    assert state_bytes(state) == state_bytes(whole)


@pytest.mark.slow
@torch.no_grad()
def test_the_bytes_of_a_state_are_those_of_its_tensors_and_do_not_grow(shallow):
    width, head = recurrent_models.WIDTH, recurrent_models.HEAD_SIZE
    matrices = DEPTH * width * head * 4  # one of head x head for each head
    expected = {
        FULL: lambda tokens: DEPTH * 2 * recurrent_models.KEY_VALUE_HEADS * head * tokens * 4,
        "RWKV": lambda tokens: DEPTH * 5 * width * 4,
        "linear attention": lambda tokens: matrices,
        "Gated DeltaNet": lambda tokens: matrices + DEPTH * 3 * width * 4 * 4,  # a convolution over four tokens
        "Mamba 2": lambda tokens: DEPTH * (2 * width * 128 + (2 * width + 2 * 128) * 4) * 4,
    }
    for name, bytes_of in expected.items():
        system = systems(WINDOW)[name]
        model = system.build().eval()
        for tokens in (16, 32):
            _, state = system.step(model, torch.randint(3, VOCABULARY, (1, tokens)), None, 0)
            assert state_bytes(state) == bytes_of(tokens), name


def test_weights_of_the_model_that_a_state_points_to_are_no_bytes_of_it():
    weight, made = torch.nn.Parameter(torch.zeros(3)), torch.zeros(2)
    state = (7, {"a": weight[None].detach(), "b": (made, None)}, [made])
    assert state_bytes(state) == 28 and state_bytes(state, {weight.data_ptr()}) == 16


def test_a_system_that_cannot_run_stays_in_the_table_and_says_why():
    rows = {FULL: {"failed": "ImportError: a | b"}, SINKS: dict.fromkeys(("parameters", "read", "token", "state"), 1)}
    rows[SINKS]["peak"] = None
    table = recurrent.page({"rows": rows, "settings": {"tokens": 8, "decoded": 2, "device": "cpu", "window": WINDOW}})
    (failed,) = (line for line in table if line.startswith(f"| {FULL}"))
    assert "cannot run: ImportError: a \\| b" in failed
    assert any(line.startswith(f"| {SINKS} |") for line in table)


def test_a_run_of_recurrent_models_that_is_cut_off_loses_no_row_that_was_kept(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path)
    monkeypatch.setattr("sys.argv", ["recurrent", "--quick", "--device=cpu"])
    measured = dict.fromkeys(("parameters", "read", "token", "state", "peak"), 1)
    asked, failing, cut_off = [], {"Mamba 2"}, False

    def ask(module, arguments):
        (system,) = (argument.removeprefix("--one=") for argument in arguments if argument.startswith("--one="))
        asked.append(system)
        if cut_off:
            raise KeyboardInterrupt
        return {"failed": "why"} if system in failing else measured

    monkeypatch.setattr(recurrent, "ask", ask)
    recurrent.main()
    assert asked == [*systems(WINDOW)]
    asked, cut_off = [], True
    with pytest.raises(KeyboardInterrupt):
        recurrent.main()
    assert asked == ["Mamba 2"]
    asked, cut_off, failing = [], False, set()
    recurrent.main()
    assert asked == ["Mamba 2"]
    page = [line.split(" | ")[0] for line in (tmp_path / "recurrent_quick.md").read_text().splitlines()]
    assert [line for line in page if line.startswith("| ")][2:] == [f"| {system}" for system in systems(WINDOW)]


def made_up(limit):
    """Rows whose costs are known: full attention with a square, windows without; the longest row failed."""
    rows = {system: {} for system in by_length.SYSTEMS}
    for length in (n for n in by_length.LENGTHS if n <= limit):
        for system in rows:
            seconds = length * 1e-3 + (length**2 * 1e-6 if system == FULL else length * 4e-3)
            grows = length if system == FULL else 5000
            row = {
                "read": seconds,
                "token": 0.05 + length * 1e-6 if system == FULL else 0.06,
                "retained": 46080 * grows,
                "peak": 90000 * grows,
            }
            rows[system][length] = row
    rows[FULL][limit] = {"failed": "no memory"}
    return rows


@pytest.mark.slow
def test_what_was_not_measured_is_extrapolated_and_marked_and_break_even_is_where_the_costs_cross(tmp_path):
    settings = {"model": "m", "window": WINDOW, "device": "cpu", "decoded": 1}
    lines, derived = by_length_report.report({1: made_up(16384)}, by_length.LENGTHS, settings)
    assert "Measured up to 16,384 tokens." in lines
    seconds = lines[lines.index("### Batch 1: seconds to read") : lines.index("### Batch 1: milliseconds per token")]
    cells = {line.split(" | ")[0]: line.split(" | ")[1:] for line in seconds if line.startswith("| ")}
    assert cells["| 8,192"][:2] == ["75.3", "41"]
    assert cells["| 16,384"][:2] == ["285, extrapolated", "81.9"]
    assert cells["| 2,097,152"][:2] == ["4,400,000, extrapolated", "10,500, extrapolated"]
    assert any("16,384 tokens: no memory" in line for line in lines)
    crossing = derived["break_even"][1][SINKS]
    assert crossing == {"read": "4,000", "token": "10,000, extrapolated", "retained": "5,000", "peak": "5,000"}
    by_length_report.draw(made_up(16384), by_length.LENGTHS, tmp_path / "it.png", "made up")
    assert (tmp_path / "it.png").stat().st_size > 10_000


def test_a_length_that_no_system_could_read_is_not_called_measured_and_nothing_in_common_gives_no_break_even():
    rows = made_up(8192)
    for length in (4096, 8192):
        for by_tokens in rows.values():
            by_tokens[length] = {"failed": "no memory"}
    rows[SINKS] |= {length: {"failed": "killed"} for length in (1024, 2048)}
    rows[SINKS][8192] = made_up(16384)[SINKS][8192]
    settings = {"model": "m", "window": WINDOW, "device": "cpu", "decoded": 256}
    lines, derived = by_length_report.report({8: rows}, by_length.LENGTHS, settings)
    assert derived["break_even"][8][SINKS]["retained"] == "-"
    assert "256 greedy tokens after the read, an update after every 256" in lines[2]
    rows[SINKS][8192] = {"failed": "no memory"}
    assert "Measured up to 2,048 tokens." in by_length_report.report({8: rows}, (1024,), settings)[0]


@pytest.mark.parametrize("system", by_length.SYSTEMS)
def test_a_row_is_measured_on_as_many_rows_and_tokens_as_it_says(system, monkeypatch):
    model = tiny("llama")
    seen = []
    monkeypatch.setattr(by_length, "loaded", lambda name, device: model)
    monkeypatch.setattr(by_length, "token_ids", lambda name, text: torch.arange(90))
    monkeypatch.setattr(by_length, "state_bytes", lambda cache: seen.append(cache.get_seq_length()) or 1)
    options = Namespace(model="tiny", window=WINDOW, text="a text", device="cpu", decoded=2)
    row = by_length.measure(system, 2, 600, options)
    assert seen == [600] and len(row["reads"]) == by_length.READS
    assert row["read"] == min(row["reads"]) > 0 and row["token"] > 0
    assert json.loads(json.dumps(row)) == row
    assert type(model).__name__ == "LlamaForCausalLM"  # handed back as it came


def test_rows_of_a_batch_follow_one_another_in_a_text_that_is_repeated():
    assert by_length.rows_of(torch.tensor([1, 2, 3, 4, 5]), 2, 4).tolist() == [[1, 2, 3, 4], [5, 1, 2, 3]]


def test_ratios_are_medians_within_turns_and_a_part_that_cannot_run_says_why():
    rows = {part: {"seconds": {}} for part in cost_ratios.PARTS}
    rows[cost_ratios.OVERHEAD]["seconds"] = {"un-wrapped": [1, 2, 4], "wrapped, not learning": [1, 3, 4]}
    for part in cost_ratios.LEARNING:
        rows[part] = {"seconds": {"not learning": [1, 10], "learning": [2, 30]}, "limit": 2.0}
    rows[cost_ratios.DECODING] = {"failed": "MemoryError"}
    lines, found = cost_ratios.report(rows, {"model": "m", "window": 8, "tokens": 16, "turns": 3})
    assert found == {cost_ratios.OVERHEAD: 1, **dict.fromkeys(cost_ratios.LEARNING, 2.5)}
    text = "\n".join(lines)
    assert "2.50x; arithmetic limit 2.00x, measured / limit 1.25" in text and "cannot run: MemoryError" in text


def test_parts_take_turns_and_base_and_model_are_themselves_again(monkeypatch):
    monkeypatch.setattr(cost_ratios, "DECODED", 2)
    base = tiny("llama")
    ids = torch.randint(3, base.config.vocab_size, (1, 600))
    for part, run in cost_ratios.RUNS.items():
        seconds = run(base, ids, WINDOW, 2)
        assert len(seconds) == 2 and all(len(of_run) == 2 and min(of_run) > 0 for of_run in seconds.values()), part
        assert type(base).__name__ == "LlamaForCausalLM"


@pytest.mark.slow
def test_speed_and_memory_measures_what_is_missing_and_goes_on_where_it_was_cut_off(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path)
    monkeypatch.setattr(speed_and_memory, "model_directory", lambda name: name)
    seconds = {
        "un-wrapped": [1.0],
        "wrapped, not learning": [1.0],
        "learned": [1.0],
        "learning": [1.0],
        "not learning": [1],
    }
    asked, last = [], None

    def ask(module, arguments):
        asked.append((module, *arguments[:3]))
        if len(asked) == last:
            raise KeyboardInterrupt
        if module.endswith("cost_ratios"):
            return {"seconds": seconds, "limit": 1.0}
        return dict.fromkeys(("read", "token", "retained", "peak"), float(arguments[2])) | {"reads": [1.0]}

    monkeypatch.setattr(speed_and_memory, "ask", ask)
    last = 6
    with pytest.raises(KeyboardInterrupt):
        speed_and_memory.main(["--quick", "--device=cpu"])
    last, cut_off = None, asked.pop()
    speed_and_memory.main(["--quick", "--device=cpu"])
    rows = len(cost_ratios.PARTS) + len(by_length.SYSTEMS) * (3 + 2)  # 1K to 4K, eight rows to 2K
    assert asked[5] == cut_off and len(asked) == len(set(asked)) == rows
    assert (tmp_path / "speed_and_memory_quick_batch_8.png").exists()


@pytest.mark.slow
def test_on_a_gpu_published_shapes_are_measured_in_this_process_under_a_name_of_their_own(monkeypatch, tmp_path):
    """The device here is no GPU; that rows are asked for in this process, and what is written, is the same."""
    small = timed_models.SHAPES["llama-3.1-8b"].to_dict() | {
        "vocab_size": 100, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    }  # fmt: skip
    monkeypatch.setitem(timed_models.SHAPES, "llama-3.1-8b", LlamaConfig(**small))
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path)
    monkeypatch.setattr(speed_and_memory, "ask", here)
    monkeypatch.setattr(by_length, "limit_memory", lambda: None)  # of this process, which has other tests to run
    monkeypatch.setattr(cost_ratios, "DECODED", 2)
    arguments = ["--model=llama-3.1-8b", "--device=cpu", "--lengths", "1024", "--batches", "1"]
    speed_and_memory.main([*arguments, "--decoded=2", "--tokens=600", "--turns=1", "--window=300"])
    (path,) = tmp_path.glob("*.json")
    assert path.stem == "speed_and_memory_llama-3.1-8b_cpu"
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == len(cost_ratios.PARTS) + len(by_length.SYSTEMS)
    assert not any("failed" in row for row in rows.values()) and all(row for row in rows.values())
    page = path.with_suffix(".md").read_text()
    assert "llama-3.1-8b (its shapes, weights random, bfloat16), window 300" in page and "Batch 8" not in page
    assert [picture.name for picture in tmp_path.glob("*.png")] == [f"{path.stem}_batch_1.png"]


def test_what_fails_in_this_process_says_why(monkeypatch):
    def row(arguments):
        raise RuntimeError(f"no room for {arguments}")

    monkeypatch.setattr(by_length, "row", row)
    assert here("benchmarks.by_length", [SINKS]) == {"failed": f"RuntimeError: no room for {[SINKS]}"}
