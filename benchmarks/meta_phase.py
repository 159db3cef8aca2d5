"""One meta-learning phase as the benchmarks run it: what is trained, how, and what a model is read with afterwards."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ttt_retrofit import TTTConfig, TTTTrainer, TTTTrainingConfig, wrap
from ttt_retrofit.meta.positions import chunk_losses

from .measure import full_attention
from .models import model_directory
from .texts import TUNING, many, text

TEXTS = ("anarchist-faq", "python-tutorial", "turtle", "pydecimal")  # an essay, documentation, code twice
DRAWS = 10_000  # of the bootstrap
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 97.5% quantiles of Student's t, by the number of seeds

Row = dict[str, dict[str, list[float]]]  # losses by chunk, by "off" or "on", by text


@dataclass(frozen=True)
class Setting:
    """What learns inside, and the outer rate that trains it well without updates.

    SmolLM2's matrices have entries ten times those of most models: at the trainer's default of 3e-5 the control would
    be half trained.
    """

    inner: dict[str, Any] = field(default_factory=dict)
    lr: float = 3e-4
    log_lr_lr: float = 0.05


SETTINGS = {
    "prime": Setting({"fast_weights": "prime", "rank": 128, "relative_lr": 1e-2, "max_relative_update": 1.0}, lr=1e-3),
    "default": Setting(),
    "sgd": Setting({"inner_optimizer": "sgd", "inner_lr": 2.0}),
    "sgd-low": Setting({"inner_optimizer": "sgd", "inner_lr": 0.1}, log_lr_lr=0.1),  # a twentieth of the best rate
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--setting", choices=list(SETTINGS), default="prime")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--sequence", type=int, default=2048, help="tokens of a training sequence")
    parser.add_argument("--tokens", type=int, default=8192, help="read of each test text")
    parser.add_argument("--train-on", choices=("five", "many"), default="five", help="texts, or pieces of many texts")
    parser.add_argument("--texts", nargs="+", default=list(TEXTS))


def config(options: argparse.Namespace) -> TTTConfig:
    return TTTConfig(sliding_window=options.window, chunk_size=options.chunk, **SETTINGS[options.setting].inner)


def base_model(options: argparse.Namespace) -> Any:
    """In full precision, in which what is trained is kept."""
    return AutoModelForCausalLM.from_pretrained(model_directory(options.model), dtype=torch.float32).eval()


def new_model(options: argparse.Namespace) -> Any:
    return wrap(base_model(options), config(options))


def test_ids(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """(1, `options.tokens`) of each test text; exits where one is shorter."""
    tokenizer = AutoTokenizer.from_pretrained(model_directory(options.model))
    ids = {name: tokenizer(text(name), return_tensors="pt").input_ids[:, : options.tokens] for name in options.texts}
    short = [name for name, tokens in ids.items() if tokens.shape[1] < options.tokens]
    if short:
        raise SystemExit(f"{short} have fewer than {options.tokens} tokens. Choose other --texts or fewer --tokens.")
    return ids


def without_window(options: argparse.Namespace, ids: dict[str, torch.Tensor]) -> dict[str, float]:
    """Nats per token of the base with full attention."""
    base = base_model(options)
    return {name: full_attention(base, tokens).mean for name, tokens in ids.items()}


def train(
    model: Any, gradients: str, steps: int, seed: int, options: argparse.Namespace, truncate_chunks: int = 3
) -> list[dict[str, Any]]:
    """Train in place; returns what was logged."""
    setting = SETTINGS[options.setting]
    with tempfile.TemporaryDirectory() as folder:
        args = TTTTrainingConfig(
            folder,
            gradients=gradients,
            truncate_chunks=truncate_chunks,
            sequence_length=options.sequence,
            max_steps=steps,
            per_device_train_batch_size=1,
            learning_rate=setting.lr,
            log_lr_learning_rate=setting.log_lr_lr,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 10,
            logging_steps=max(steps // 10, 1),
            save_strategy="no",
            report_to=[],
            bf16=gradients in ("none", "first_order"),  # second derivatives cost more than 16 bits save
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=seed,
            data_seed=seed,
        )
        documents = many() if options.train_on == "many" else [text(name) for name in TUNING]
        tokenizer = AutoTokenizer.from_pretrained(model_directory(options.model))
        trainer = TTTTrainer(model, args, documents, processing_class=tokenizer)
        trainer.train()
    return trainer.state.log_history


def measure(model: Any, ids: dict[str, torch.Tensor]) -> Row:
    """Losses of every chunk of every text, updates off and on."""
    model.eval()
    there = {name: tokens.to(model.device) for name, tokens in ids.items()}
    return {
        state: {
            name: chunk_losses(model, tokens, None, learn=state == "on")[0].tolist() for name, tokens in there.items()
        }
        for state in ("off", "on")
    }


def average(row: Row, state: str) -> float:
    """Over a row's texts, which weigh the same."""
    return sum(sum(losses) / len(losses) for losses in row[state].values()) / len(row[state])


def compare(ours: list[Row], control: list[Row]) -> dict[str, tuple[float, float, float]]:
    """Means and 95% intervals, over the seeds that are paired here, of what updates gain more than they gain the
    control (the interaction), everywhere and in the last quarter of the positions, and of the difference with updates
    on in both.
    """
    interaction, end = [], []
    for mine, its in zip(ours, control, strict=True):
        off, on = (
            {name: torch.tensor(mine[state][name]) - torch.tensor(its[state][name]) for name in mine[state]}
            for state in ("off", "on")
        )
        interaction.append({name: off[name] - on[name] for name in on})
        end.append(on)
    last = [{name: values[-(len(values) // 4 or 1) :] for name, values in seed.items()} for seed in interaction]
    return {"interaction": _interval(interaction), "in the last quarter": _interval(last), "end": _interval(end)}


def _interval(differences: list[dict[str, torch.Tensor]]) -> tuple[float, float, float]:
    """Mean and 95% interval of paired differences (one tensor of chunks for each text, for each seed).

    Of several seeds Student's, over their means; of one, a bootstrap over the chunks of each text. Texts are those that
    were chosen, and weigh the same.
    """
    means = torch.stack([torch.stack([values.mean() for values in seed.values()]).mean() for seed in differences])
    mean, count = means.mean().item(), len(means)
    if count > 1:
        reach = STUDENT[count] * (means.std() / count**0.5).item()
        return mean, mean - reach, mean + reach
    generator = torch.Generator().manual_seed(0)
    drawn = torch.zeros(DRAWS)
    for values in differences[0].values():
        chunks = torch.randint(len(values), (DRAWS, len(values)), generator=generator)
        drawn += values[chunks].mean(1) / len(differences[0])
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975])).tolist()
    return mean, low, high


def signed(values: tuple[float, float, float]) -> str:
    mean, low, high = values
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
