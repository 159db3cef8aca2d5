"""What reading and decoding ask of a device: no value, ever, and not more launches than were counted."""

import pytest
import torch

from benchmarks.launches import CASES, CHUNK, converted, counted, counts_of

ROOM = 1.05  # over what was counted
READING = {"default": 2181, "fast": 1534, "window and sinks": 1267}  # launches a chunk, of 32 layers
DECODING = {"default": 1338, "fast": 1297, "window and sinks": 1203}  # and a token, the step included
OTHER = {
    "lora": {"fast_weights": "lora", "rank": 4},
    "prime": {"fast_weights": "prime", "rank": 4},
    "sgd": {"inner_optimizer": "sgd"},
    "muon": {"inner_optimizer": "muon"},
    "in place": {"inner_rule": "in_place"},
}


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", [*CASES, *OTHER])
def test_in_the_steady_state_no_device_is_waited_for_and_nothing_is_sent_to_it(case, rows):
    model = converted(6, **{**CASES, **OTHER}[case])
    for tokens, calls in ((CHUNK, 3), (1, CHUNK), (5, CHUNK)):  # (1, CHUNK): to the end of a chunk, and its step
        counts = counts_of(model, tokens, calls, rows)
        assert not counts.waits and not counts.sends, (tokens, counts.waits, counts.sends)


def test_one_read_of_many_chunks_waits_for_nothing_but_for_its_first():
    model = converted(6)
    ids = torch.randint(3, 90, (1, 12 * CHUNK))
    cache = model.read(ids[:, : 6 * CHUNK])
    with counted() as counts:
        model.read(ids[:, 6 * CHUNK :], past_key_values=cache)
    assert not counts.waits


def test_rows_that_have_read_differently_far_go_on_without_a_wait():
    model = converted(6)
    ids, mask = torch.randint(3, 90, (2, 8 * CHUNK)), torch.ones(2, 8 * CHUNK, dtype=torch.long)
    mask[0, :5] = 0
    cache = model.read(ids, attention_mask=mask)
    with counted() as counts, torch.no_grad():
        for token in ids[:, : 2 * CHUNK].split(1, 1):
            model(token, past_key_values=cache, use_cache=True)
    assert not counts.waits


def test_what_was_counted_is_seen_by_whoever_looks():
    model = converted(6)
    cache = model.read(torch.randint(3, 90, (1, 4 * CHUNK)))
    with counted() as counts:
        assert len(cache.losses[0]) == 4
    assert counts.waits


@pytest.mark.parametrize("case", CASES)
def test_a_chunk_and_a_token_take_no_more_launches_than_were_counted(case):
    model = converted(**CASES[case])
    assert counts_of(model, CHUNK, 1).launches.total() <= ROOM * READING[case]
    assert counts_of(model, 1, CHUNK).launches.total() / CHUNK <= ROOM * DECODING[case]
