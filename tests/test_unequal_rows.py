"""Rows of unequal length: however a step of the outer optimizer is split, its gradient is that of the token mean."""

import pytest
import torch
from test_meta_trainer import CHUNK, MODES, converted, logged, trainer
from tiny import tokens

from ttt_retrofit import ConfigError
from ttt_retrofit.outer.gradients import outer_gradients
from ttt_retrofit.outer.parameters import choose

CHUNKS = (8, 2, 5, 3)  # by document
DIFFERENCES = {"exact": 1e-2, "truncated": 1e-2}  # are as long as the steps of the rows that are read together


def unequal(chunks=CHUNKS) -> list[list[int]]:
    return [tokens(1, count * CHUNK, seed=seed)[0].tolist() for seed, count in enumerate(chunks)]


def one_step(folder, gradients, batch, accumulated=1, model=None, chunks=CHUNKS, **settings):
    """What one step of the outer optimizer moves, without clipping, and the loss it reports."""
    run = trainer(
        folder, model or converted(fast_weights="lora"), unequal(chunks), sequence_length=8 * CHUNK, max_steps=1,
        optim="sgd", max_grad_norm=0, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulated,
        gradients=gradients, truncate_chunks=2, learning_rate=1.0, log_lr_learning_rate=1.0, **settings,
    )  # fmt: skip
    before = [parameter.detach().clone() for parameter in run.outer.all]
    run.train()
    return torch.cat([(p.detach() - b).flatten() for p, b in zip(run.outer.all, before)]), logged(run, "loss")[0]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_split_of_a_step_takes_the_step_of_the_token_mean(tmp_path, mode):
    model = converted(fast_weights="lora")
    outer = choose(model, ["start", "log_lr"])
    alone = [outer_gradients(model, outer, torch.tensor([row]), None, mode, 2, weight=1.0) for row in unequal()]
    total = [sum(one.gradients.get(p, torch.zeros_like(p)) for one in alone) for p in outer.all]
    expected = torch.cat([-gradient.flatten() for gradient in total]) / sum(CHUNKS)
    loss = sum(one.losses.double().sum().item() for one in alone) / sum(CHUNKS)
    for batch, accumulated in ((4, 1), (2, 2), (1, 4)):
        moved, reported = one_step(tmp_path, mode, batch, accumulated)
        assert (moved - expected).norm() < DIFFERENCES.get(mode, 1e-4) * expected.norm()
        assert reported == pytest.approx(loss, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_last_partial_accumulation_of_an_epoch_is_a_token_mean(tmp_path, mode):
    """Three batches make the first step, the fourth the second."""
    ends = []
    for batch, accumulated in ((3, 1), (1, 3)):
        run = trainer(
            tmp_path, converted(fast_weights="lora"), unequal(), sequence_length=8 * CHUNK, max_steps=2, optim="sgd",
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulated, gradients=mode,
        )  # fmt: skip
        before = torch.cat([p.detach().clone().flatten() for p in run.outer.all])
        run.train()
        ends.append(torch.cat([p.detach().flatten() for p in run.outer.all]) - before)
    assert (ends[0] - ends[1]).norm() < DIFFERENCES.get(mode, 1e-4) * ends[0].norm()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
def test_padding_on_either_side_is_not_seen(mode, kind):
    model = converted(fast_weights=kind)
    outer, longest = choose(model, ["start", "log_lr"]), max(CHUNKS) * CHUNK
    found = []
    for left in (True, False):
        ids, mask = torch.zeros(2, 4, longest, dtype=torch.long)
        for index, row in enumerate(unequal()):
            place = slice(longest - len(row), None) if left else slice(len(row))
            ids[index, place], mask[index, place] = torch.tensor(row), 1
        outcome = outer_gradients(model, outer, ids, mask, mode, 2)
        found.append(torch.cat([g.flatten() for g in outcome.gradients.values()]))
    assert torch.equal(*found)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_evaluation_is_the_token_mean_however_it_is_batched(tmp_path, batch):
    model = converted(fast_weights="delta")
    run = trainer(tmp_path, model, sequence_length=8 * CHUNK, per_device_eval_batch_size=batch)
    with torch.no_grad():
        losses = [model(torch.tensor([row])).past_key_values.loss_by_chunk.double() for row in unequal()]
    expected = torch.cat(losses, 1).mean().item()
    assert run.evaluate(unequal())["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_a_mean_of_means_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="average_tokens_across_devices=False"):
        trainer(tmp_path, average_tokens_across_devices=False)
