"""What is extrapolated follows from what was measured: fits, break-even lengths, reasons, memory."""

import subprocess
import sys

import pytest
import torch

from benchmarks.harness.costs import PeakMeter, timed
from benchmarks.harness.processes import ask, reason
from benchmarks.scaling import break_even, fit, predict, worst_error

LENGTHS = [1024, 2048, 4096, 8192, 16384, 32768]
CPU = torch.device("cpu")


@pytest.mark.parametrize("true", [(0.5, 2e-3, 3e-8), (0.5, 2e-3), (7.0,), (0.0, 46080.0), (0.0, 0.0, 1e-9)])
def test_a_fit_finds_the_coefficients_that_made_the_costs(true):
    costs = [predict(true, length) for length in LENGTHS]
    found = fit(LENGTHS, costs, len(true) - 1)
    assert found == pytest.approx(true, rel=1e-6, abs=1e-12)
    assert predict(found, 2**21) == pytest.approx(predict(true, 2**21), rel=1e-6)
    assert worst_error(found, LENGTHS, costs) < 1e-9


def test_errors_count_by_their_share_so_that_short_reads_count_as_much_as_long_ones():
    costs = [length * 1e-3 for length in LENGTHS]
    costs[-1] *= 1.2
    assert fit(LENGTHS, costs, 1)[1] == pytest.approx(1e-3, rel=0.07)
    assert worst_error(fit(LENGTHS, costs, 1), LENGTHS, costs) > 0.05


def test_no_coefficient_is_negative_whatever_was_measured():
    costs = [1.0, 2.2, 4.3, 8.1, 15.0, 28.0]  # grows slower than the length: least squares alone would bend it down
    found = fit(LENGTHS, costs, 2)
    assert all(coefficient >= 0 for coefficient in found)
    assert predict(found, 2**21) > costs[-1]


def test_fewer_measurements_than_coefficients_are_not_fitted():
    assert fit([1024, 2048], [1.0, 2.0], 2) is None
    assert fit([1024, 2048], [1.0, 2.0], 1) is not None


def test_the_break_even_length_is_where_two_costs_are_equal_for_the_last_time():
    full, windowed = (0.1, 1e-3, 1e-7), (0.5, 2e-3)
    length = break_even(full, windowed)
    assert predict(full, length) == pytest.approx(predict(windowed, length))
    assert predict(full, length * 1.01) > predict(windowed, length * 1.01)
    assert predict(full, length * 0.99) < predict(windowed, length * 0.99)
    # Dearer, then cheaper, then dearer for good: the second crossing counts.
    assert break_even((2.0, 0.0, 1e-2), (0.0, 1.0)) == pytest.approx(97.958, rel=1e-4)


def test_break_even_at_once_and_never():
    assert break_even((1.0, 2.0), (0.5, 1.0)) == 0
    assert break_even((0.0, 1.0), (0.0, 2.0)) is None
    assert break_even((5.0,), (0.0, 1.0)) is None
    assert break_even((0.0, 1.0), (0.0, 1.0)) is None
    assert break_even((0.0, 46080.0), (46080.0 * 1000,)) == pytest.approx(1000)


def test_a_process_that_fails_says_why_and_names_no_directory():
    assert ask("json.nothing_of_this_name", [])["failed"].endswith("No module named json.nothing_of_this_name")
    said = "Traceback:\n  ...\nImportError: cannot import name 'a' from 'b' (/home/somebody/lib/b.py)\n"
    assert reason(1, said) == "ImportError: cannot import name 'a' from 'b' (b.py)"
    assert reason(1, "ValueError: 3 tokens/s, 1/2 read") == "ValueError: 3 tokens/s, 1/2 read"
    assert reason(-9, "") == "killed by SIGKILL"


@pytest.mark.skipif(not PeakMeter(CPU).works, reason="the peak of resident memory can be reset under Linux only")
def test_the_peak_is_what_was_held_at_once_though_it_is_let_go_of_again():
    meter = PeakMeter(CPU)
    seconds, _ = timed(CPU, lambda: torch.ones(2**25).sum())  # 128 MiB
    assert seconds > 0
    assert 0.9 * 2**27 < meter.bytes() < 1.5 * 2**27
    assert PeakMeter(CPU).bytes() < 2**26


@pytest.mark.skipif(not PeakMeter(CPU).works, reason="the peak of resident memory can be reset under Linux only")
def test_memory_that_was_freed_before_hides_nothing_of_the_peak():
    parts = [torch.ones(2**14) for _ in range(2048)]  # 128 MiB in pieces, which the heap keeps when they are freed
    last = parts.pop()  # and above which something stays
    del parts
    meter = PeakMeter(CPU)
    parts = [torch.ones(2**14) for _ in range(2048)]
    assert meter.bytes() > 0.9 * 2**27
    del parts, last


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts anonymous memory under Linux only")
def test_what_does_not_fit_in_memory_fails_and_says_so(tmp_path):
    free = tmp_path / "meminfo"
    free.write_text("MemTotal: 9000000 kB\nMemAvailable: 1000000 kB\n")
    code = "import pathlib, sys, torch; from benchmarks.harness import costs as c; "
    code += "c.MEMORY = pathlib.Path(sys.argv[1]); c.limit_memory()"
    command = [sys.executable, "-c", f"{code}; torch.empty(2**29)", str(free)]  # 2 GiB, of which none is written to
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1 and "can't allocate memory" in reason(1, run.stderr)
