"""Configurations refuse what contradicts itself; `TTTConfig` survives JSON."""

import dataclasses
import json

import pytest

from ttt_retrofit import ConfigError, ConsolidationConfig, MemoryConfig, TTTConfig
from ttt_retrofit.config import PRESETS

WRONG = [
    ({"fast_weights": "dleta"}, r"fast_weights='dleta'.*'delta', 'lora', 'subspace', 'prime'"),
    ({"inner_rule": "hebb"}, r"inner_rule='hebb'.*'gradient', 'in_place'"),
    ({"inner_optimizer": "lion"}, r"inner_optimizer='lion'.*'sgd', 'normalized_sgd', 'adam', 'muon'"),
    ({"learn_from": "answers"}, r"learn_from='answers'.*'all', 'prompt', 'none'"),
    ({"rank": 0}, "rank=0.*at least 1"),
    ({"rank": 2.5}, r"rank=2\.5.*integer"),
    ({"chunk_size": 1}, "chunk_size=1.*at least 2"),
    ({"chunk_size": True}, "chunk_size=True.*integer"),
    ({"chunk_size": 600, "sliding_window": 512}, "chunk_size=600 is longer than sliding_window=512.*<="),
    ({"sliding_window": 4, "chunk_size": 2}, "sliding_window=4 is not larger than sink_tokens=4.*[Ww]iden"),
    ({"sliding_window": 0}, "sliding_window=0.*positive"),
    ({"sliding_window": 64.0}, r"sliding_window=64\.0.*positive integer"),
    ({"sink_tokens": -1}, "sink_tokens=-1.*at least 0"),
    ({"layers": []}, r"layers=\(\).*indices"),
    ({"layers": "top"}, "layers='top'.*last_quarter"),
    ({"layers": 0.0}, r"layers=0\.0.*fraction"),
    ({"layers": 1.5}, r"layers=1\.5.*fraction"),
    ({"layers": [1, 1]}, r"layers=\(1, 1\)"),
    ({"layers": [-1]}, r"layers=\(-1,\)"),
    ({"layers": 3}, "layers=3.*indices"),
    ({"layers": None}, "layers=None"),
    ({"target_modules": ()}, r"target_modules=\(\).*down_proj"),
    ({"target_modules": (3,)}, r"target_modules=\(3,\)"),
    ({"target_modules": None}, "target_modules=None"),
    ({"inner_lr": -1e-3}, r"inner_lr=-0\.001.*at least 0"),
    ({"inner_lr": float("inf")}, "inner_lr=inf.*finite"),
    ({"inner_lr": float("nan")}, "inner_lr=nan.*finite"),
    ({"inner_lr": "1e-3"}, "inner_lr='1e-3'.*number"),
    ({"max_relative_update": 0}, "max_relative_update=0.*positive"),
    ({"max_relative_update": float("nan")}, "max_relative_update=nan.*positive"),
]

WRONG_RECIPES = [
    ({"keep_text": "False"}, "keep_text='False'.*True or False"),
    ({"keep_text": 0}, "keep_text=0.*True or False"),
    ({"distill": False}, "no field 'distill' any more.*leave the field out"),
    ({"min_recall": "high"}, "min_recall='high'.*share from 0 to 1"),
    ({"min_recall": True}, "min_recall=True.*share"),
    ({"enough_recall": 1.5}, r"enough_recall=1\.5.*share"),
    ({"wordings": "x"}, "wordings='x'.*integer of at least 1"),
    ({"most_statements": -1}, "most_statements=-1.*at least 0"),
    ({"max_changed": 2}, "max_changed=2.*share from 0 to 1"),
    ({"details": 40}, "no field 'details' any more.*leave the field out"),
    ({"most_details": 40}, "no field 'most_details' any more.*set most_statements=N"),
    ({"batch_size": 2.5}, r"batch_size=2\.5.*integer of at least 1"),
    ({"answer_tokens": 0}, "answer_tokens=0.*at least 1"),
    ({"seed": "x"}, "seed='x'.*integer"),
    ({"lr": "1e-3"}, "lr='1e-3'.*positive number or None"),
    ({"epochs": None}, "epochs=None.*positive number"),
    ({"epochs": float("inf")}, "epochs=inf.*positive"),
    ({"max_drift": "none"}, "max_drift='none'.*at least 0"),
    ({"max_drift": float("nan")}, "max_drift=nan.*at least 0"),
    ({"text_weight": 0.1}, "no field 'text_weight' any more.*notepad=N"),
    ({"strategy": "bank"}, "no field 'strategy' any more.*entry of its own"),
    ({"memory": {"rank": 4}}, r"memory=\{'rank': 4\}.*MemoryConfig\("),
]

WRONG_MEMORIES = [
    ({"gated": "false"}, "gated='false'.*True or False"),
    ({"rank": True}, "rank=True.*integer"),
    ({"layers": "top"}, "layers='top'.*last_quarter"),
    ({"layers": 2}, "layers=2.*indices"),
    ({"target_modules": []}, r"target_modules=\(\).*'attention'"),
    ({"target_modules": 5}, "target_modules=5.*q_proj"),
    ({"kind": "full"}, "no field 'kind' any more.*by `rank`"),
]


@pytest.mark.parametrize(
    "kind,values,message",
    [
        *((TTTConfig, *wrong) for wrong in WRONG),
        *((ConsolidationConfig, *wrong) for wrong in WRONG_RECIPES),
        *((MemoryConfig, *wrong) for wrong in WRONG_MEMORIES),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_wrong_value_is_refused_with_what_was_found_and_expected(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        kind(**values)


@pytest.mark.parametrize("changes", [{}, {"layers": [1, 3]}, {"layers": 0.25}, {"sliding_window": None}])
def test_a_config_survives_json(changes):
    config = TTTConfig(**changes)
    assert TTTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_fields_are_refused():
    with pytest.raises(ConfigError, match=r"\['chunksize'\].*chunk_size"):
        TTTConfig.from_dict({"chunksize": 3})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_take_changes(name):
    assert TTTConfig.preset(name, chunk_size=64) == dataclasses.replace(TTTConfig.preset(name), chunk_size=64)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"'best'.*default.*fast"):
        TTTConfig.preset("best")


def test_one_module_name_may_stand_without_a_tuple():
    assert TTTConfig(target_modules="up").target_modules == ("up",)


def test_every_field_says_what_it_is():
    assert all(field.metadata.get("help") for field in dataclasses.fields(TTTConfig))


def test_a_config_is_immutable_and_hashable():
    config = TTTConfig(layers=[1, 2])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rank = 3
    assert hash(config) == hash(TTTConfig(layers=(1, 2)))
