"""`train`: the outer loop over texts, a thin front of `TTTTrainer`."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerControl, TrainerState

from ttt_retrofit.errors import ConfigError, MissingExtraError

from .contexts import read_text
from .loading import Choices, check_free, load_model, load_tokenizer, settings
from .output import Advance, Output, facts


class Follow(TrainerCallback):
    """Moves a bar on stderr; Trainer's own callbacks print on stdout."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.advance(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.advance(1)


def train(
    out: Output,
    name: str,
    data: list[Path],
    target: Path,
    held_out: list[Path],
    steps: int,
    length: int,
    gradients: str,
    said: list[str],
    choices: Choices,
    device: str | None,
) -> None:
    """Tune where the fast weights start and how fast they learn; write the result to `target` when all is done.

    Checkpoints stand beside it while it trains; the same command goes on from the last one.
    """
    if find_spec("accelerate") is None:
        raise MissingExtraError("train", "accelerate", "train")
    from ttt_retrofit.outer.checkpoints import UNFINISHED, newest_whole
    from ttt_retrofit.outer.config import TTTTrainingConfig
    from ttt_retrofit.outer.trainer import TTTTrainer

    documents, checks = [read_text(path) for path in data], [read_text(path) for path in held_out]
    checkpoints = target.with_name(f"{target.name}-checkpoints")
    check_free(target)
    with out.aside.status(f"loading {name}"):
        model, tokenizer = load_model(name, choices, device, torch.float32), load_tokenizer(name, choices)
    arguments = {
        "max_steps": steps,
        "sequence_length": length,
        "gradients": gradients,
        "per_device_train_batch_size": 1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": steps // 10,
        "save_steps": 25,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": model.device.type == "cpu",
    } | settings(said)
    if "output_dir" in arguments:
        raise ConfigError(f"output_dir={arguments['output_dir']!r}: checkpoints stand beside the target, {target}.")
    unknown = sorted(set(arguments) - set(TTTTrainingConfig.__dataclass_fields__))
    if unknown:
        raise ConfigError(f"Unknown fields of TTTTrainingConfig {unknown}, such as learning_rate or save_steps.")
    try:
        args = TTTTrainingConfig(str(checkpoints), **arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:  # of transformers, for fields that are its own
        raise ConfigError(f"--training {' '.join(said)}: transformers refuses it. {error}") from None
    trainer = TTTTrainer(
        model,
        args,
        documents,
        eval_dataset=checks or None,
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    begun = newest_whole(checkpoints)
    if begun is not None:
        out.remark(f"Going on from {begun}.")
    with out.bars(["steps"], arguments["max_steps"]) as bars:
        trainer.add_callback(Follow(bars["steps"]))
        before = trainer.evaluate() if checks and begun is None else None
        outcome = trainer.train(resume_from_checkpoint=begun and str(begun))
        after = trainer.evaluate() if checks else None
    # Written beside the checkpoints, where the next run deletes what a kill has left of it.
    whole = checkpoints / UNFINISHED / target.name
    trainer.save_model(str(whole))
    whole.replace(target)
    shutil.rmtree(checkpoints, ignore_errors=True)
    document = {"model": name, "saved": str(target), "steps": outcome.global_step, "loss": outcome.training_loss}
    document |= {"evaluation_before": before, "evaluation": after}
    shown = {"saved in": str(target), "steps": str(outcome.global_step), "loss": f"{outcome.training_loss:.3f}"}
    if after is not None:
        shown["held out"] = _held_out(after) + ("" if before is None else f"; before: {_held_out(before)}")
    out.result(document, facts(shown))


def _held_out(metrics: dict[str, float]) -> str:
    gain = metrics.get("eval_gain")  # measured unless `evaluate_without_updates` is off
    return f"{metrics['eval_loss']:.3f} nats/token" + ("" if gain is None else f", {gain:+.3f} of it from updates")
