"""A Trainer whose checkpoints are complete or absent, and which resumes from the newest complete one.

transformers' own writes a checkpoint file by file into its place, and takes the newest directory for a checkpoint.
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..errors import CheckpointError
from . import checkpoints

UNWRITTEN = (OSError, SafetensorError, RuntimeError)  # what a full disk raises, by who writes; torch has the last


class ResumableTrainer(Trainer):
    """transformers' Trainer, whose checkpoints are written beside their place and renamed into it."""

    _writing: Path | None = None  # the directory of the checkpoint in progress

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; `resume_from_checkpoint=True` goes on from the newest checkpoint that is whole.

        A warning names newer ones. What a killed run left of a checkpoint is deleted.

        Raises
        ------
        CheckpointError
            When the checkpoint that is named, or every one there is, is not whole.
        InputError
            When another training writes into the same directory.
        """
        folder = Path(self._get_output_dir(trial))
        with checkpoints.held(folder) if self.accelerator.is_main_process else nullcontext():
            return self._train(folder, resume_from_checkpoint, trial, *args, **kwargs)

    def _train(self, folder: Path, resume_from_checkpoint: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
        if self.accelerator.is_local_main_process:
            checkpoints.remove_unfinished(folder)
        if resume_from_checkpoint is True and checkpoints.numbered(folder):
            resume_from_checkpoint = self._newest_whole(folder)
        elif isinstance(resume_from_checkpoint, (str, os.PathLike)):
            checkpoints.check_whole(Path(resume_from_checkpoint))
            resume_from_checkpoint = os.fspath(resume_from_checkpoint)
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            if 0 < self.args.max_steps <= state.global_step:
                return self._as_it_ended(resume_from_checkpoint, state)
        return super().train(resume_from_checkpoint, trial, *args, **kwargs)

    def _as_it_ended(self, checkpoint: str, state: TrainerState) -> TrainOutput:
        """A run that was killed after its last step. Trainer would take one more."""
        self._load_from_checkpoint(checkpoint)
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        return TrainOutput(state.global_step, sum(losses) / len(losses) if losses else math.nan, {})

    def _newest_whole(self, folder: Path) -> str:
        found = [checkpoints.newest_whole(folder) if self.accelerator.is_main_process else None]
        broadcast_object_list(found)  # one choice for all processes
        if found[0] is None:
            raise CheckpointError(f"No checkpoint in {folder} is whole. Move them away, and train anew.")
        return str(found[0])

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._writing is None else str(self._writing)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainer's, written beside its place and renamed into it when all processes are done."""
        folder = Path(self._get_output_dir(trial))
        self._writing = folder / checkpoints.UNFINISHED
        unfinished = self._writing / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self._name_best(folder, unfinished)
            written = self._put_in_place(folder, unfinished)
        except UNWRITTEN as error:
            raise CheckpointError(
                f"{folder / unfinished.name} could not be written: {error}. Make room, and resume from the checkpoint "
                "before it with resume_from_checkpoint=True."
            ) from error
        finally:
            self._writing = None
            if self.accelerator.is_local_main_process:
                checkpoints.remove_unfinished(folder)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(written))
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            checkpoints.rotate(folder, self.args.save_total_limit, {written, Path(best or written)})

    def _name_best(self, folder: Path, unfinished: Path) -> None:
        """Where the best checkpoint, which may be the one in progress, will stand."""
        step = self.state.best_global_step
        if step == self.state.global_step or step in checkpoints.numbered(folder):
            self.state.best_model_checkpoint = str(folder / f"{PREFIX_CHECKPOINT_DIR}-{step}")
        if self.args.should_save:
            self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))

    def _put_in_place(self, folder: Path, unfinished: Path) -> Path:
        # In the second round, where nodes have disks of their own.
        for mine in (self.accelerator.is_main_process, self.accelerator.is_local_main_process):
            self.accelerator.wait_for_everyone()
            if mine and unfinished.exists():
                checkpoints.seal(unfinished)
                checkpoints.put_in_place(unfinished, folder)
        self.accelerator.wait_for_everyone()
        return folder / unfinished.name

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Trainer's, of a checkpoint that is in its place: it is uploaded in the background."""
        if self._writing is None:
            super()._push_from_checkpoint(checkpoint_folder)
