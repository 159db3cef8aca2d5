"""What of a memory reaches the Hub, and into which repositories."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from converted import converted
from remembered import memory
from test_hub import hub  # noqa: F401

from ttt_retrofit import ConfigError


@pytest.fixture
def uploaded(monkeypatch) -> list[str]:
    """The repositories that something was uploaded to."""
    repositories: list[str] = []

    def upload_folder(self, repo_id, **_):
        repositories.append(repo_id)
        return SimpleNamespace(commit_url="https://huggingface.co/commit")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    return repositories


def test_nothing_is_uploaded_to_a_public_repository_unless_that_is_asked(hub, uploaded):  # noqa: F811
    made = memory(converted(), 1)
    hub.private = {"ines/public": False, "ines/hidden": True}
    with pytest.raises(ConfigError, match="ines/public is a public repository"):
        made.push_to_hub("ines/public")
    assert not uploaded
    made.push_to_hub("ines/hidden")
    made.push_to_hub("ines/new")
    made.push_to_hub("ines/public", private=False)
    assert uploaded == ["ines/hidden", "ines/new", "ines/public"]
