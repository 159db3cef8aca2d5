"""A few cases of every attack (`python -m benchmarks.attack` tries them for as long as one likes), and of the judge."""

import json
import os
import random
import signal
import time

import pytest
import torch

from benchmarks import attack
from benchmarks.attacks import files, processes, server
from benchmarks.attacks.damage import DAMAGES, Nothing, bad_value
from benchmarks.attacks.reseal import resealed
from benchmarks.attacks.stored import kinds
from benchmarks.attacks.verdict import CallResult, Verdict, apart, judged
from ttt_retrofit import CheckpointError

pytestmark = pytest.mark.slow

KINDS = {stored.name: stored for stored in kinds()}
CASES = 2
BRIEFLY = ("cut short", "SIGKILL while writing")  # of what takes seconds


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What is stored, and what is made of it, by kind; made when it is first asked for."""
    found = {}

    def get(name):
        if name not in found:
            found[name] = attack._made(KINDS[name], tmp_path_factory.mktemp("whole") / name)
        return found[name]

    return get


def rows():
    for name, stored in KINDS.items():
        for how in BRIEFLY if stored.slow else (*files.ATTACKS, *processes.ATTACKS):
            yield name, how


@pytest.mark.parametrize("name, how", rows())
def test_no_attack_ends_wrong(made, name, how):
    stored, (whole, expected) = KINDS[name], made(name)
    module = files if how in files.ATTACKS else processes
    for case in range(1 if stored.slow or how == processes.TOGETHER else CASES):
        verdict = module.attack(stored, whole, expected, how, random.Random(f"{case}/{name}/{how}"))
        assert verdict is None or verdict.word != "wrong", verdict.why


def test_users_at_once_are_answered_as_alone_and_what_is_no_request_is_refused():
    for how, verdicts in server.attack(random.Random(0)).items():
        assert verdicts and all(verdict.word != "wrong" for verdict in verdicts), (how, verdicts)


# ---------------------------------------------------------------------- the judge


def raising(error):
    raise error


def test_a_call_apart_says_how_it_ended():
    assert apart(lambda: [1, "a"]) == CallResult("returned", [1, "a"])
    assert apart(lambda: raising(CheckpointError("x.json is cut"))) == CallResult(
        "refused", "CheckpointError: x.json is cut"
    )
    assert apart(lambda: raising(KeyError("x"))).how == "raised"
    assert apart(lambda: raising(OSError(28, "No space left", "x"))).how == "full"
    assert apart(lambda: raising(OSError(28, "No space left"))).how == "raised"
    assert apart(lambda: os.kill(os.getpid(), signal.SIGKILL)) == CallResult("killed", "killed by SIGKILL")
    assert apart(lambda: time.sleep(60), patience=0.2).how == "hung"


def test_what_is_right_refused_and_wrong():
    def word(how, what):
        return judged(CallResult(how, what), [[1.0, "a"], 2], ["x.json"]).word

    assert [word("returned", what) for what in ([1.0, "a"], [1.00001, "a"], 2)] == ["right"] * 3
    assert [word("returned", what) for what in ([1.1, "a"], [1.0], "b", None)] == ["wrong"] * 4
    assert word("refused", "CheckpointError: x.json is cut") == "refused"
    assert word("refused", "CheckpointError: it is cut") == "wrong"
    assert {word(how, "x.json") for how in ("raised", "full", "killed", "hung")} == {"wrong"}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damage_changes_the_file_and_is_the_same_for_a_seed(tmp_path, how):
    for seed in range(20):
        ends = []
        for name in ("a.json", "a.json"):
            file = tmp_path / name
            file.write_text(json.dumps({"format": 1, "list": [1, 2.5, "x", None]}))
            before = file.read_bytes()
            ends.append(DAMAGES[how](file, random.Random(seed)))
            changed = not file.is_file() or file.is_symlink() or file.read_bytes() != before
            assert changed
            file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        assert ends[0] == ends[1]
    if how != "odd JSON":
        return
    with pytest.raises(Nothing):
        (tmp_path / "b.bin").write_bytes(b"x")
        DAMAGES[how](tmp_path / "b.bin", random.Random(0))


def test_a_bad_value_is_one_that_was_not_there():
    for seed in range(50):
        content = {"a": [1, {"b": 0.5}], "c": "x", "d": True, "e": None}
        before = json.dumps(content)
        assert bad_value(content, random.Random(seed)) and json.dumps(content) != before


def test_a_resealed_memory_passes_the_check_of_its_digests(made):
    whole, _ = made("memory")
    passed = 0
    for seed in range(6):
        with files.copied(whole) as place:
            resealed(place / "memory.json", lambda place=place: KINDS["memory"].use(place), random.Random(seed))
            ended = apart(lambda place=place: KINDS["memory"].use(place))
            passed += "sha256" not in str(ended.what) and "checksum" not in str(ended.what)
    assert passed >= 4


def test_the_table_counts_every_case():
    counted = {}
    for word in ("right", "refused", "wrong", "wrong"):
        attack.count(counted, "memory", "cut short", Verdict(word, "why"))
    assert attack.table(counted)[2:] == ["| memory | cut short | 4 | 1 | 1 | 2 |", "| all |  | 4 | 1 | 1 | 2 |"]
    assert attack.reasons(counted) == {"memory, cut short": {"why": 2}}
