"""`TTTCache`: a conversation that can be put aside, copied, reordered, and gone on with bit for bit."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny, tokens

from ttt_retrofit import CheckpointError, InputError, TTTCache, TTTConfig, UnsupportedModelError, wrap
from ttt_retrofit.util.sealed import read_sealed, write_sealed

CHUNK = 6
CONFIG = TTTConfig(
    layers="all", chunk_size=CHUNK, sliding_window=10, sink_tokens=2, inner_lr=1e-2, fast_weights="lora", rank=4
)


def converted(family="llama", config=CONFIG, **changes):
    return wrap(tiny(family, **changes), config)


def left_padded(rows, length, padding):
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, :padding] = 0
    return mask


def read(model, ids, cache=None, mask=None):
    with torch.no_grad():
        return model(ids, past_key_values=cache, attention_mask=mask)


# In the middle of a chunk, at its end, before the first update, and with rows of unequal length.
PAUSES = {"mid-chunk": (21, 0), "chunk-end": (18, 0), "first-chunk": (4, 0), "padded": (21, 5)}


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gemma3n_text"])
@pytest.mark.parametrize("pause", PAUSES)
def test_a_saved_conversation_goes_on_bit_for_bit(family, pause, tmp_path):
    length, padding = PAUSES[pause]
    model, ids = converted(family), tokens(2, 40)
    cache = read(model, ids[:, :length], mask=left_padded(2, length, padding)).past_key_values
    cache.save(tmp_path / "talk.safetensors")
    loaded = TTTCache.load(tmp_path / "talk.safetensors", model)
    for name in ("tokens_seen", "loss_by_chunk"):
        torch.testing.assert_close(getattr(loaded, name), getattr(cache, name), atol=0, rtol=0, equal_nan=True)
    one, two = read(model, ids[:, length:], cache), read(model, ids[:, length:], loaded)
    assert torch.equal(one.logits, two.logits)
    ours, theirs = cache.fast.tensors(), loaded.fast.tensors()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


FRESH_PROCESS = """
import sys, torch
sys.path[:0] = [{tests!r}]
import test_cache
from ttt_retrofit import TTTCache
torch.set_num_threads(1)
model = test_cache.converted()
cache = TTTCache.load({path!r}, model)
torch.save(test_cache.read(model, test_cache.tokens(2, 40)[:, 21:], cache).logits, {out!r})
"""


def test_a_fresh_process_goes_on_bit_for_bit(tmp_path):
    model, ids = converted(), tokens(2, 40)
    cache = read(model, ids[:, :21], mask=left_padded(2, 21, 5)).past_key_values
    path, out = str(tmp_path / "talk.safetensors"), str(tmp_path / "logits.pt")
    cache.save(path)
    script = FRESH_PROCESS.format(tests=str(__import__("pathlib").Path(__file__).parent), path=path, out=out)
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert torch.equal(read(model, ids[:, 21:], cache).logits, torch.load(out))


def test_a_conversation_goes_on_in_the_same_model_of_another_dtype(tmp_path):
    models = [wrap(tiny("llama").bfloat16().to(dtype), CONFIG) for dtype in (torch.float32, torch.bfloat16)]
    ids = tokens(1, 40)
    for model, other in (models, models[::-1]):
        cache = read(model, ids[:, :21]).past_key_values
        cache.save(tmp_path / "talk.safetensors")
        found = read(other, ids[:, 21:], TTTCache.load(tmp_path / "talk.safetensors", other)).logits
        torch.testing.assert_close(found.float(), read(model, ids[:, 21:], cache).logits.float(), atol=0.3, rtol=0)


def saved(tmp_path, model=None):
    model = model or converted()
    path = tmp_path / "talk.safetensors"
    read(model, tokens(1, 21)).past_key_values.save(path)
    return path


def rewrite_header(path, **changes):
    """Edit a file and seal it again."""
    tensors, texts = read_sealed(path)
    write_sealed(path, tensors, {"ttt_cache": json.dumps(json.loads(texts["ttt_cache"]) | changes)})


def test_another_base_is_refused(tmp_path):
    path = saved(tmp_path)
    other = tiny("llama")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    with pytest.raises(CheckpointError, match="belongs to another base"):
        TTTCache.load(path, wrap(other, CONFIG))


def test_another_configuration_is_refused(tmp_path):
    path = saved(tmp_path)
    other = TTTConfig.from_dict({**CONFIG.to_dict(), "rank": 3, "chunk_size": 5})
    with pytest.raises(CheckpointError, match="rank=4 there, 3 here"):
        TTTCache.load(path, converted(config=other))


def test_another_format_is_refused(tmp_path):
    path = saved(tmp_path)
    rewrite_header(path, format=99)
    with pytest.raises(CheckpointError, match="format 2: it says 99"):
        TTTCache.load(path, converted())


def test_a_file_of_something_else_is_refused(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no TTTCache"):
        TTTCache.load(tmp_path / "x.safetensors", converted())


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, length):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="cannot be read"):
        TTTCache.load(path, converted())


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors cannot be read"):
        TTTCache.load(tmp_path / "nowhere.safetensors", converted())


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path):
    path = saved(tmp_path)
    tensors, texts = read_sealed(path)
    del tensors["keys|1"], tensors["pending|ids"]
    write_sealed(path, tensors, texts)
    with pytest.raises(CheckpointError, match=r"lacks.*keys\|1"):
        TTTCache.load(path, converted())


def test_saving_is_atomic(tmp_path, monkeypatch):
    path = saved(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"No space left.*talk\.safetensors"):
        saved(tmp_path)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_empty_cache_can_be_saved(tmp_path):
    model = converted()
    model.new_cache().save(tmp_path / "empty.safetensors")
    loaded = TTTCache.load(tmp_path / "empty.safetensors", model)
    assert torch.equal(read(model, tokens(1, 8), loaded).logits, read(model, tokens(1, 8)).logits)


# ---------------------------------------------------------------------- rows


ROWS = {
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    "select": (lambda cache: cache.batch_select_indices(torch.tensor([2, 1])), [2, 1]),
    "select by mask": (lambda cache: cache.batch_select_indices(torch.tensor([True, False, True])), [0, 2]),
}


@pytest.mark.parametrize("how", ROWS)
@pytest.mark.parametrize("padding", [0, 5])
def test_rows_follow_their_choice(how, padding):
    model, ids, more = converted(), tokens(3, 21), tokens(3, 9, seed=1)
    change, rows = ROWS[how]
    cache = read(model, ids, mask=left_padded(3, 21, padding)).past_key_values
    expected = read(model, more, copy.deepcopy(cache))
    change(cache)
    output = read(model, more[rows], cache)
    torch.testing.assert_close(output.logits, expected.logits[rows], atol=1e-5, rtol=0)
    torch.testing.assert_close(cache.loss_by_chunk, expected.past_key_values.loss_by_chunk[rows], equal_nan=True)
    for name, tensor in expected.past_key_values.fast.tensors().items():
        torch.testing.assert_close(cache.fast.tensors()[name], tensor[rows], atol=1e-5, rtol=0)


def test_a_copy_goes_its_own_way():
    model, cache = converted(), read(converted(), tokens(1, 21)).past_key_values
    branch = copy.deepcopy(cache)
    read(model, tokens(1, 9, seed=1), branch)
    before = {name: tensor.clone() for name, tensor in cache.fast.tensors().items()}
    read(model, tokens(1, 30, seed=2), branch)
    assert all(torch.equal(cache.fast.tensors()[name], tensor) for name, tensor in before.items())
    assert cache.tokens_seen.tolist() == [21] and branch.tokens_seen.tolist() == [60]


def test_reset_is_a_fresh_start():
    model = converted()
    cache = read(model, tokens(2, 21), mask=left_padded(2, 21, 4)).past_key_values
    cache.reset()
    assert cache.rows is None and cache.nbytes == 0 and cache.get_seq_length() == 0
    assert torch.equal(read(model, tokens(1, 20), cache).logits, read(model, tokens(1, 20)).logits)


@pytest.mark.parametrize(
    "forbidden", [lambda c: c.crop(-3), lambda c: c.crop(2), lambda c: c.activate_past_recording()]
)
def test_nothing_can_be_rolled_back(forbidden):
    cache = read(converted(), tokens(1, 21)).past_key_values
    with pytest.raises(UnsupportedModelError, match="TTTCache"):
        forbidden(cache)
    assert cache.tokens_seen.tolist() == [21]


# ---------------------------------------------------------------------- what it says of itself


def test_losses_and_tokens_are_counted_by_row():
    cache = read(converted(), tokens(2, 21), mask=left_padded(2, 21, 8)).past_key_values
    assert cache.tokens_seen.tolist() == [13, 21] and cache.get_seq_length() == 21
    assert torch.isfinite(cache.loss_by_chunk).tolist() == [[True, True, False], [True, True, True]]
    assert cache.loss_by_chunk.dtype == torch.float32


def test_nbytes_counts_every_tensor_carried():
    cache = read(converted(), tokens(2, 21)).past_key_values
    keys = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    fast = sum(tensor.nbytes for tensor in cache.fast.tensors().values())
    assert cache.nbytes >= keys + fast + cache.pending.nbytes > 0


def test_a_cache_knows_its_batch():
    model = converted()
    cache = read(model, tokens(2, 8)).past_key_values
    with pytest.raises(InputError, match="holds 2 rows but the input has 3"):
        read(model, tokens(3, 4), cache)
