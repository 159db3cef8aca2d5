"""Memories on disk: written whole or not at all, checked, versioned, exchanged with PEFT."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from converted import converted, logits
from huggingface_hub import RepoUrl
from peft import LoraConfig, PeftModel, get_peft_model
from remembered import digests, memory
from tiny import tiny, tokens

from ttt_retrofit import CheckpointError, ConfigError, InputError, Memory
from ttt_retrofit.memory.lora import truncated
from ttt_retrofit.memory.memory_file import HEADER
from ttt_retrofit.memory.store import MemoryStore


def test_a_saved_memory_comes_back_bit_for_bit(tmp_path):
    model, ids = converted(), tokens(2, 30)
    made = memory(model, 1, 2)
    model.load_memory(made)
    expected = logits(model, ids)
    made.save(tmp_path)
    model.reset_memory()
    loaded = model.load_memory(tmp_path)
    assert torch.equal(logits(model, ids), expected)
    assert digests(made) == digests(loaded)
    assert loaded.entries[0].lessons[0].answer == (8, 9)
    assert loaded.nbytes == made.nbytes


def test_nobody_else_may_read_a_memory(tmp_path):
    made, store = memory(converted(), 1), MemoryStore(tmp_path / "users" / "ines")
    made.save(tmp_path / "saved" / "one")
    store.save(made)
    written = [path for path in tmp_path.rglob("*") if path.name != "lock"]
    assert len(written) > 6 and all(path.stat().st_mode & 0o077 == 0 for path in written)


def test_an_altered_or_truncated_file_is_refused(tmp_path):
    memory(converted(), 1).save(tmp_path)
    tensors = next(tmp_path.glob("*.safetensors"))
    whole = tensors.read_bytes()
    for damaged in (whole[:-7], whole[:-1] + bytes([whole[-1] ^ 1])):
        tensors.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="altered or cut short"):
            Memory.load(tmp_path)
    tensors.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        Memory.load(tmp_path)


def test_a_damaged_header_or_another_format_is_refused(tmp_path):
    memory(converted(), 1).save(tmp_path)
    header = json.loads((tmp_path / HEADER).read_text())
    (tmp_path / HEADER).write_text(json.dumps({**header, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        Memory.load(tmp_path)
    (tmp_path / HEADER).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Memory.load(tmp_path)


def test_a_memory_of_full_matrices_says_that_it_is_to_be_made_anew(tmp_path):
    memory(converted(), 1).save(tmp_path)
    header = json.loads((tmp_path / HEADER).read_text())
    del header["header_sha256"]
    (tmp_path / HEADER).write_text(json.dumps(header | {"config": header["config"] | {"kind": "full"}}))
    with pytest.raises(CheckpointError, match=r"full matrices.*Consolidate the context again"):
        Memory.load(tmp_path)


def test_combining_adds_up_and_weights_scale():
    model, ids = converted(), tokens(1, 30)
    first, second = memory(model, 1), memory(model, 2)
    model.load_memory(memory(model, 1, 2))
    expected = logits(model, ids)
    model.load_memory(Memory.combine([first, second]))
    assert torch.equal(logits(model, ids), expected)
    model.load_memory(Memory.combine([first, second], [1.0, 0.0]))
    silent = logits(model, ids)
    model.load_memory(first)
    assert torch.allclose(logits(model, ids), silent, atol=1e-6)


def test_memories_that_do_not_fit_together_are_not_combined():
    model = converted()
    with pytest.raises(ConfigError, match="different bases"):
        Memory.combine([memory(model, 1), memory(converted("qwen2"), 1)])
    with pytest.raises(ConfigError, match="different layers"):
        Memory.combine([memory(model, 1), memory(model, 1, layers=(2, 3))])
    with pytest.raises(ConfigError, match="2 weights were given for 1"):
        Memory.combine([memory(model, 1)], [1.0, 2.0])
    with pytest.raises(ConfigError, match="All weights are 0"):
        Memory.combine([memory(model, 1)], [0.0])
    with pytest.raises(ConfigError, match="no memory"):
        Memory.combine([])
    with pytest.raises(ConfigError, match="empty"):
        Memory.combine([memory(model, 1), dataclasses.replace(memory(model, 1), entries=())])


def test_a_digest_tells_what_an_entry_says():
    one, other = memory(converted(), 1, 2).entries
    assert len({one.digest, other.digest, one.scaled(2.0).digest}) == 3
    assert dataclasses.replace(one, created=9.0, lessons=()).digest == one.digest


def test_a_store_keeps_versions_and_rolls_back(tmp_path):
    model, store = converted(), MemoryStore(tmp_path)
    assert store.load() is None
    with pytest.raises(ConfigError, match="is empty"):
        store.rollback()
    assert [store.save(memory(model, 1)), store.save(memory(model, 1, 2))] == [1, 2]
    assert store.load().names() == ["entry1", "entry2"]
    assert store.rollback().names() == ["entry1"]
    assert store.current() == 1
    assert store.load(2).names() == ["entry1", "entry2"]
    assert store.save(memory(model, 1, 3)) == 3
    assert store.rollback().names() == ["entry1"], "what the third was built on, not what had been rolled back"
    assert store.rollback() is None and store.save(memory(model, 4)) == 4
    assert store.rollback() is None
    assert store.save(memory(model, 3)) == 5
    with pytest.raises(InputError, match="at least 1"):
        store.prune(0)
    assert store.prune(keep=1) == [1, 2, 3, 4]
    store.erase()
    assert store.load() is None


def test_two_processes_cannot_write_one_store(tmp_path):
    model = converted()
    first, second = MemoryStore(tmp_path), MemoryStore(tmp_path)
    with first.writing(), pytest.raises(InputError, match="Another process is writing"):
        second.save(memory(model, 1))


def test_a_full_disk_leaves_the_version_before(tmp_path, monkeypatch):
    model, store = converted(), MemoryStore(tmp_path)
    store.save(memory(model, 1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(memory(model, 1, 2))
    monkeypatch.undo()
    assert store.load().names() == ["entry1"]
    assert store.versions() == [1]
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def _save_for_ever(directory: str) -> None:
    model, store = converted(), MemoryStore(directory)
    made = [memory(model, seed) for seed in (1, 2)]
    number = 0
    while True:
        store.save(made[number % 2])
        store.prune(keep=2)
        number += 1


@pytest.mark.slow
def test_a_kill_in_the_middle_of_saving_leaves_a_whole_version(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_save_for_ever, args=(str(tmp_path),))
    process.start()
    store = MemoryStore(tmp_path)
    deadline = time.monotonic() + 120
    while (store.current() or 0) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert store.load().names() in (["entry1"], ["entry2"])
    store.save(memory(converted(), 1, 2))
    assert store.load().names() == ["entry1", "entry2"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_exported_memory_is_a_peft_adapter_with_the_same_logits(tmp_path, family):
    model, ids = converted(family), tokens(2, 12)
    model.configure_ttt(learn_from="none")
    made = memory(model, 1, 2, gated=False)
    model.load_memory(made)
    kept = made.to_lora(tmp_path, transposed=family == "gpt2")
    assert set(kept.values()) == {1.0}
    adapted = PeftModel.from_pretrained(tiny(family), tmp_path)
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, logits(model, ids), atol=1e-5)


def test_entries_of_different_ranks_and_places_are_one_adapter(tmp_path):
    model, ids = converted(), tokens(2, 12)
    model.configure_ttt(learn_from="none")
    one, other = memory(model, 1, gated=False), memory(model, 2, gated=False, rank=3, target_modules=("down",))
    both = Memory.combine([one, other])
    both.to_lora(tmp_path)
    adapted = PeftModel.from_pretrained(tiny("llama"), tmp_path)
    model.load_memory(both)
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, logits(model, ids), atol=1e-5)
    with pytest.raises(ConfigError, match="rank=0"):
        both.to_lora(tmp_path / "none", rank=0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_read_as_a_memory(tmp_path, family):
    model, ids = converted(family), tokens(2, 12)
    made = memory(model, 1, gated=False)
    model.load_memory(made)
    expected = logits(model, ids)
    made.to_lora(tmp_path, transposed=family == "gpt2")
    model.reset_memory()
    model.load_memory(Memory.from_lora(tmp_path, model))
    assert torch.allclose(logits(model, ids), expected, atol=1e-5)


def test_an_adapter_that_peft_trained_on_transposed_matrices_says_the_same_as_a_memory(tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(target_modules=["c_fc", "c_proj"], fan_in_fan_out=True, init_lora_weights=False)
    adapted, ids = get_peft_model(tiny("gpt2"), config).eval(), tokens(2, 12)
    adapted.save_pretrained(tmp_path)
    model = converted("gpt2", learn_from="none")
    model.load_memory(Memory.from_lora(tmp_path, model))
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, logits(model, ids), atol=1e-4)


def test_an_adapter_of_another_kind_is_refused(tmp_path):
    model = converted()
    made = memory(model, 1, gated=False)
    made.to_lora(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora"):
        Memory.from_lora(tmp_path, model)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    memory(converted("gpt2"), 1, gated=False).to_lora(tmp_path)
    with pytest.raises(CheckpointError, match="made for another model"):
        Memory.from_lora(tmp_path, converted())


def test_a_pushed_memory_has_a_card_and_is_private(tmp_path, monkeypatch):
    uploaded = {}

    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, private, exist_ok):
            uploaded["private"] = private
            return RepoUrl(f"https://huggingface.co/{repo_id}")

        def repo_info(self, repo_id):
            return SimpleNamespace(private=uploaded["private"])

        def upload_folder(self, repo_id, folder_path, **kwargs):
            shutil.copytree(folder_path, tmp_path / "hub")
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    monkeypatch.setattr("ttt_retrofit.memory.memory.HfApi", Hub)
    (tmp_path / "private" / "base").mkdir(parents=True)
    made = dataclasses.replace(memory(converted(), 1), base_name=str(tmp_path / "private" / "base"))
    assert made.push_to_hub("ines/memory") == "https://hub/ines/memory"
    assert uploaded["private"]
    assert 'load_memory("ines/memory")' in (tmp_path / "hub" / "README.md").read_text()
    assert digests(Memory.load(tmp_path / "hub")) == digests(made)
    assert "private" not in (tmp_path / "hub" / "memory.json").read_text()
    for name in ("memory.json", "README.md"):
        assert str(tmp_path) not in (tmp_path / "hub" / name).read_text()


def test_cutting_the_rank_keeps_the_largest_part():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(12, 20, generator=generator), torch.randn(15, 12, generator=generator)
    small_a, small_b, share = truncated(a, b, 4)
    u, singular, vh = torch.linalg.svd(b @ a)
    best = (u[:, :4] * singular[:4]) @ vh[:4]
    assert torch.allclose(small_b @ small_a, best, atol=1e-4)
    assert share == pytest.approx((singular[:4].square().sum() / singular.square().sum()).item(), rel=1e-4)
