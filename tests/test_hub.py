"""What is pushed to the hub: weights, the shim for remote code, and a card that says what the model is."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from converted import TTT, converted
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from tiny import tiny

from ttt_retrofit import wrap
from ttt_retrofit.util.hub_ids import hub_id

BASE = "someone/tiny-llama"
LOSSES = {"window + sinks": 3.25, "window + sinks + TTT": 3.125}


class Hub:
    """Records what would be committed; `published` is a card that lay in every repository before.

    `private` says of a repository whether it is; those that are put there by a test were there before.
    """

    def __init__(self) -> None:
        self.published: str | None = None
        self.private: dict[str, bool] = {}
        self.created: list[str] = []
        self.files: dict[str, str] = {}
        self.cards: dict[str, str] = {}

    def create_repo(self, _api, repo_id, **kwargs):
        self.created.append(repo_id)
        self.private.setdefault(repo_id, bool(kwargs.get("private")))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_commit(self, _api, repo_id, operations, **kwargs):
        for operation in operations:
            path = Path(operation.path_or_fileobj)
            self.files[operation.path_in_repo] = "" if path.suffix == ".safetensors" else path.read_text()
        self.cards[repo_id] = self.files["README.md"]
        return "https://huggingface.co/commit"

    def repo_info(self, _api, repo_id):
        return SimpleNamespace(private=self.private[repo_id])

    def load_card(self, repo_id, **kwargs):
        card = self.published or self.cards.get(repo_id)
        if card is None:
            raise EntryNotFoundError(f"{repo_id} has no README.md")
        return ModelCard(card)


@pytest.fixture
def hub(monkeypatch) -> Hub:
    hub = Hub()
    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda self, repo_id, **kwargs: hub.create_repo(self, repo_id, **kwargs))
    monkeypatch.setattr(api, "repo_info", lambda self, repo_id: hub.repo_info(self, repo_id))
    monkeypatch.setattr(api, "create_commit", lambda self, **kwargs: hub.create_commit(self, **kwargs))
    monkeypatch.setattr(ModelCard, "load", hub.load_card)
    return hub


@pytest.fixture
def model():
    base = tiny("llama")
    base.name_or_path = base.config.name_or_path = BASE
    return wrap(base, TTT)


def test_a_push_holds_all_that_loading_needs(hub, model):
    model.push_to_hub("me/reader", private=True)
    assert hub.created == ["me/reader"]
    needed = {"config.json", "generation_config.json", "model.safetensors", "modeling_ttt_retrofit.py", "README.md"}
    needed.add("ttt_weights.json")
    assert set(hub.files) == needed
    assert "from ttt_retrofit import TTTModelConfig" in hub.files["modeling_ttt_retrofit.py"]
    assert '"AutoConfig": "modeling_ttt_retrofit.TTTModelConfig"' in hub.files["config.json"]


def test_the_card_names_base_tags_and_how_to_load(hub, model):
    model.push_to_hub("me/reader", losses=LOSSES, tags=["mine"])
    card = ModelCard(hub.files["README.md"])
    assert card.data.base_model == BASE and card.data.base_model_relation == "finetune"
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-generation"
    assert {"ttt", "test-time-training", "ttt-retrofit", "mine"} <= set(card.data.tags)
    assert 'from_pretrained("me/reader")' in card.text and "import ttt_retrofit" in card.text
    assert "| `chunk_size` | `8` |" in card.text
    assert "| window + sinks | 3.2500 |\n| window + sinks + TTT | 3.1250 |" in card.text


def test_without_measured_losses_the_card_has_no_table_of_them(hub, model):
    model.push_to_hub("me/reader")
    assert "Measured" not in hub.files["README.md"]
    model.push_to_hub("me/reader", losses=LOSSES)
    model.push_to_hub("me/other")
    assert "Measured" not in hub.files["README.md"]


def test_a_card_on_the_hub_is_kept_and_its_losses_renewed(hub, model):
    model.push_to_hub("me/reader", losses={"old": 9.0})
    edited = hub.files["README.md"].replace("While it reads", "With thanks to my cat. While it reads")
    hub.published = edited + "\n## Licence\n\nAsk the cat.\n"
    model.push_to_hub("me/reader", losses=LOSSES)
    card = hub.files["README.md"]
    assert "With thanks to my cat" in card and "## Licence\n\nAsk the cat." in card
    assert card.count("## Measured") == 1 and "| old |" not in card and "| window + sinks | 3.2500 |" in card


def test_saving_with_push_to_hub_pushes_the_same(hub, model, tmp_path):
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/reader", losses=LOSSES)
    assert "modeling_ttt_retrofit.py" in hub.files
    assert ModelCard(hub.files["README.md"]).data.base_model == BASE
    assert "| window + sinks | 3.2500 |" in hub.files["README.md"]


def test_saving_keeps_a_card_that_was_edited(model, tmp_path):
    model.save_pretrained(tmp_path, losses=LOSSES)
    card = tmp_path / "README.md"
    assert "| window + sinks | 3.2500 |" in card.read_text()
    card.write_text(card.read_text() + "\nMy notes.\n")
    model.save_pretrained(tmp_path)
    assert card.read_text().endswith("\nMy notes.\n")


def test_the_base_is_still_named_after_reloading(hub, model, tmp_path):
    model.save_pretrained(tmp_path)
    type(model).from_pretrained(tmp_path).push_to_hub("me/reader")
    assert ModelCard(hub.files["README.md"]).data.base_model == BASE


def test_a_local_base_is_not_named_as_a_repository(hub, tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    wrap(tmp_path, TTT).push_to_hub("me/reader")
    card = ModelCard(hub.files["README.md"])
    assert card.data.base_model is None and "base_model_relation" not in card.data.to_dict()
    assert str(tmp_path) not in hub.files["README.md"] + hub.files["config.json"]


@pytest.mark.parametrize(
    "name, expected", [(BASE, BASE), ("gpt2", "gpt2"), ("", None), (None, None), ("/a/b/c", None), ("a/b/c", None)]
)
def test_only_names_of_repositories_are_taken_for_one(name, expected):
    assert hub_id(name) == expected


def test_only_the_main_process_writes_beside_the_weights(tmp_path):
    converted().save_pretrained(tmp_path, is_main_process=False)
    assert not list(tmp_path.iterdir())
