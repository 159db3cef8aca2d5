"""Rows of several documents, told apart by positions that begin anew: each is read as if it were alone."""

import pytest
import torch
from tiny import tiny, tokens
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from ttt_retrofit import InputError, TTTConfig, wrap

TTT = {"chunk_size": 8, "sliding_window": 12, "sink_tokens": 2, "relative_lr": 0.02}
LENGTHS = (5, 21, 12)


def packed(rows=1):
    ids = tokens(rows, sum(LENGTHS))
    return ids, torch.cat([torch.arange(length) for length in LENGTHS]).expand(rows, -1)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral"])
@pytest.mark.parametrize("rows", [1, 2])
def test_documents_in_a_row_are_each_alone(family, rows):
    model = wrap(tiny(family), TTTConfig(**TTT))
    ids, positions = packed(rows)
    output = model(ids, position_ids=positions)
    start = 0
    for length in LENGTHS:
        alone = model(ids[:, start : start + length])
        torch.testing.assert_close(output.logits[:, start : start + length], alone.logits, atol=1e-5, rtol=1e-5)
        start += length
    more = tokens(rows, 9, seed=5)
    going_on = model(more, past_key_values=output.past_key_values).logits  # from the last of them
    torch.testing.assert_close(
        going_on, model(more, past_key_values=alone.past_key_values).logits, atol=1e-5, rtol=1e-5
    )
    assert output.past_key_values.get_seq_length() == sum(LENGTHS) + 9


def test_the_backbone_alone_keeps_them_apart_too():
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    ids, positions = packed()
    hidden = model.model(ids, position_ids=positions).last_hidden_state
    torch.testing.assert_close(model.lm_head(hidden), model(ids, position_ids=positions).logits)


def test_with_learning_off_and_no_window_they_are_the_bases():
    base, model = tiny("llama"), wrap(tiny("llama"), TTTConfig(**TTT | {"sliding_window": None}, learn_from="none"))
    ids, positions = packed()
    for given in (positions, positions + 3, torch.tensor([[*range(5), *range(30, 51), *range(60, 72)]])):
        theirs = base(ids, position_ids=given, use_cache=False, labels=ids)
        ours = model(ids, position_ids=given, use_cache=False, labels=ids)
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.loss, theirs.loss)


def test_rows_with_other_documents_are_told_apart():
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    ids = tokens(2, 20)
    positions = torch.stack([torch.cat([torch.arange(6), torch.arange(14)]), torch.arange(20)])
    output = model(ids, position_ids=positions)
    torch.testing.assert_close(output.logits[0, 6:], model(ids[:1, 6:]).logits[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.logits[1], model(ids[1:]).logits[0], atol=1e-5, rtol=1e-5)
    assert output.past_key_values is None


def test_boundaries_alone_say_as_much_as_positions():
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    ids, positions = packed()
    edges = torch.tensor([0, 5, 26, 38], dtype=torch.int32)
    by_edges = model(ids, cu_seq_lens_q=edges, cu_seq_lens_k=edges, max_length_q=21, max_length_k=21).logits
    assert torch.equal(by_edges, model(ids, position_ids=positions).logits)
    with pytest.raises(InputError, match="boundaries from 0 to 38"):
        model(ids, cu_seq_lens_q=edges[:-1])


def test_a_document_that_begins_on_a_used_cache_is_refused():
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    cache = model.read(tokens(1, 9))
    ids, positions = packed()
    with pytest.raises(InputError, match="begin anew within a call"):
        model(ids, position_ids=positions, past_key_values=cache)
    assert cache.tokens_seen.tolist() == [9]


@pytest.mark.parametrize("kernels", [True, False])
def test_a_trainer_that_flattens_its_batches_sees_the_bases_loss(tmp_path, kernels):
    texts = [{"input_ids": tokens(1, length, seed=length)[0].tolist()} for length in (7, 19, 11, 30)]
    losses = []
    for model in (tiny("llama"), wrap(tiny("llama"), TTTConfig(**TTT | {"sliding_window": None}, learn_from="none"))):
        model.config.use_cache = False
        settings = TrainingArguments(tmp_path, per_device_eval_batch_size=4, report_to=[], use_cpu=True)
        collator = DataCollatorWithFlattening(return_flash_attn_kwargs=kernels)
        losses.append(Trainer(model, settings, eval_dataset=texts, data_collator=collator).evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
