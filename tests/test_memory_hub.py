"""What of a memory reaches the Hub, and into which repositories."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from converted import converted
from huggingface_hub import ModelCard
from remembered import memory
from test_hub import hub  # noqa: F401

from ttt_retrofit import ConfigError


@pytest.fixture
def uploaded(monkeypatch) -> dict[str, dict[str, str]]:
    """The texts that were uploaded, by repository."""
    repositories: dict[str, dict[str, str]] = {}

    def upload_folder(self, repo_id, folder_path, **_):
        repositories[repo_id] = {name: Path(folder_path, name).read_text() for name in ("README.md", "memory.json")}
        return SimpleNamespace(commit_url="https://huggingface.co/commit")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    return repositories


def test_nothing_is_uploaded_to_a_public_repository_unless_that_is_asked(hub, uploaded):  # noqa: F811
    made = memory(converted(), 1)
    hub.private = {"ines/public": False, "ines/hidden": True}
    with pytest.raises(ConfigError, match="ines/public is an existing public repository"):
        made.push_to_hub("ines/public")
    assert not uploaded
    made.push_to_hub("ines/hidden")
    made.push_to_hub("ines/new")
    made.push_to_hub("ines/public", private=False)
    assert list(uploaded) == ["ines/hidden", "ines/new", "ines/public"]


def test_the_card_names_the_base_and_counts_contexts_not_entries(hub, uploaded):  # noqa: F811
    made = dataclasses.replace(memory(converted(), 1), base_name="someone/base")
    made.push_to_hub("ines/one")
    card = ModelCard(uploaded["ines/one"]["README.md"])
    assert card.data.base_model == "someone/base" and card.data.base_model_relation == "adapter"
    assert 'wrap("someone/base")' in card.text and "\n1 context, " in card.text
    entry = made.entries[0]
    several = dataclasses.replace(made, entries=(dataclasses.replace(entry, sources=entry.sources * 3),))
    several.push_to_hub("ines/three")
    assert "\n3 contexts, " in uploaded["ines/three"]["README.md"]


@pytest.mark.parametrize("there", [True, False])
def test_where_a_base_lay_is_not_told_though_it_is_there_no_more(hub, uploaded, tmp_path, there):  # noqa: F811
    where = tmp_path / "secret" / "base"
    if there:
        where.mkdir(parents=True)
    dataclasses.replace(memory(converted(), 1), base_name=str(where)).push_to_hub("ines/memory")
    card = ModelCard(uploaded["ines/memory"]["README.md"])
    assert "secret" not in "".join(uploaded["ines/memory"].values())
    assert not {"base_model", "base_model_relation"} & set(card.data.to_dict())
    assert 'wrap("path/to/base")' in card.text
