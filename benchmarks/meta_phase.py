"""One meta-learning phase as the benchmarks run it: what is trained, how, and what a model is read with afterwards."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from ttt_retrofit import TTTConfig, TTTTrainer, TTTTrainingConfig, wrap
from ttt_retrofit.outer.positions import chunk_losses

from .harness.loading import base_model as base_model_of
from .harness.loading import tokenizer_of
from .harness.machine import DEVICE
from .measure import full_attention
from .meta_tables import Row
from .texts import TUNING, beginnings, many, text

TEXTS = ("anarchist-faq", "python-tutorial", "turtle", "pydecimal")  # an essay, documentation, code twice


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
    parser.add_argument("--batch", type=int, default=1, help="sequences of a step")
    parser.add_argument("--tokens", type=int, default=8192, help="read of each test text")
    parser.add_argument("--train-on", choices=("five", "many"), default="five", help="texts, or pieces of many texts")
    parser.add_argument("--texts", nargs="+", default=list(TEXTS))


def config(options: argparse.Namespace) -> TTTConfig:
    return TTTConfig(sliding_window=options.window, chunk_size=options.chunk, **SETTINGS[options.setting].inner)


def in_words(options: argparse.Namespace, steps: str) -> str:
    """What is trained on what, and what is read."""
    batch = "one sequence" if options.batch == 1 else f"{options.batch} sequences"
    return (
        f"{options.model}, {config(options).in_words}; {steps} of {batch} of {options.sequence:,} tokens (texts: "
        f"{options.train_on}); read over {options.tokens:,} tokens of {', '.join(options.texts)}."
    )


def base_model(options: argparse.Namespace) -> Any:
    """In full precision, in which what is trained is kept."""
    return base_model_of(options.model, torch.float32, DEVICE)


def new_model(options: argparse.Namespace) -> Any:
    return wrap(base_model(options), config(options))


def test_ids(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """(1, `options.tokens`) of each test text; exits where one is shorter."""
    return beginnings(options.texts, tokenizer_of(options.model), options.tokens)


def without_window(options: argparse.Namespace, ids: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Losses of every chunk of every text, of the base with full attention: of the tokens that `measure` counts."""
    base = base_model(options)
    # The first token of a chunk is predicted by the chunk before it, which `measure` leaves out.
    read = {name: functional.pad(full_attention(base, tokens).losses, (0, 1)) for name, tokens in ids.items()}
    return {name: losses.view(-1, options.chunk)[:, :-1].mean(1).tolist() for name, losses in read.items()}


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
            per_device_train_batch_size=options.batch,
            learning_rate=setting.lr,
            log_lr_learning_rate=setting.log_lr_lr,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 10,
            logging_steps=max(steps // 10, 1),
            save_strategy="no",
            report_to=[],
            # The activations of several long sequences, which plain fine-tuning keeps, take tens of gigabytes.
            gradient_checkpointing=gradients == "none" and options.sequence * options.batch > 8192,
            bf16=gradients in ("none", "first_order"),  # second derivatives cost more than 16 bits save
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=seed,
            data_seed=seed,
        )
        documents = many(options.sequence) if options.train_on == "many" else [text(name) for name in TUNING]
        tokenizer = tokenizer_of(options.model)
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
