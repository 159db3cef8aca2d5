"""At random cuts, paddings and batches: a row's result is that of its tokens alone, read in one call."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contracts import CHUNK, LENGTH, assert_same, converted, read
from tiny import tokens

from ttt_retrofit import TTTCache

PROPERTY = settings(max_examples=15, deadline=None, derandomize=True, database=None)
IDS = tokens(4, LENGTH)
POINTS = st.integers(1, LENGTH - 1)


@pytest.fixture(scope="module")
def model():
    return converted("gemma2")  # whose layers see a window of their own, or everything


@pytest.fixture(scope="module")
def alone(model):
    """Every row by itself, in one call."""
    return [read(model, row[None]) for row in IDS]


def in_calls(model, ids, cuts, cache=None):
    """Read `ids` in calls that end at `cuts`."""
    logits = []
    for part in ids.tensor_split(sorted(cuts), dim=1):
        some, cache = read(model, part, cache=cache)
        logits.append(some)
    return torch.cat(logits, dim=1), cache


@PROPERTY
@given(cuts=st.sets(POINTS, max_size=4))
def test_calls_cut_anywhere_change_nothing(model, alone, cuts):
    assert_same(in_calls(model, IDS[:1], cuts), alone[0])


@PROPERTY
@given(rows=st.lists(st.integers(0, 3), min_size=1, max_size=4), cuts=st.sets(POINTS, max_size=2))
def test_a_row_in_any_batch_is_the_row_alone(model, alone, rows, cuts):
    batch = in_calls(model, IDS[rows], cuts)
    for place, row in enumerate(rows):
        assert_same(batch, alone[row], place)


@PROPERTY
@given(lengths=st.lists(st.integers(CHUNK, LENGTH), min_size=2, max_size=3), side=st.sampled_from(["left", "right"]))
def test_padding_of_any_length_on_either_side_changes_nothing(model, lengths, side):
    width = max(lengths)
    ids, mask = torch.full((len(lengths), width), 5), torch.zeros(len(lengths), width, dtype=torch.long)
    real = [slice(width - n, width) if side == "left" else slice(n) for n in lengths]
    for row, (n, where) in enumerate(zip(lengths, real, strict=True)):
        ids[row, where], mask[row, where] = IDS[row, :n], 1
    logits, cache = read(model, ids, attention_mask=mask)
    for row, (n, where) in enumerate(zip(lengths, real, strict=True)):
        assert_same((logits[:, where], cache), read(model, IDS[row, :n][None]), row)


@PROPERTY
@given(point=POINTS, cuts=st.sets(POINTS, max_size=1))
def test_a_cache_saved_and_loaded_anywhere_goes_on_as_if_it_had_stayed(model, alone, point, cuts):
    before, cache = in_calls(model, IDS[:1, :point], {cut for cut in cuts if cut < point})
    with tempfile.TemporaryDirectory() as directory:
        cache.save(Path(directory) / "cache.safetensors")
        loaded = TTTCache.load(Path(directory) / "cache.safetensors", model)
    after, loaded = read(model, IDS[:1, point:], cache=loaded)
    assert_same((torch.cat([before, after], dim=1), loaded), alone[0])
