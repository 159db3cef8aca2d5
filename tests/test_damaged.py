"""A checkpoint that is not whole, or not the one it says it is, is refused, and the error says what is missing."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from converted import TTT, converted, logits, ttt
from safetensors.torch import load_file, save_file
from tiny import tiny, tokens

from ttt_retrofit import CheckpointError, wrap


@pytest.fixture
def sharded(tmp_path) -> tuple[Path, torch.Tensor]:
    model = converted("llama", "lora")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    return tmp_path, logits(model, tokens(1, 20))


def load(path: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(path)


def edit_config(path: Path, **changes) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def edit_weights(path: Path, edit) -> None:
    tensors = load_file(path / "model.safetensors")
    save_file(edit(tensors), path / "model.safetensors", metadata={"format": "pt"})


def test_shards_are_put_together(sharded):
    path, expected = sharded
    assert len(list(path.glob("*.safetensors"))) > 3
    assert torch.equal(logits(load(path), tokens(1, 20)), expected)


def test_a_missing_shard_is_named(sharded):
    path, _ = sharded
    gone = sorted(path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=rf"(?s)incomplete.*{gone.name}.*again"):
        load(path)


def test_a_directory_without_weights_is_incomplete(sharded):
    path, _ = sharded
    for file in path.glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"(?s)incomplete.*model.safetensors.*again"):
        load(path)


@pytest.mark.parametrize("kept", [0, 6, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, kept):
    converted().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"cut short or damaged.*again"):
        load(tmp_path)


def test_a_truncated_base_is_refused_by_the_drop_in(base, tmp_path):
    (tmp_path / "config.json").write_text(Path(base, "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(Path(base, "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut short or damaged"):
        wrap(tmp_path, TTT)


def test_missing_ttt_tensors_are_refused(tmp_path):
    converted("llama", "lora").save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda tensors: {key: t for key, t in tensors.items() if ".2.mlp.ttt" not in key})
    with pytest.raises(CheckpointError, match=r"lacks 4 tensors.*layers\.2\.mlp\.ttt.*again"):
        load(tmp_path)


def test_missing_base_tensors_are_refused(tmp_path):
    converted().save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda tensors: {key: t for key, t in tensors.items() if ".1.self_attn.q" not in key})
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*q_proj"):
        load(tmp_path)


def test_ttt_tensors_that_the_config_does_not_name_are_refused(tmp_path):
    converted().save_pretrained(tmp_path)
    edit_config(tmp_path, ttt=ttt(layers=[0]).to_dict())
    with pytest.raises(CheckpointError, match=r"6 tensors of fast weights.*layers\.1\.mlp\.ttt.*config.json"):
        load(tmp_path)


def test_weights_of_another_base_are_refused(tmp_path):
    converted("llama").save_pretrained(tmp_path)
    wrap(tiny("llama", intermediate_size=64), TTT).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"another base.*mlp.*\(\d+, \d+\).*expected \(\d+, \d+\).*11 more"):
        load(tmp_path)


def test_a_config_without_its_ttt_block_is_refused(tmp_path):
    converted().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["ttt"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"lacks.*ttt.*save_pretrained"):
        load(tmp_path)


def test_the_derived_class_refuses_a_base(base):
    with pytest.raises(CheckpointError, match=r"no `ttt` block.*wrap\(\)"):
        type(converted()).from_pretrained(base)


def test_a_base_of_an_unknown_family_is_refused(tmp_path):
    converted().save_pretrained(tmp_path)
    edit_config(tmp_path, base_model_type="llama17")
    with pytest.raises(CheckpointError, match=r"llama17.*does not know"):
        load(tmp_path)


def test_a_missing_directory_keeps_the_error_of_transformers(tmp_path):
    for loading in (load, lambda path: wrap(path, TTT)):
        with pytest.raises(OSError, match=r"nowhere"):
            loading(tmp_path / "nowhere")
