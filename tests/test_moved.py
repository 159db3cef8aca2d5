"""Module names that earlier pages published go on working for one release, with a warning."""

import importlib
import pickle
import sys
import warnings

import pytest

import ttt_retrofit
from ttt_retrofit import TTTDeprecationWarning

MOVED = {
    "agent": ("chat.session", "ChatSession"),
    "auto": ("model.auto", "wrap"),
    "cache": ("streaming.cache", "TTTCache"),
    "hub": ("model.hub", "CheckpointMixin"),
    "measure": ("evaluation", None),
    "meta": ("outer", None),
    "meta.config": ("outer.config", "TTTTrainingConfig"),
    "meta.estimate": ("outer.estimate", "estimate"),
    "meta.trainer": ("outer.trainer", "TTTTrainer"),
    "modeling": ("model.modeling", "TTTMixin"),
    "remembering": ("model.remembering", "MemoryMixin"),
}


@pytest.fixture(autouse=True)
def not_imported_yet(monkeypatch):
    for old in MOVED:
        monkeypatch.delitem(sys.modules, f"ttt_retrofit.{old}", raising=False)


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_module_of_today_and_warns(old):
    new, member = MOVED[old]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TTTDeprecationWarning)
        module = importlib.import_module(f"ttt_retrofit.{old}")
    assert any(f"ttt_retrofit.{old} has moved to ttt_retrofit.{new};" in str(warning.message) for warning in caught)
    assert caught[0].filename == importlib.__file__  # where it was imported, not where the warning is made
    assert module is importlib.import_module(f"ttt_retrofit.{new}")
    assert module.__spec__.name == f"ttt_retrofit.{new}"
    assert member is None or hasattr(module, member)


def test_a_pickle_that_names_an_old_module_loads():
    old = pickle.dumps(ttt_retrofit.TTTCache, protocol=0).replace(
        b"ttt_retrofit.streaming.cache", b"ttt_retrofit.cache"
    )
    with pytest.warns(TTTDeprecationWarning):
        assert pickle.loads(old) is ttt_retrofit.TTTCache


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ttt_retrofit.nothing")
