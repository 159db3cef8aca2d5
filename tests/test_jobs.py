"""Processes that share work: each is made ready once, and results come in order."""

import os

import pytest
import torch

from benchmarks.harness.processes import processes

pytestmark = pytest.mark.slow

READY = []


def begin(jobs, word):
    READY.append((jobs, word))


def told(number):
    assert len(READY) == 1
    return os.getpid(), READY[0], number


def threads(_):
    return torch.get_num_threads()


def test_each_process_is_made_ready_once_and_results_come_in_order():
    with processes(2, begin, "word") as pool:
        results = list(pool.map(told, range(6)))
    assert [number for *_, number in results] == [*range(6)]
    assert {ready for _, ready, _ in results} == {(2, "word")} and os.getpid() not in {pid for pid, *_ in results}
    assert not READY


def test_processes_share_the_cores():
    with processes(torch.get_num_threads()) as pool:
        assert {*pool.map(threads, range(2))} == {1}
