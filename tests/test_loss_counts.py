"""The loss of a padded batch and the number of tokens it is divided by speak of the same tokens."""

import pytest
import torch
from tiny import tiny, tokens
from transformers import Trainer, TrainingArguments

from ttt_retrofit import TTTConfig, wrap

TTT = {"chunk_size": 8, "sliding_window": None, "learn_from": "none"}
LENGTHS = (12, 5, 20)


def batch(side):
    width = max(LENGTHS)
    ids = torch.zeros(len(LENGTHS), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        at = slice(width - length, width) if side == "left" else slice(length)
        ids[row, at], mask[row, at] = tokens(1, length, seed=row)[0], 1
    return ids, mask, ids.masked_fill(mask == 0, -100)


def alone(model):
    """The loss over all tokens that anything predicts, each row read by itself."""
    texts = [tokens(1, length, seed=row) for row, length in enumerate(LENGTHS)]
    rows = [model(text, labels=text).loss for text in texts]
    return sum(loss * (length - 1) for loss, length in zip(rows, LENGTHS)) / (sum(LENGTHS) - len(LENGTHS))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_loss_is_the_mean_over_predicted_tokens_counted_by_the_model_or_by_a_trainer(side):
    base, model = tiny("llama"), wrap(tiny("llama"), TTTConfig(**TTT))
    ids, mask, labels = batch(side)
    expected = alone(base)
    by_trainer = (labels[:, 1:] != -100).sum()  # as Trainer counts
    torch.testing.assert_close(model(ids, attention_mask=mask, labels=labels).loss, expected)
    counted = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=by_trainer).loss
    torch.testing.assert_close(counted, expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_trainer_reports_it(tmp_path, side):
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    expected = alone(tiny("llama")).item()
    ids, mask, labels = batch(side)
    rows = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels)]
    settings = TrainingArguments(
        tmp_path, per_device_train_batch_size=3, max_steps=1, logging_steps=1, learning_rate=0.0, report_to=[],
        use_cpu=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, settings, train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-3)


def test_part_of_a_batch_weighs_as_much_as_it_was_counted():
    """Two micro-batches of one step: their losses add up to that of the whole."""
    model = wrap(tiny("llama"), TTTConfig(**TTT))
    ids, mask, labels = batch("right")
    count = (labels[:, 1:] != -100).sum()
    parts = [
        model(ids[at], attention_mask=mask[at], labels=labels[at], num_items_in_batch=count).loss
        for at in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), alone(tiny("llama")))
