"""A forward that is interrupted has read whole segments: afterwards each has happened or it has not."""

import itertools
import sys

import pytest
import torch
from tiny import tiny, tokens

from ttt_retrofit import TTTConfig, wrap

TTT = {"chunk_size": 8, "sliding_window": 12, "sink_tokens": 2, "relative_lr": 0.05}


class Interrupted(KeyboardInterrupt):
    """Raised by the tests alone."""


def converted(**changes):
    return wrap(tiny("llama"), TTTConfig(**{**TTT, **changes}))


def state_of(cache):
    """All that a cache carries, under names; keys and values of the tokens that can be seen, in their order."""
    found = {**cache.fast.tensors(), "seen": cache.tokens_seen, "digest": cache.digest, "marks": cache.marks}
    for index, layer in enumerate(cache.layers):
        group = cache.groups[cache.group_of[index]]
        for row, (indices, seen) in enumerate(zip(group.indices, cache.counts)):
            visible = ((indices >= seen - group.window + 1) | (indices < group.sinks)) & (indices >= 0)
            order = indices.masked_fill(~visible, 10**6).argsort()[: int(visible.sum())]
            found[f"keys {index} {row}"], found[f"values {index} {row}"] = (t[row][:, order] for t in layer.past())
    if cache.pending is not None:
        found["waiting"] = torch.tensor(cache.pending.lengths)
    return found


STREAMING = ("reading.py", "cache.py", "kv.py", "views.py", "ring.py", "captured.py", "state.py")
INNER = ("learning.py", "inner_loop.py", "inner_optimizers.py")


def interrupted_at(line, function, files=(*STREAMING, *INNER)):
    """Run `function`, with an interrupt at the `line`-th line that it executes in these files of the library.

    Returns
    -------
    Whether it came so far.
    """
    count = 0

    def in_frame(frame, event, _):
        nonlocal count
        if event == "line":
            count += 1
            if count == line:
                raise Interrupted
        return in_frame

    def trace(frame, event, _):
        path = frame.f_code.co_filename
        return in_frame if "ttt_retrofit" in path and path.endswith(files) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def check_lines(cache_of, go_on, stride):
    """Interrupt `go_on` at every `stride`-th line that it executes, and compare what it then ends in."""
    whole = cache_of()
    go_on(whole)
    expected = state_of(whole)
    for line in itertools.count(1, stride):
        cache = cache_of()
        if not interrupted_at(line, lambda cache=cache: go_on(cache)):
            break
        go_on(cache)  # whatever is left
        found = state_of(cache)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5, msg=f"line {line}: {name}")
    assert line > 20 * stride


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_after_an_interrupt_at_any_line_a_read_goes_on_as_if_nothing_had_been(optimizer):
    model = converted(inner_optimizer=optimizer, relative_lr=None, max_relative_update=0.02)
    ids = tokens(2, 29)

    def begun():
        with torch.no_grad():
            return model(ids[:, :5]).past_key_values

    def go_on(cache):
        left = ids[:, cache.get_seq_length() :]
        if left.shape[1]:
            with torch.no_grad():
                model(left, past_key_values=cache)
        cache.fast.settle()

    check_lines(begun, go_on, stride=37)


@pytest.mark.slow
def test_a_read_over_a_ring_goes_on_as_well():
    model = converted()
    model.static_shapes = True
    ids = tokens(1, 41)

    def begun():
        return model.read(ids[:, :24])

    def go_on(cache):
        if cache.get_seq_length() < 41:
            model.read(ids[:, cache.get_seq_length() :], past_key_values=cache)
        cache.fast.settle()

    check_lines(begun, go_on, stride=47)


@pytest.mark.slow
def test_rows_of_a_padded_batch_go_on_each_from_where_it_was():
    model = converted()
    ids = tokens(3, 30)
    mask = torch.ones_like(ids)
    mask[0, :9], mask[1, 20:], mask[2, 11:14] = 0, 0, 0

    def go_on(cache):
        past = cache.get_seq_length()
        if past < 30:
            with torch.no_grad():
                model(ids[:, past:], attention_mask=mask, past_key_values=cache)
        cache.fast.settle()

    check_lines(model.new_cache, go_on, stride=61)


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("call, static", [(1, False), (2, False), (5, False), (5, True)])
def test_a_device_that_runs_out_of_memory_in_a_layer_costs_at_most_one_segment(layer, call, static):
    model = converted()
    model.static_shapes = static
    ids = tokens(1, 40)
    expected = model.read(ids)
    calls = 0

    def fail(*_):
        nonlocal calls
        calls += 1
        if calls == call:
            raise torch.OutOfMemoryError("out of memory")

    hook = model.model.layers[layer].register_forward_hook(fail)
    cache = model.new_cache()
    with pytest.raises(torch.OutOfMemoryError):
        model.read(ids, past_key_values=cache)
    hook.remove()
    assert cache.get_seq_length() == int(cache.tokens_seen.sum()) == 8 * (call - 1)
    cache = model.read(ids[:, cache.get_seq_length() :], past_key_values=cache)
    for name, tensor in state_of(expected).items():
        torch.testing.assert_close(state_of(cache)[name], tensor, msg=name)
    assert torch.equal(cache.loss_by_chunk, expected.loss_by_chunk)


def test_an_interrupted_generate_can_be_called_again():
    model = converted()
    ids = tokens(2, 20)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(ids, **settings)
    calls = 0

    def fail(*_):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise Interrupted

    hook = model.model.layers[2].register_forward_hook(fail)
    cache = model.new_cache()
    with pytest.raises(Interrupted):
        model.generate(ids, past_key_values=cache, **settings)
    hook.remove()
    written = expected[:, : cache.get_seq_length() + 1]
    settings["max_new_tokens"] = expected.shape[1] - written.shape[1]
    assert torch.equal(model.generate(written, past_key_values=cache, **settings), expected)
