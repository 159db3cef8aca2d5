"""Results depend on the tokens of a row alone: not on calls, on neighbours, or on padding.

In every family, and under both rules of the inner loop.
"""

import pytest
import torch
from tiny import FAMILIES, tiny, tokens

from ttt_retrofit import TTTConfig, wrap

CHUNK, LENGTH = 6, 29
# The window is far shorter than the text, and the families' own windows (9 tokens) are in effect beside it.
LEARNING = {"layers": "all", "chunk_size": CHUNK, "sliding_window": 11, "sink_tokens": 2}
LEARNING |= {"inner_optimizer": "sgd", "inner_lr": 0.1, "max_relative_update": 0.3}
RULES = {"gradient": {}, "in_place": {"inner_rule": "in_place", "inner_lr": 1.0}}


def converted(family, rule="gradient", **changes):
    return wrap(tiny(family), TTTConfig(**{**LEARNING, **RULES[rule], **changes}))


def read(model, ids, split=None, cache=None, **inputs):
    """Logits and cache after reading `ids` in calls of `split` tokens."""
    logits = []
    with torch.no_grad():
        for part in ids.split(split or ids.shape[1], dim=1):
            output = model(part, past_key_values=cache, **inputs)
            cache = output.past_key_values
            logits.append(output.logits)
    return torch.cat(logits, dim=1), cache


def assert_same(one: tuple, other: tuple, row: int | None = None):
    """Logits and state of `one` (its row `row`) equal those of `other`, to 1e-4."""
    rows = slice(None) if row is None else slice(row, row + 1)
    torch.testing.assert_close(one[0][rows], other[0], atol=1e-4, rtol=1e-4)
    ours, theirs = one[1].fast.tensors(), other[1].fast.tensors()
    assert ours.keys() == theirs.keys() and ours
    for name in ours:
        torch.testing.assert_close(
            ours[name][rows], theirs[name], atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    for mine, its in zip(one[1].losses[rows], other[1].losses, strict=True):
        assert mine == pytest.approx(its, abs=1e-4)
    assert one[1].tokens_seen[rows].tolist() == other[1].tokens_seen.tolist()


SPLITS = [(family, "gradient", split) for family in FAMILIES for split in (CHUNK, 7, 1)]
SPLITS += [(family, "in_place", 7) for family in FAMILIES]
SPLITS += [("llama", "in_place", split) for split in (CHUNK, 1)]


@pytest.mark.parametrize("family,rule,split", SPLITS)
def test_splitting_into_calls_changes_nothing(family, rule, split):
    model, ids = converted(family, rule), tokens(2, LENGTH)
    assert_same(read(model, ids), read(model, ids, split))


def padded(ids: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of two: `ids[0]` whole, and the first of `ids[1]` where `real` says, with junk elsewhere."""
    batch = torch.full_like(ids, 5)
    batch[0] = ids[0]
    batch[1, real] = ids[1, : int(real.sum())]
    return batch, torch.stack([torch.ones_like(real), real]).long()


PADDINGS = {
    "left": torch.arange(LENGTH) >= 8,
    "right": torch.arange(LENGTH) < 20,
    "mixed": torch.isin(torch.arange(LENGTH), torch.tensor([0, 1, 9, 10, 11, 27, 28]), invert=True),
}
ROWS = [(family, "gradient") for family in FAMILIES]
ROWS += [(family, "in_place") for family in ("llama", "gemma2", "gpt2", "qwen2_moe")]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("family,rule", ROWS)
def test_a_row_beside_another_and_padding_is_the_row_alone(family, rule, padding):
    model, ids, real = converted(family, rule), tokens(2, LENGTH), PADDINGS[padding]
    batch, mask = padded(ids, real)
    logits, cache = read(model, batch, attention_mask=mask)
    assert_same((logits, cache), read(model, ids[:1]), row=0)
    assert_same((logits[:, real], cache), read(model, ids[1:, : int(real.sum())]), row=1)


@pytest.mark.parametrize("optimizer,rate", [("sgd", {}), ("adam", {"inner_lr": 1e-3}), ("muon", {"inner_lr": 0.02})])
@pytest.mark.parametrize(
    "rule,kind", [("gradient", "delta"), ("gradient", "lora"), ("gradient", "prime"), ("in_place", "delta")]
)
def test_every_kind_and_optimizer_keeps_both_contracts(rule, kind, optimizer, rate):
    model = converted("qwen3", rule, fast_weights=kind, rank=4, inner_optimizer=optimizer, **rate)
    ids = tokens(2, LENGTH)
    whole = read(model, ids)
    assert_same(whole, read(model, ids, 7))
    assert_same(whole, read(model, ids[1:]), row=1)


@pytest.mark.parametrize("window", [None, CHUNK, 40])
def test_every_window_keeps_both_contracts(window):
    model, ids = converted("gemma2", sliding_window=window), tokens(2, LENGTH)
    whole = read(model, ids)
    assert_same(whole, read(model, ids, 7))
    assert_same(whole, read(model, ids[1:]), row=1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_moe", "gemma3n_text"])
def test_past_the_trained_length_both_contracts_hold(family):
    """Sinks move along there, so that they are never further away than the model has seen."""
    model, ids = wrap(tiny(family, max_position_embeddings=24), TTTConfig(**LEARNING)), tokens(2, 80)
    whole = read(model, ids)
    assert max(whole[1].sinks.anchors) > 0
    for split in (7, 1):
        assert_same(whole, read(model, ids, split))
    assert_same(whole, read(model, ids[1:]), row=1)
    mask = torch.ones_like(ids)
    mask[1, :13] = 0
    logits, cache = read(model, ids, attention_mask=mask)
    assert_same((logits[:, 13:], cache), read(model, ids[1:, 13:]), row=1)


@pytest.mark.parametrize("first", ["left", "right"])
def test_padded_calls_follow_each_other_as_if_there_were_no_padding(first):
    """Two ragged turns, each with its own mask, the second falling into the middle of a chunk."""
    model, ids = converted("mistral"), tokens(2, LENGTH)
    real = torch.arange(10) >= 4 if first == "left" else torch.arange(10) < 6
    turn, mask = padded(ids[:, :10], real)
    with torch.no_grad():
        one = model(turn, attention_mask=mask)
        rest = torch.stack([ids[0, 10:29], ids[1, 6:25]])
        two = model(
            rest, past_key_values=one.past_key_values, attention_mask=torch.cat([mask, torch.ones_like(rest)], 1)
        )
    alone = read(model, ids[1:, :25])
    assert_same((torch.cat([one.logits[:, real], two.logits], 1), two.past_key_values), alone, row=1)


def test_positions_given_by_the_caller_do_not_depend_on_the_split():
    model, ids = converted("llama"), tokens(1, LENGTH)
    positions = torch.arange(LENGTH)[None] + 3
    with torch.no_grad():
        whole = model(ids, position_ids=positions)
        one = model(ids[:, :10], position_ids=positions[:, :10])
        two = model(ids[:, 10:], position_ids=positions[:, 10:], past_key_values=one.past_key_values)
    assert_same((whole.logits, whole.past_key_values), (torch.cat([one.logits, two.logits], 1), two.past_key_values))


@pytest.mark.parametrize("rule", RULES)
def test_switching_learning_off_in_the_middle_of_a_chunk_does_not_depend_on_the_split(rule):
    model, ids = converted("llama", rule), tokens(2, LENGTH)

    def run(split):
        cache = read(model, ids[:, :15], split)[1]
        return read(model, ids[:, 15:], split, cache, learn_from="none")

    assert_same(run(None), run(1))


@pytest.mark.parametrize("keep", [1, 3, 8])
def test_logits_to_keep_are_the_last_of_all(keep):
    model, ids = converted("llama"), tokens(2, LENGTH)
    mask = torch.ones_like(ids)
    for padding in (0, 4):
        mask[1, :padding] = 0
        with torch.no_grad():
            every = model(ids, attention_mask=mask).logits
            kept = model(ids, attention_mask=mask, logits_to_keep=keep).logits
        torch.testing.assert_close(kept, every[:, -keep:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("keep", [0, 4, 8])
def test_rows_whose_chunks_end_at_different_tokens_give_all_their_logits(keep):
    """Both rows begin with three tokens together, then the one with a chunk begun goes on alone."""
    model, first, new = converted("llama"), tokens(2, 9), tokens(2, 10, seed=1)
    caches = []
    for row in (0, 1, slice(0, 2)):
        real = torch.tensor([[1] * 5 + [0] * 4, [1] * 9])
        begun = torch.tensor([[1] * 3, [0] * 3])
        ids, more = first[row].view(-1, 9), new[row].view(-1, 10)
        _, cache = read(model, ids, learn_from="none", attention_mask=real[row].view(-1, 9))
        if row != 1:
            _, cache = read(model, ids[:, :3], cache=cache, attention_mask=begun[row].view(-1, 3))
        caches.append(read(model, more, cache=cache, learn_from="none", logits_to_keep=keep))
    assert_same(caches[2], caches[0], 0)
    torch.testing.assert_close(caches[2][0][1:], caches[1][0], atol=1e-4, rtol=1e-4)
