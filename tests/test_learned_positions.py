"""Models with a table of learned positions: a row that has none left ends, and its neighbours go on."""

import pytest
import torch
from converted import ttt
from tiny import tiny, tokens

from ttt_retrofit import InputError, wrap

POSITIONS, PAD = 32, 1
FAMILIES = ["gpt2", "opt"]


def short(family: str):
    """A model whose answers never end by themselves."""
    model = wrap(tiny(family, max_position_embeddings=POSITIONS), ttt())
    model.generation_config.eos_token_id = [10_000]
    model.generation_config.pad_token_id = PAD
    return model


def padded(*rows):
    """(B, L) ids and mask, padding before them."""
    longest = max(len(row) for row in rows)
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :], mask[index, longest - len(row) :] = row, 1
    return ids, mask


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"use_cache": False}, {"learn_from": "prompt"}])
def test_a_row_that_has_no_position_left_ends_and_its_neighbours_go_on(family, settings):
    model = short(family)
    long, brief, middle = tokens(1, 28)[0], tokens(1, 6, 1)[0], tokens(1, 20, 2)[0]
    ids, mask = padded(long, brief, middle)
    wanted = {"max_new_tokens": 16, "do_sample": False, **settings}
    written = model.generate(ids, attention_mask=mask, **wanted)[:, ids.shape[1] :]
    assert written.shape[1] == 16
    for row, prompt in zip(written, (long, brief, middle)):
        alone = model.generate(prompt[None], **wanted)[0, len(prompt) :]
        # The last token is written with the last position, and needs none itself.
        assert len(alone) == min(16, POSITIONS + 1 - len(prompt))
        assert row.tolist() == alone.tolist() + [PAD] * (16 - len(alone))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_ended_row_may_run_out_of_positions_too(family):
    """It goes on being padded while others are written."""
    model = short(family)
    long, brief = tokens(1, 28)[0], tokens(1, 6, 1)[0]
    alone = model.generate(brief[None], max_new_tokens=16, do_sample=False)[0, 6:]
    model.generation_config.eos_token_id = int(model.generate(long[None], max_new_tokens=1, do_sample=False)[0, -1])
    ids, mask = padded(long, brief)
    written = model.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False)[:, 28:]
    assert set(written[0, 1:].tolist()) == {PAD}
    ended = [*alone.tolist(), model.generation_config.eos_token_id].index(model.generation_config.eos_token_id)
    assert written[1].tolist()[:ended] == alone.tolist()[:ended]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_that_is_too_long_is_still_refused(family):
    with pytest.raises(InputError, match=r"33 tokens.*32 positions"):
        short(family).generate(tokens(1, 33), max_new_tokens=2)
