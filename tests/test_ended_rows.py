"""Rows that end before others in `generate`: what is written behind their last word is padding until a mask says so."""

import pytest
import torch
from tiny import tiny, tokens

from ttt_retrofit import InputError, TTTConfig, wrap

PAD, EOS = 0, 2
TTT = {"chunk_size": 8, "sliding_window": 12, "sink_tokens": 2, "relative_lr": 0.02}
SETTINGS = {"do_sample": False, "pad_token_id": PAD, "max_new_tokens": 14}


def left_padded(*rows):
    """(B, T) ids and mask."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros_like(ids)
    for row, said in enumerate(rows):
        ids[row, width - len(said) :], mask[row, width - len(said) :] = torch.tensor(said), 1
    return ids, mask


def first_turn(model, ids, mask, end):
    """What is written, with a row's mask as a user makes it: 0 at the padding behind its end."""
    cache = model.new_cache() if hasattr(model, "new_cache") else None
    written = model.generate(ids, attention_mask=mask, past_key_values=cache, eos_token_id=end, **SETTINGS)
    behind = written[:, ids.shape[1] :]
    ended = (behind == end).cumsum(1) - (behind == end).long() > 0
    return cache, written, torch.cat([mask, (~ended).long()], dim=1)


def ends_early(model, ids, mask):
    """A token that makes row 0 end long before row 1."""
    free = model.generate(ids, attention_mask=mask, eos_token_id=None, **SETTINGS)[:, ids.shape[1] :]
    for place in range(1, 8):
        token = int(free[0, place])
        if token not in free[0, :place].tolist() and token not in free[1].tolist():
            return token
    raise AssertionError("no token tells the rows apart")


@pytest.fixture(scope="module")
def talk():
    ids, mask = left_padded(tokens(1, 5, seed=1)[0].tolist(), tokens(1, 9, seed=2)[0].tolist())
    return ids, mask, tokens(2, 6, seed=3)


@pytest.mark.parametrize("learning", [True, False])
def test_a_second_turn_is_that_of_each_row_alone(talk, learning):
    ids, mask, more = talk
    model = wrap(tiny("llama"), TTTConfig(**TTT, learn_from="all" if learning else "none"))
    end = ends_early(model, ids, mask)
    cache, written, real = first_turn(model, ids, mask, end)
    assert real[0].sum() + 5 < real[1].sum()
    given = torch.cat([written, more], dim=1)
    real = torch.cat([real, torch.ones_like(more)], dim=1)
    past = cache.get_seq_length()
    together = model(given[:, past:], attention_mask=real, past_key_values=cache).logits[:, -6:]
    for row in range(2):
        alone = given[row][real[row].bool()][None]
        torch.testing.assert_close(together[row], model(alone).logits[0, -6:], atol=1e-5, rtol=1e-5)
    assert cache.tokens_seen.tolist() == real.sum(1).tolist()


def test_without_a_window_and_learning_it_is_the_bases(talk):
    ids, mask, more = talk
    base = tiny("llama")
    model = wrap(tiny("llama"), TTTConfig(**TTT | {"sliding_window": None}, learn_from="none"))
    end = ends_early(model, ids, mask)
    cache, written, real = first_turn(model, ids, mask, end)
    given, real = torch.cat([written, more], dim=1), torch.cat([real, torch.ones_like(more)], dim=1)
    ours = model(given[:, cache.get_seq_length() :], attention_mask=real, past_key_values=cache).logits[:, -6:]
    positions = (real.cumsum(1) - 1).clamp_min(0)
    theirs = base(given, attention_mask=real, position_ids=positions).logits[:, -6:]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_what_a_later_mask_calls_real_is_read_then(talk):
    """As a model without state would: with no mask, everything is real."""
    ids, more = tokens(2, 9, seed=7), talk[2]
    ones = torch.ones_like(ids)
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    end = ends_early(model, ids, ones)
    cache, written, _ = first_turn(model, ids, ones, end)
    given = torch.cat([written, more], dim=1)
    together = model(given[:, cache.get_seq_length() :], past_key_values=cache).logits[:, -6:]
    torch.testing.assert_close(together, model(given).logits[:, -6:], atol=1e-5, rtol=1e-5)


def test_a_mask_of_the_new_tokens_alone_takes_the_last_word_for_real(talk):
    ids, mask, more = talk
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    end = ends_early(model, ids, mask)
    cache, written, real = first_turn(model, ids, mask, end)
    past = cache.get_seq_length()
    new = torch.cat([written[:, past:], more], dim=1)
    fresh = torch.cat([real[:, past:], torch.ones_like(more)], dim=1)
    logits = model(new, attention_mask=fresh, past_key_values=cache).logits[0, -6:]
    alone = torch.cat([written[0][real[0].bool()], more[0]])[None]
    torch.testing.assert_close(logits, model(alone).logits[0, -6:], atol=1e-5, rtol=1e-5)


def test_generating_on_in_a_second_and_third_turn_is_that_of_each_row_alone(talk):
    ids, mask, _ = talk
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    end = ends_early(model, ids, mask)
    cache, real = model.new_cache(), mask
    alone = [ids[row][mask[row].bool()][None] for row in range(2)]
    for turn in range(3):
        written = model.generate(ids, attention_mask=real, past_key_values=cache, eos_token_id=end, **SETTINGS)
        behind = written[:, ids.shape[1] :]
        ended = (behind == end).cumsum(1) - (behind == end).long() > 0
        real = torch.cat([real, (~ended).long()], dim=1)
        said = tokens(2, 4, seed=10 + turn)
        for row in range(2):
            ones = torch.ones_like(alone[row])
            own = model.generate(alone[row], attention_mask=ones, eos_token_id=end, **SETTINGS)
            assert torch.equal(own[0], written[row][real[row].bool()])
            alone[row] = torch.cat([own, said[row : row + 1]], dim=1)
        ids, real = torch.cat([written, said], dim=1), torch.cat([real, torch.ones_like(said)], dim=1)


def test_a_saved_conversation_knows_what_its_rows_have_not_read(talk, tmp_path):
    ids, mask, more = talk
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    end = ends_early(model, ids, mask)
    cache, written, real = first_turn(model, ids, mask, end)
    cache.save(tmp_path / "talk.safetensors")
    loaded = type(cache).load(tmp_path / "talk.safetensors", model)
    given, real = torch.cat([written, more], dim=1), torch.cat([real, torch.ones_like(more)], dim=1)
    past = cache.get_seq_length()
    ours, theirs = (model(given[:, past:], attention_mask=real, past_key_values=c).logits for c in (cache, loaded))
    assert torch.equal(ours, theirs)


def test_a_mask_that_takes_back_what_was_read_is_refused(talk):
    ids, _, more = talk
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    cache = model.read(ids)
    mask = torch.ones(2, ids.shape[1] + more.shape[1])
    mask[1, 3] = 0
    with pytest.raises(InputError, match=r"in row 1 it has 8 of 9 columns, and 9 were read"):
        model(more, attention_mask=mask, past_key_values=cache)
    assert cache.tokens_seen.tolist() == [9, 9]
    mask[1, 3] = 1
    model(more, attention_mask=mask, past_key_values=cache)


def test_generate_refuses_tokens_that_do_not_begin_with_what_was_read(talk):
    ids, mask, more = talk
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    cache = model.read(ids, attention_mask=mask)
    given, real = torch.cat([ids, more], dim=1), torch.cat([mask, torch.ones_like(more)], dim=1)
    wrong = given.clone()
    wrong[1, 2] += 1
    with pytest.raises(InputError, match="tokens of row 1 are not those that the cache has read"):
        model.generate(wrong, attention_mask=real, past_key_values=cache, **SETTINGS)
    with pytest.raises(InputError, match="tokens of row 0 are not those"):
        model.generate(given, attention_mask=torch.ones_like(given), past_key_values=cache, **SETTINGS)
    new = model.generate(more, attention_mask=real, past_key_values=model.read(ids, attention_mask=mask), **SETTINGS)
    whole = model.generate(given, attention_mask=real, past_key_values=cache, **SETTINGS)
    assert torch.equal(new[:, more.shape[1] :], whole[:, given.shape[1] :])
