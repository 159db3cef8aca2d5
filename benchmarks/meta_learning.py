"""Does a short meta-learning phase make updates worth more? Against plain fine-tuning with the same budget.

Every system is trained on the tuning texts, with the same steps over the same tokens and the same parameters, and read
with updates off and on over texts of other authors and kinds. Two questions: is what updates gain larger than for the
control (the interaction), and does the trained model with updates on end below the control with updates on.

A row that was measured with the same settings is kept, so a run that was cut off goes on where it stopped.

    python -m benchmarks.meta_learning                 # three seeds; window 512
    python -m benchmarks.meta_learning --window 256
    python -m benchmarks.meta_learning --quick         # one seed, few steps, two texts: to see that it runs
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any, get_args

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from ttt_retrofit import TTTConfig, TTTTrainer, TTTTrainingConfig, wrap
from ttt_retrofit.config import OptimizerName
from ttt_retrofit.meta.positions import chunk_losses

from .measure import full_attention
from .models import model_directory
from .results import DIRECTORY, machine, markdown_table, save
from .texts import TUNING, many, text

NAME = "meta_learning"
BASE, CONTROL = "base", "control"
GRADIENTS = {CONTROL: "none", "first order": "first_order", "truncated": "truncated", "exact": "exact"}
TEXTS = ("anarchist-faq", "python-tutorial", "turtle", "pydecimal")  # an essay, documentation, code twice
DRAWS = 10_000  # of the bootstrap

Row = dict[str, dict[str, list[float]]]  # losses by chunk, by "off" or "on", by text


def config(options: argparse.Namespace) -> TTTConfig:
    return TTTConfig(
        sliding_window=options.window,
        chunk_size=options.chunk,
        layers=options.layers,
        fast_weights=options.fast_weights,
        rank=options.rank,
        inner_optimizer=options.inner_optimizer,
        inner_lr=options.inner_lr,
        relative_lr=options.relative_lr,
        max_relative_update=options.trust_region,
    )


def train(model: Any, tokenizer: Any, gradients: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train in place; returns what was logged."""
    with tempfile.TemporaryDirectory() as folder:
        args = TTTTrainingConfig(
            folder,
            gradients=gradients,
            truncate_chunks=options.truncate_chunks,
            sequence_length=options.sequence,
            max_steps=options.steps,
            per_device_train_batch_size=1,
            learning_rate=options.lr,
            log_lr_learning_rate=options.log_lr_lr,
            lr_scheduler_type="cosine",
            warmup_steps=options.steps // 10,
            logging_steps=max(options.steps // 10, 1),
            save_strategy="no",
            report_to=[],
            bf16=options.bf16 and gradients in ("none", "first_order"),
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=seed,
            data_seed=seed,
        )
        documents = many() if options.train_on == "many" else [text(name) for name in TUNING]
        trainer = TTTTrainer(model, args, documents, processing_class=tokenizer)
        trainer.train()
    return trainer.state.log_history


def measure(model: Any, ids: dict[str, torch.Tensor]) -> dict[str, Row]:
    """Losses of every chunk of every text, updates off and on."""
    return {
        "off": {name: chunk_losses(model, tokens, None, learn=False)[0].tolist() for name, tokens in ids.items()},
        "on": {name: chunk_losses(model, tokens, None, learn=True)[0].tolist() for name, tokens in ids.items()},
    }


def interval(differences: list[dict[str, torch.Tensor]]) -> tuple[float, float, float]:
    """Mean and 95% interval of paired differences (one tensor of chunks for each text, for each seed).

    A bootstrap over seeds and, within each text, over its chunks; texts are those that were chosen, and weigh the same.
    """
    generator = torch.Generator().manual_seed(0)
    texts = list(differences[0])
    by_text = {name: torch.stack([seed[name] for seed in differences]) for name in texts}  # (seeds, chunks)
    seeds = torch.randint(len(differences), (DRAWS, len(differences)), generator=generator)
    drawn = torch.zeros(DRAWS)
    for values in by_text.values():
        chunks = torch.randint(values.shape[1], (DRAWS, values.shape[1]), generator=generator)
        drawn += values[seeds[:, :, None], chunks[:, None, :]].mean((1, 2)) / len(texts)
    mean = sum(values.mean().item() for values in by_text.values()) / len(texts)
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975])).tolist()
    return mean, low, high


def compare(rows: dict[str, Any], system: str, seeds: int) -> dict[str, tuple[float, float, float]]:
    """Both questions, and the interaction in the last quarter of the positions."""
    interaction, end = [], []
    for seed in range(seeds):
        ours, control = rows[f"{system}, seed {seed}"], rows[f"{CONTROL}, seed {seed}"]
        off, on = (
            {name: torch.tensor(ours[state][name]) - torch.tensor(control[state][name]) for name in ours[state]}
            for state in ("off", "on")
        )
        interaction.append({name: off[name] - on[name] for name in on})
        end.append(on)
    last = [{name: values[-(len(values) // 4 or 1) :] for name, values in seed.items()} for seed in interaction]
    return {"interaction": interval(interaction), "in the last quarter": interval(last), "end": interval(end)}


def report_lines(rows: dict[str, Any], options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    systems = [BASE, *[name for name in GRADIENTS if f"{name}, seed 0" in rows]]
    table, compared = [], {}
    for system in systems:
        seeds = [rows[BASE]] if system == BASE else [rows[f"{system}, seed {seed}"] for seed in range(options.seeds)]
        off, on = ([_mean(row[state]) for row in seeds] for state in ("off", "on"))
        quarters = [sum(_quarter(row["on"], q) for row in seeds) / len(seeds) for q in range(4)]
        spread = max(on) - min(on)
        table.append(
            [system, f"{_average(off):.4f}", f"{_average(on):.4f}", f"{_average(off) - _average(on):.4f}",
             f"{spread:.4f}", *(f"{quarter:.3f}" for quarter in quarters)]
        )  # fmt: skip
        if system not in (BASE, CONTROL):
            compared[system] = compare(rows, system, options.seeds)
    full, listed = rows["full attention"], ", ".join(options.texts)
    header = ["system", "updates off", "on", "gain", "range of on", "1st quarter", "2nd", "3rd", "last"]
    lines = [
        f"{options.model}, {config(options).in_words}; "
        f"{options.steps} steps of one sequence of {options.sequence:,} tokens on {len(TUNING)} texts, "
        f"{options.seeds} seeds; read over {options.tokens:,} tokens of {listed}.",
        "",
        f"Full attention of the base over the same texts: {sum(full.values()) / len(full):.4f} nats/token.",
        "",
        *markdown_table(header, table),
        "",
        *markdown_table(
            ["against the control", "interaction", "in the last quarter", "updates on in both, difference"],
            [[system, *(_interval(values[name]) for name in ("interaction", "in the last quarter", "end"))]
             for system, values in compared.items()],
        ),
        "",
        "Positive interactions and negative differences speak for meta-learning; 95% intervals by bootstrap over seeds "
        "and chunks.",
        "",
    ]  # fmt: skip
    return lines, compared


def _average(values: list[float]) -> float:
    return sum(values) / len(values)


def _mean(row: Row | Any) -> float:
    return _average([_average(losses) for losses in row.values()])


def _quarter(row: Any, quarter: int) -> float:
    return _average([torch.tensor(losses).tensor_split(4)[quarter].mean().item() for losses in row.values()])


def _interval(values: tuple[float, float, float]) -> str:
    mean, low, high = values
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--layers", default="middle")
    parser.add_argument("--fast-weights", default="delta")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--inner-optimizer", choices=get_args(OptimizerName), default="adam")
    parser.add_argument("--inner-lr", type=float, help="default: in units of each matrix")
    parser.add_argument("--relative-lr", type=float, help="in units of each matrix")
    parser.add_argument("--trust-region", type=float, default=TTTConfig.max_relative_update)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--sequence", type=int, default=2048, help="tokens of a training sequence")
    parser.add_argument("--tokens", type=int, default=8192, help="read of each test text")
    parser.add_argument("--lr", type=float, default=3e-4, help="outer; 3e-5 leaves the control half trained")
    parser.add_argument("--log-lr-lr", type=float, default=0.05)
    parser.add_argument("--bf16", action="store_true", help="mixed precision, but for second derivatives")
    parser.add_argument("--truncate-chunks", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-on", choices=("five", "many"), default="five", help="texts, or pieces of many texts")
    parser.add_argument("--texts", nargs="+", default=list(TEXTS))
    parser.add_argument("--systems", nargs="+", choices=list(GRADIENTS), default=list(GRADIENTS))
    parser.add_argument("--label", default="", help="of other settings: results are kept under a name of their own")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.steps, options.sequence, options.tokens = 1, 6, 1024, 2048
        options.texts = options.texts[:2]

    settings = {name: value for name, value in vars(options).items() if name not in ("seeds", "systems")}
    name = "_".join(filter(None, [NAME, str(options.window), options.label, "quick" if options.quick else ""]))
    stored = DIRECTORY / f"{name}.json"
    rows: dict[str, Any] = {}
    if stored.exists() and (before := json.loads(stored.read_text()))["settings"] == settings:
        rows = before["rows"]
    report: dict[str, Any] = {"settings": settings, "machine": machine(), "rows": rows}

    console = Console()
    directory = model_directory(options.model)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = {name: tokenizer(text(name), return_tensors="pt").input_ids[:, : options.tokens] for name in options.texts}
    short = [name for name, tokens in ids.items() if tokens.shape[1] < options.tokens]
    if short:
        raise SystemExit(f"{short} have fewer than {options.tokens} tokens. Choose other --texts or fewer --tokens.")
    if "full attention" not in rows:
        base = AutoModelForCausalLM.from_pretrained(directory).eval()
        rows["full attention"] = {name: full_attention(base, tokens).mean for name, tokens in ids.items()}
    wanted = [(BASE, 0), *((system, seed) for seed in range(options.seeds) for system in options.systems)]
    for system, seed in wanted:
        key = system if system == BASE else f"{system}, seed {seed}"
        if key in rows:
            continue
        console.print(f"{key} …")
        model = wrap(AutoModelForCausalLM.from_pretrained(directory).eval(), config(options))
        log = [] if system == BASE else train(model, tokenizer, GRADIENTS[system], seed, options)
        rates = [site.rate(model.ttt).item() for site in model.sites]
        rows[key] = measure(model.eval(), ids) | {"log": log, "rates": rates}
        save(name, report, ["Not finished."])
    lines, report["compared"] = report_lines(rows, options)
    save(name, report, lines)
    console.print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
