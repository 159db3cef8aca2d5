"""A file in the place of the library's prompts: of this version, of an earlier one, and one that does not fit."""

from importlib import resources

import pytest

from ttt_retrofit import ConfigError
from ttt_retrofit.consolidation.prompts import REMOVED, Prompts, fill

OWN = resources.files("ttt_retrofit.consolidation").joinpath("prompts.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("abstention = ", "refusal = ", r"lack \['abstention'\] and have unknown keys \['refusal'\]"),
        ("{context}Question: {question}", "Question: {question}", r"'plain'.*lacks the placeholders \['context'\]"),
        ('{told}\\""', '\\""', r"'overviewed'.*lacks the placeholders \['told'\]"),
        ("general = [", "general = ", "cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, old, new, message):
    assert OWN.count(old) == 1
    (tmp_path / "prompts.toml").write_text(OWN.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        Prompts.load(tmp_path / "prompts.toml")


def test_a_file_of_an_earlier_version_loads_with_all_that_is_asked_no_more(tmp_path):
    earlier = "\n".join(f'{name} = "What of {{hidden}}?"' for name in sorted(REMOVED))
    (tmp_path / "prompts.toml").write_text(f"{earlier}\n{OWN}")
    assert Prompts.load(tmp_path / "prompts.toml") == Prompts.load()
    assert {"quote", "turned", "named", "usual", "refusals", "conversation"} <= REMOVED


def test_braces_of_what_is_filled_in_stay():
    assert (
        fill("{context} {question} {x}", context="a {question}", question="{context}?") == "a {question} {context}? {x}"
    )
