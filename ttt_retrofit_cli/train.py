"""`train`: the outer loop over texts, a thin front of `TTTTrainer`."""

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Model, ModelOptions

if TYPE_CHECKING:
    from .output import Output


def train(
    out: "Output",
    model: Model,
    data: Annotated[list[Path], typer.Argument(help="UTF-8 texts, each one a document.", show_default=False)],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Directory to write; must not hold anything.", show_default=False)
    ],
    options: ModelOptions,
    held_out: Annotated[list[Path] | None, typer.Option(help="A text to evaluate on, before and after.")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 100,
    sequence_length: Annotated[int, typer.Option(help="In tokens, a multiple of the chunk.")] = 4096,
    gradients: Annotated[str, typer.Option(help="exact, truncated, first_order or none.")] = "exact",
    training: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Any field of TTTTrainingConfig.")
    ] = None,
) -> None:
    """Meta-learn where the fast weights start and how fast they learn."""
    from ttt_retrofit import ConfigError, MissingExtraError

    if find_spec("accelerate") is None:
        raise MissingExtraError("train", "accelerate", "train")
    from transformers import PrinterCallback, ProgressCallback

    from ttt_retrofit import TTTTrainer, TTTTrainingConfig
    from ttt_retrofit.outer.checkpoints import UNFINISHED, newest_whole

    from . import following
    from .contexts import read_text
    from .loading import load_model, load_tokenizer
    from .output import facts
    from .settings import settings
    from .targets import check_free

    # Checkpoints stand beside the target, which is written when all is done.
    out.stopped = "Stopped. The same command goes on from the last checkpoint."
    options = replace(options, dtype=options.dtype or "float32")
    documents, checks = [read_text(path) for path in data], [read_text(path) for path in held_out or ()]
    checkpoints = target.with_name(f"{target.name}-checkpoints")
    check_free(target)
    with out.aside.status(f"loading {model}"):
        learner, tokenizer = load_model(model, options), load_tokenizer(model, options)
    arguments = {
        "max_steps": steps,
        "sequence_length": sequence_length,
        "gradients": gradients,
        "per_device_train_batch_size": 1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": steps // 10,
        "save_steps": 25,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": learner.device.type == "cpu",
    } | settings(training or ())
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
        raise ConfigError(f"--training {' '.join(training or ())}: transformers refuses it. {error}") from None
    trainer = TTTTrainer(
        learner,
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
        trainer.add_callback(following.Follow(bars["steps"]))
        before = trainer.evaluate() if checks and begun is None else None
        outcome = trainer.train(resume_from_checkpoint=begun and str(begun))
        after = trainer.evaluate() if checks else None
    # Written beside the checkpoints, where the next run deletes what a kill has left of it.
    whole = checkpoints / UNFINISHED / target.name
    trainer.save_model(str(whole))
    whole.replace(target)
    shutil.rmtree(checkpoints, ignore_errors=True)
    document = {"model": model, "saved": str(target), "steps": outcome.global_step, "loss": outcome.training_loss}
    document |= {"evaluation_before": before, "evaluation": after}
    shown = {"saved in": str(target), "steps": str(outcome.global_step), "loss": f"{outcome.training_loss:.3f}"}
    if after is not None:
        shown["held out"] = _held_out(after) + ("" if before is None else f"; before: {_held_out(before)}")
    out.result(document, facts(shown))


def _held_out(metrics: dict[str, float]) -> str:
    gain = metrics.get("eval_gain")  # measured unless `evaluate_without_updates` is off
    return f"{metrics['eval_loss']:.3f} nats/token" + ("" if gain is None else f", {gain:+.3f} of it from updates")
