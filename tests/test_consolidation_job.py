"""A consolidation in the background: it is cancelled, paused, killed, and goes on where it was."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from consolidated import consolidate
from converted import logits, speaker
from remembered import digests
from tiny import tokens
from transformers.utils import logging
from words import OTHER_STORY

from ttt_retrofit import Cancelled, InputError
from ttt_retrofit.consolidation.study import answers
from ttt_retrofit.consolidation.verify import verification as verify
from ttt_retrofit.consolidation.writer import Writer


@pytest.fixture
def model():
    return speaker()


@pytest.mark.slow
def test_a_background_job_reports_progress_while_the_model_answers_as_before(model, tmp_path):
    ids = tokens(1, 20)
    before, seen, done = logits(model, ids), [], []
    job = consolidate(
        model, directory=tmp_path, background=True, budget={"steps": 20}, on_done=done.append,
        progress=lambda progress: seen.append(progress.stage),
    )  # fmt: skip
    while not job.done():
        if model.memory is None:
            assert torch.equal(logits(model, ids), before) or model.memory is not None
    memory = job.result(60)
    deadline = time.monotonic() + 10
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)
    assert done == [memory] and model.memory is memory
    assert list(dict.fromkeys(seen))[-3:] == ["train", "verify", "done"]
    assert job.progress.stage == "done"
    assert sum(memory.report.seconds.values()) == pytest.approx(job.progress.seconds)


def _stop_at(stage: str, step: int):
    """Cancels the job in whose progress that step appears."""
    found = []

    def watch(progress):
        if progress.stage == stage and progress.done >= step:
            found[0].cancel()

    return found, watch


@pytest.mark.parametrize("stage", ["answers", "general", "train", "verify"])
def test_cancelling_at_any_stage_leaves_everything_as_it_was(model, tmp_path, stage):
    before = logits(model, tokens(1, 20))
    found, watch = _stop_at(stage, 0)
    started = []

    def progress(now):
        while not started:
            time.sleep(0.001)
        watch(now)

    job = consolidate(model, directory=tmp_path, background=True, progress=progress)
    found.append(job)
    started.append(True)
    with pytest.raises(Cancelled):
        job.result(60)
    assert model.memory is None
    assert torch.equal(logits(model, tokens(1, 20)), before)
    kept = any(tmp_path.rglob("*.safetensors"))
    assert kept == (stage != "answers")
    assert kept or not any(tmp_path.iterdir()), "an empty directory is left"


@pytest.mark.slow
def test_a_cancelled_job_goes_on_where_it_was_and_ends_the_same(model, tmp_path, monkeypatch):
    monkeypatch.setattr("ttt_retrofit.consolidation.work_directory.SAVE_EVERY", 0.0)
    whole = consolidate(model, directory=tmp_path / "whole", budget={"steps": 6})
    model.reset_memory()
    found, watch = _stop_at("train", 4)
    started = []

    def progress(now):
        while not started:
            time.sleep(0.001)
        watch(now)

    job = consolidate(model, directory=tmp_path / "parts", budget={"steps": 6}, background=True, progress=progress)
    found.append(job)
    started.append(True)
    with pytest.raises(Cancelled):
        job.result(60)
    seen = []
    resumed = consolidate(
        model, directory=tmp_path / "parts", budget={"steps": 6}, progress=lambda p: seen.append((p.stage, p.done))
    )
    assert "answers" not in {stage for stage, _ in seen}
    assert min(done for stage, done in seen if stage == "train") == 4
    assert digests(resumed) == digests(whole)


@pytest.mark.slow
def test_a_study_that_was_cut_off_goes_on_in_its_middle(model, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "BATCH", 1)
    written, write = [], Writer._batch

    def counted(writer, prompts, *how):
        given = write(writer, prompts, *how)
        written.append(prompts)
        return given

    monkeypatch.setattr(Writer, "_batch", counted)
    whole = consolidate(model, directory=tmp_path / "whole")
    model.reset_memory()
    asked = list(written)
    written.clear()
    monkeypatch.setattr(Writer, "_batch", lambda *given: counted(*given) if len(written) < 5 else pytest.fail())
    with pytest.raises(pytest.fail.Exception):
        consolidate(model, directory=tmp_path / "parts")
    monkeypatch.setattr(Writer, "_batch", counted)
    resumed = consolidate(model, directory=tmp_path / "parts")
    assert written == asked, "something was written twice, or left out"
    assert digests(resumed) == digests(whole)
    assert not any((tmp_path / "parts").iterdir())


@pytest.mark.slow
def test_pausing_stops_the_work_until_it_is_resumed(model, tmp_path):
    job = consolidate(model, directory=tmp_path, background=True, budget={"steps": 30})
    job.pause()
    time.sleep(0.5)
    before = job.progress
    time.sleep(0.5)
    assert job.progress == before and not job.done()
    job.resume()
    assert job.result(60).report.accepted


@pytest.mark.slow
def test_a_memory_loaded_meanwhile_is_not_replaced(model, tmp_path):
    first = consolidate(model, directory=tmp_path)
    model.reset_memory()
    loaded = threading.Event()
    job = consolidate(model, OTHER_STORY, directory=tmp_path, background=True, progress=lambda now: loaded.wait(60))
    model.load_memory(first)
    loaded.set()
    assert "loaded meanwhile" in job.result(300).report.reason
    assert model.memory is first


SCRIPT = """
import sys
import threading
sys.path.insert(0, {tests!r})
import ttt_retrofit.consolidation.work_directory as work
work.SAVE_EVERY = 0.0
from consolidated import consolidate
from converted import speaker
model = speaker()
def show(progress):
    print(progress.stage, progress.done, flush=True)
consolidate(model, directory={directory!r}, budget={{"steps": 100000}}, epochs=100000, progress=show, enough_recall=1.0)
"""


@pytest.mark.slow
def test_a_killed_consolidation_goes_on_where_it_was(tmp_path, model):
    script = SCRIPT.format(tests=os.path.dirname(__file__), directory=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.split() == ["train", "20"]:
                break
        process.send_signal(signal.SIGKILL)
    seen = []
    job = consolidate(
        model, directory=tmp_path, budget={"steps": 100000}, epochs=100000, enough_recall=1.0, background=True,
        progress=lambda p: seen.append((p.stage, p.done)),
    )  # fmt: skip
    while not any(stage == "train" for stage, _ in seen):
        time.sleep(0.01)
    job.cancel()
    with pytest.raises(Cancelled):
        job.result(60)
    assert "answers" not in {stage for stage, _ in seen}
    assert next(done for stage, done in seen if stage == "train") >= 18


def test_two_processes_do_not_work_on_the_same(model, tmp_path):
    job = consolidate(model, directory=tmp_path, background=True, budget={"steps": 1000})
    job.pause()
    while job.progress.stage == "waiting":  # the first stage begins once the work is held
        time.sleep(0.01)
    with pytest.raises(InputError, match="Another process is consolidating"):
        consolidate(model, directory=tmp_path, budget={"steps": 1000})
    job.cancel()


@pytest.mark.parametrize("background", [False, True])
def test_progress_is_one_bar_with_the_stage_and_the_time_left_of_it(model, tmp_path, capsys, background):
    logging.enable_progress_bar()
    made = consolidate(model, directory=tmp_path, budget={"steps": 6}, progress=True, background=background)
    if background:
        made.result(60)
    seen = capsys.readouterr().err
    assert re.search(r"train: +33%\|.*\| 2/6 \[00:\d\d, 00:\d\d left\]", seen) and "verify: " in seen
    assert seen.endswith("\n") and seen.count("\n") == 1  # it is closed, and there is no other


def test_a_bar_is_closed_when_a_consolidation_fails(model, tmp_path, capsys, monkeypatch):
    logging.enable_progress_bar()
    monkeypatch.setattr(verify, "acceptance", None)
    with pytest.raises(TypeError):
        consolidate(model, directory=tmp_path, progress=True)
    assert capsys.readouterr().err.endswith("\n")
