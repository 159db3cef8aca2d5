"""A cache's file that is not as it was written is refused, also when it was sealed again."""

import json
import os
import random
import resource

import pytest
import torch
from converted import converted
from remembered import memory
from safetensors.torch import load_file, save_file
from tiny import tokens

from ttt_retrofit import CheckpointError, TTTCache
from ttt_retrofit.util.sealed import read_sealed, write_sealed


@pytest.fixture(scope="module")
def model():
    made = converted(fast_weights="lora")
    made.load_memory(memory(made, 1))
    return made


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "talk.safetensors"
    ids, mask = tokens(2, 30), torch.ones(2, 30, dtype=torch.long)
    mask[0, :5] = 0
    with torch.no_grad():
        cache = model(ids, attention_mask=mask, past_key_values=model.new_cache().keep_text()).past_key_values
    cache.save(path)
    return path.read_bytes()


@pytest.fixture
def path(whole, tmp_path):
    file = tmp_path / "talk.safetensors"
    file.write_bytes(whole)
    return file


def test_no_flipped_bit_goes_unnoticed(model, whole, path):
    draw = random.Random(0)
    for _ in range(60):
        place, bit = draw.randrange(len(whole)), draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"talk\.safetensors"):
            TTTCache.load(path, model)


def test_no_flipped_bit_of_the_header_goes_unnoticed(model, whole, path):
    draw, size = random.Random(1), 8 + int.from_bytes(whole[:8], "little")
    for _ in range(60):
        place, bit = draw.randrange(size), draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"talk\.safetensors"):
            TTTCache.load(path, model)


# What a header may say instead of what it says; each of another type, or out of range.
VALUES = [None, -1, 10**9, 2**70, 1.5, True, "x", [], [[]], {}, [None, None], [-1, -1], [10**9, 10**9], ["x", "x"],
          [[-1], [-1]], [1, 2, 3], [0.5, 0.5], [float("nan"), 1]]  # fmt: skip


def test_a_header_that_says_something_else_is_refused(model, path):
    tensors, texts = read_sealed(path)
    header = json.loads(texts["ttt_cache"])
    changed = [{**header, name: value} for name in header for value in VALUES if value != header[name]]
    changed += [{key: value for key, value in header.items() if key != name} for name in header]
    for true in ({"columns": 10**9}, {"text": None}):  # as of another conversation: with more padding, without its text
        changed.remove(header | true)
    for edited in changed:
        write_sealed(path, tensors, {"ttt_cache": json.dumps(edited)})
        with pytest.raises(CheckpointError, match=r"talk\.safetensors"):
            TTTCache.load(path, model)


def test_a_header_nested_too_deeply_is_refused(model, path):
    tensors, _ = read_sealed(path)
    write_sealed(path, tensors, {"ttt_cache": "[" * 10**5 + "]" * 10**5})
    with pytest.raises(CheckpointError, match="nested too deeply"):
        TTTCache.load(path, model)


EDITS = {
    "wider": lambda tensor: torch.cat([tensor, tensor], -1),
    "more rows": lambda tensor: torch.cat([tensor, tensor], 0),
    "no rows": lambda tensor: tensor[:0],
    "flat": lambda tensor: tensor.flatten(),
    "scalar": lambda tensor: tensor.flatten()[0],
    "empty": lambda tensor: tensor[..., :0],
    "another kind": lambda tensor: tensor.long() if tensor.is_floating_point() else tensor.float(),
    "negative": lambda tensor: -tensor.abs() - 5 if tensor.dtype == torch.long else tensor.clone().fill_(float("nan")),
    "large": lambda tensor: tensor + 2**50 if tensor.dtype == torch.long else tensor.clone().fill_(float("inf")),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_tensor_that_is_another_is_refused(model, path, edit):
    tensors, texts = read_sealed(path)
    for name, tensor in tensors.items():
        edited = EDITS[edit](tensor) if tensor.dtype != torch.bool or edit not in ("negative", "large") else tensor
        counts_memories = name.endswith("|near") and edited.ndim == 2  # of which there may be any number
        other_text = name == "digest" and edit in ("negative", "large")  # which any number may be of
        if counts_memories or other_text or (edited.shape == tensor.shape and torch.equal(edited, tensor)):
            continue
        write_sealed(path, tensors | {name: edited}, texts)
        with pytest.raises(CheckpointError, match=r"talk\.safetensors"):
            TTTCache.load(path, model)


def test_tensors_that_lack_or_are_too_many_are_refused(model, path):
    tensors, texts = read_sealed(path)
    header = json.loads(texts["ttt_cache"])
    needed = [name for name in tensors if not name.endswith("|tail")]  # which earlier versions did not write
    edits = [{name: tensor for name, tensor in tensors.items() if name != gone} for gone in needed]
    edits += [{**tensors, "more": torch.zeros(2)}, {**tensors, "fast|elsewhere|a": torch.zeros(2, 4, 4)}, {}]
    for edited in edits:
        write_sealed(path, edited, {"ttt_cache": json.dumps(header | {"tensors": sorted(edited)})})
        with pytest.raises(CheckpointError, match=r"talk\.safetensors"):
            TTTCache.load(path, model)


def test_a_file_without_a_checksum_still_loads(model, path):
    expected = logits_after(model, path)
    _, texts = read_sealed(path)
    save_file(load_file(path), path, metadata={"ttt_cache": texts["ttt_cache"]})
    assert torch.equal(logits_after(model, path), expected)


def logits_after(model, path):
    with torch.no_grad():
        return model(tokens(2, 12, seed=1), past_key_values=TTTCache.load(path, model)).logits


@pytest.mark.parametrize("family", ["gpt2", "deepseek_v3", "gemma4_text", "qwen3_moe", "minicpm3"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_caches_of_every_shape_come_back(tmp_path, family, optimizer):
    model = converted(family, "delta" if optimizer == "muon" else "prime", inner_optimizer=optimizer, inner_lr=1e-3)
    for length in (3, 8, 40):
        cache = model.read(tokens(2, length))
        cache.save(tmp_path / "talk.safetensors")
        loaded = TTTCache.load(tmp_path / "talk.safetensors", model)
        more = tokens(2, 9, seed=1)
        with torch.no_grad():
            assert torch.equal(model(more, past_key_values=loaded).logits, model(more, past_key_values=cache).logits)


def test_a_cache_whose_sinks_have_moved_comes_back(tmp_path):
    model = converted()
    model.config.max_position_embeddings = 40
    cache = model.read(tokens(1, 120))
    assert any(cache.sinks.anchors)
    cache.save(tmp_path / "talk.safetensors")
    assert TTTCache.load(tmp_path / "talk.safetensors", model).sinks.anchors == cache.sinks.anchors


def test_a_pipe_is_no_cache(model, tmp_path):
    os.mkfifo(tmp_path / "talk.safetensors")
    for path in (tmp_path / "talk.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="expected a regular file"):
            TTTCache.load(path, model)


def test_a_full_disk_names_the_file_and_leaves_what_was_there(model, path):
    before, cache = path.read_bytes(), TTTCache.load(path, model)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a write past it fails as on a full disk
    try:
        with pytest.raises(OSError, match=r"talk\.safetensors"):
            cache.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and [found.name for found in path.parent.iterdir()] == [path.name]


def test_nobody_else_may_read_a_cache(model, path, tmp_path):
    TTTCache.load(path, model).save(tmp_path / "new" / "talks" / "one.safetensors")
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(made) == 3 and all(found.stat().st_mode & 0o077 == 0 for found in made)


def test_saving_writes_through_no_link(model, path, tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / f".talk.safetensors.{os.getpid()}.tmp").symlink_to(other)
    TTTCache.load(path, model).save(path)
    assert other.read_text() == "mine"


def test_what_a_killed_save_left_goes_with_the_next(model, path):
    (path.parent / ".talk.safetensors.ab12.tmp").write_bytes(b"words")
    (path.parent / ".other.safetensors.ab12.tmp").write_bytes(b"of another file")
    TTTCache.load(path, model).save(path)
    assert sorted(found.name for found in path.parent.iterdir()) == [".other.safetensors.ab12.tmp", path.name]
