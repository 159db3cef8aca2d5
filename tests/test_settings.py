"""Configurations document themselves, name the field that was meant, and show what was set."""

import dataclasses
import inspect

import pytest

from ttt_retrofit import Budget, ConfigError, ConsolidationConfig, MemoryConfig, TTTConfig, TTTTrainingConfig

KINDS = [TTTConfig, MemoryConfig, ConsolidationConfig, Budget]
MISSED = [
    (TTTConfig, "window", r"Unknown TTTConfig fields \['window'\] \(did you mean 'sliding_window'\?\)\. Known fields"),
    (TTTConfig, "chunksize", r"did you mean 'chunk_size'\?"),
    (TTTConfig, "lr", r"did you mean 'inner_lr' or 'relative_lr'\?"),
    (TTTConfig, "sinks", r"did you mean 'sink_tokens'\?"),
    (TTTConfig, "colour_of_the_sky", r"\['colour_of_the_sky'\]\. Known fields"),
    (MemoryConfig, "modules", r"did you mean 'target_modules'\?"),
    (ConsolidationConfig, "min_recal", r"did you mean 'min_recall'"),
    (Budget, "second", r"did you mean 'seconds'\?"),
    (TTTTrainingConfig, "seq_length", r"did you mean 'sequence_length'.*\?\)\.$"),
]


@pytest.mark.parametrize("kind", [*KINDS, TTTTrainingConfig], ids=lambda kind: kind.__name__)
def test_help_documents_every_field_with_its_default(kind):
    text = " ".join(inspect.getdoc(kind).split())
    fields = [field for field in dataclasses.fields(kind) if field.name in kind.__annotations__]
    assert fields and text.count("Parameters ----------") == 1
    for field in fields:
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        assert f"{field.name} : {' '.join(field.metadata['help'].split())} (default: {default!r})" in text
    assert text.index("Parameters") < f"{text} Raises".index("Raises")


@pytest.mark.parametrize("kind, name, message", MISSED)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(kind, name, message):
    with pytest.raises(ConfigError, match=message):
        kind(**{name: 1})


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(TTTConfig()) == "TTTConfig()"
    assert repr(TTTConfig(layers=[1, 2], sliding_window=None)) == "TTTConfig(layers=(1, 2), sliding_window=None)"
    recipe = ConsolidationConfig(memory=MemoryConfig(rank=3))
    assert repr(recipe) == "ConsolidationConfig(memory=MemoryConfig(rank=3))"
    assert eval(repr(recipe)) == recipe
    assert repr(Budget(60)) == "Budget(seconds=60)"


def test_repr_of_a_training_shows_no_token_of_the_hub():
    training = TTTTrainingConfig("run", max_steps=7, hub_token="hf_secret", use_cpu=True)
    assert "max_steps=7" in repr(training) and len(repr(training)) < 300
    assert "hf_secret" not in f"{training!r}{training}"


def test_editors_see_the_fields_as_arguments():
    assert list(inspect.signature(TTTConfig).parameters) == [field.name for field in dataclasses.fields(TTTConfig)]
