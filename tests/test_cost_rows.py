"""Rows and tables about cost: states are carried from step to step, and what was not measured is marked."""

import json
from argparse import Namespace

import pytest
import torch
from tiny import tiny

from benchmarks import context_length, context_length_report, recurrent, recurrent_models
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


def test_a_system_that_cannot_run_stays_in_the_table_and_says_why():
    rows = {FULL: {"failed": "ImportError: a | b"}, SINKS: dict.fromkeys(("parameters", "read", "token", "state"), 1)}
    rows[SINKS]["peak"] = None
    table = recurrent.report(rows, {FULL: "Llama", SINKS: "window"}, {"tokens": 8, "decoded": 2, "device": "cpu"})
    (failed,) = (line for line in table if line.startswith(f"| {FULL}"))
    assert "cannot run: ImportError: a \\| b" in failed
    assert any(line.startswith(f"| {SINKS} |") for line in table)


def made_up(limit):
    """Rows whose costs are known: full attention with a square, windows without; the longest row failed."""
    rows = {system: {} for system in context_length.SYSTEMS}
    for length in (n for n in context_length.LENGTHS if n <= limit):
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


def test_what_was_not_measured_is_extrapolated_and_marked_and_break_even_is_where_the_costs_cross(tmp_path):
    settings = {"model": "m", "window": WINDOW, "device": "cpu", "decoded": 1, "reads": 1, "read_tokens": 8192}
    lines, derived = context_length_report.report({1: made_up(16384)}, context_length.LENGTHS, settings)
    seconds = lines[lines.index("### Batch 1: seconds to read") : lines.index("### Batch 1: milliseconds per token")]
    by_length = {line.split(" | ")[0]: line.split(" | ")[1:] for line in seconds if line.startswith("| ")}
    assert by_length["| 8,192"][:2] == ["75.3", "41"]
    assert by_length["| 16,384"][:2] == ["285, extrapolated", "81.9"]
    assert by_length["| 2,097,152"][:2] == ["4,400,000, extrapolated", "10,500, extrapolated"]
    assert any("16,384 tokens: no memory" in line for line in lines)
    crossing = derived["break_even"][1][SINKS]
    assert crossing == {"read": "4,000", "token": "10,000, extrapolated", "retained": "5,000", "peak": "5,000"}
    context_length_report.draw(made_up(16384), context_length.LENGTHS, tmp_path / "it.png", "made up")
    assert (tmp_path / "it.png").stat().st_size > 10_000


@pytest.mark.parametrize("system", context_length.SYSTEMS)
def test_a_row_is_measured_on_as_many_rows_and_tokens_as_it_says(system, monkeypatch):
    model = tiny("llama")
    seen = []
    monkeypatch.setattr(context_length, "model_directory", lambda name: name)
    monkeypatch.setattr(context_length, "text", lambda name: "a text")
    monkeypatch.setattr(context_length.AutoModelForCausalLM, "from_pretrained", lambda directory: model)
    ids = Namespace(input_ids=list(range(90)))
    monkeypatch.setattr(context_length.AutoTokenizer, "from_pretrained", lambda directory: lambda text: ids)
    monkeypatch.setattr(context_length, "state_bytes", lambda cache: seen.append(cache.get_seq_length()) or 1)
    options = Namespace(model="tiny", window=WINDOW, text="a text", device="cpu", decoded=2)
    row = context_length.measure(system, 2, 600, options)
    assert seen == [600] and len(row["reads"]) == context_length.READS
    assert row["read"] == min(row["reads"]) > 0 and row["token"] > 0
    assert json.loads(json.dumps(row)) == row


def test_rows_of_a_batch_follow_one_another_in_a_text_that_is_repeated():
    assert context_length.rows_of([1, 2, 3, 4, 5], 2, 4).tolist() == [[1, 2, 3, 4], [5, 1, 2, 3]]
