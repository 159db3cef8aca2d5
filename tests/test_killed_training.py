"""Training that is killed goes on: a checkpoint is whole or not there, and the newest whole one is resumed from."""

import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from commands import SMALL, run
from test_meta_trainer import converted, trainer
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from ttt_retrofit import CheckpointError, InputError
from ttt_retrofit.outer import checkpoints

EVERY, STEPS = 2, 6


def run_in(folder, **settings):
    """A training that writes three checkpoints and keeps two."""
    return trainer(
        folder, converted(fast_weights="lora"), max_steps=STEPS, save_strategy="steps", save_steps=EVERY,
        save_total_limit=2, gradients="first_order", **settings,
    )  # fmt: skip


def trained(folder) -> torch.Tensor:
    """What a run ends with that goes on from whatever it finds."""
    run = run_in(folder)
    run.train(resume_from_checkpoint=bool(checkpoints.numbered(Path(folder))))
    assert run.state.global_step == STEPS and STEPS in checkpoints.numbered(Path(folder))
    assert all(checkpoints.fault(path) is None for path in checkpoints.numbered(Path(folder)).values())
    assert not (Path(folder) / checkpoints.UNFINISHED).exists()
    return torch.cat([parameter.detach().flatten() for parameter in run.outer.all])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """A run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, trained(folder)


# What writing, sealing, renaming and deleting consist of.
MOMENTS = ("open", "mkdir", "rename", "replace", "fsync", "rmdir", "unlink", "rmtree")


def in_child(body, *args) -> int:
    """Run in a forked process; the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            body(*args)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def killed_at(folder, moment: int) -> None:
    """Train, and die at that moment of the writing of the second and third checkpoint."""
    left = [moment]
    run = run_in(folder)

    class Aim(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == EVERY + 1:  # the first checkpoint is written
                sys.addaudithook(shot)

    def shot(event: str, args: tuple) -> None:
        name = event.removeprefix("os.").removeprefix("shutil.")
        if name in MOMENTS and str(folder) in str(args):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    run.add_callback(Aim())
    run.train()


@pytest.mark.slow
def test_a_kill_at_any_moment_of_writing_costs_no_more_than_the_steps_since_the_last_checkpoint(tmp_path, whole):
    _, expected = whole
    survived = 0
    for moment in range(0, 200, 9):
        folder = tmp_path / str(moment)
        if in_child(killed_at, folder, moment) != signal.SIGKILL:
            break
        survived += 1
        found = checkpoints.newest_whole(folder)
        assert found is not None and all(checkpoints.fault(p) is None for p in checkpoints.numbered(folder).values())
        if moment % 3 == 0 or len(checkpoints.numbered(folder)) == 3:  # before, within and after the last one
            assert torch.equal(trained(folder), expected)
        shutil.rmtree(folder)
    assert survived > 4


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def nested(file: Path) -> None:
    file.write_text("[" * 100_000)


@pytest.mark.parametrize(
    "file, damage", [("optimizer.pt", pipe), ("trainer_state.json", nested), (checkpoints.SEAL, nested)]
)
def test_what_nobody_can_read_is_skipped(tmp_path, whole, file, damage):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    damage(folder / "checkpoint-6" / file)
    assert checkpoints.newest_whole(folder) == folder / "checkpoint-4"


@pytest.fixture
def warnings(caplog):
    transformers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield caplog
    transformers_logging.disable_propagation()


SEALED = [(file, damage, True) for file in FILES for damage in (truncate, flip, Path.unlink)]
# As transformers' Trainer writes it: not every flipped bit can be seen.
UNSEALED = [(file, damage, False) for file in FILES[:-1] for damage in (truncate, Path.unlink)]


@pytest.mark.parametrize("file, damage, sealed", [*SEALED, *UNSEALED])
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, whole, warnings, file, damage, sealed):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    damage(folder / "checkpoint-6" / file)
    if not sealed:
        for path in checkpoints.numbered(folder).values():
            (path / checkpoints.SEAL).unlink()
    assert checkpoints.newest_whole(folder) == folder / "checkpoint-4"
    assert "checkpoint-6 is not whole and is skipped" in warnings.text
    with pytest.raises(CheckpointError, match=r"checkpoint-6 is no whole checkpoint"):
        run_in(folder).train(resume_from_checkpoint=str(folder / "checkpoint-6"))


def test_a_run_goes_on_from_the_newest_whole_checkpoint_to_the_same_end(tmp_path, whole):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    truncate(folder / "checkpoint-6" / "model.safetensors")
    assert torch.equal(trained(folder), whole[1])


def test_a_run_without_a_whole_checkpoint_says_so(tmp_path, whole):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    for path in checkpoints.numbered(folder).values():
        truncate(path / "trainer_state.json")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .*run is whole"):
        run_in(folder).train(resume_from_checkpoint=True)


def test_an_interrupt_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    run = run_in(tmp_path)
    monkeypatch.setattr(run, "_save_rng_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.LOCK]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("PytorchStreamWriter failed writing")])
def test_a_full_disk_is_said_and_costs_no_checkpoint_that_was_there(tmp_path, whole, monkeypatch, error):
    def full(*args):
        raise error

    folder = shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoint-6")
    run = run_in(folder)
    monkeypatch.setattr(run, "_save_rng_state", full)
    with pytest.raises(CheckpointError, match=r"checkpoint-6 could not be written: .*Make room"):
        run.train(resume_from_checkpoint=True)
    assert [*checkpoints.numbered(folder)] == [4] and not (folder / checkpoints.UNFINISHED).exists()


def test_a_second_training_in_the_same_directory_is_refused(tmp_path):
    with checkpoints.held(tmp_path), pytest.raises(InputError, match="Another training writes into"):
        run_in(tmp_path).train()


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_named_where_it_stands(tmp_path):
    data = [[5, 6, 7, 8] * 10 for _ in range(4)]
    run = run_in(tmp_path, eval_dataset=data, eval_strategy="steps", eval_steps=EVERY, load_best_model_at_end=True)
    run.train()
    best = Path(run.state.best_model_checkpoint)
    assert best.parent == tmp_path and checkpoints.fault(best) is None
    newest = checkpoints.newest_whole(tmp_path)
    assert json.loads((newest / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)


def test_a_limit_keeps_the_newest_and_those_that_are_named(tmp_path):
    for step in (2, 4, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    checkpoints.rotate(tmp_path, None, set())
    assert [*checkpoints.numbered(tmp_path)] == [2, 4, 10, 12]
    checkpoints.rotate(tmp_path, 2, {tmp_path / "checkpoint-2", tmp_path / "checkpoint-10"})
    assert [*checkpoints.numbered(tmp_path)] == [2, 10]
    assert (tmp_path / "checkpoint-best").exists()


@pytest.mark.slow
def test_the_verb_goes_on_after_a_kill_while_it_writes_a_checkpoint(base, story, tmp_path):
    """A broken directory under the newest name, as earlier versions left it, does not end it either."""
    target = tmp_path / "tuned"
    arguments = ["train", base, story, target, "--steps", "6", "--sequence-length", "32", *SMALL]
    arguments += ["--gradients", "first_order", "--training", "save_steps=2"]

    def killed() -> None:
        def shot(event: str, args: tuple) -> None:
            if event == "open" and "checkpoint-4/optimizer.pt" in str(args):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(shot)
        run(*arguments)

    assert in_child(killed) == signal.SIGKILL
    left = tmp_path / "tuned-checkpoints"
    assert sorted(path.name for path in left.iterdir()) == [checkpoints.LOCK, checkpoints.UNFINISHED, "checkpoint-2"]
    (left / "checkpoint-4").mkdir()
    (left / "checkpoint-4" / "model.safetensors").write_bytes(b"cut")
    result = run(*arguments, "--json")
    assert "Going on from" in result.stderr and "checkpoint-2" in result.stderr
    assert json.loads(result.stdout)["steps"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]
