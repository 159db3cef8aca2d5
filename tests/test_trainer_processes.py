"""transformers' Trainer in several processes: DistributedDataParallel waits for a gradient of every parameter."""

import pytest
import torch
from converted import converted
from launched import launched
from test_trainer import trainer
from tiny import tokens

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("length", [5, 8, 9, 17])
def test_every_parameter_has_a_gradient_however_few_tokens_there_are(kind, length):
    """Chunks are of 8 tokens: no chunk, a chunk whose update nothing depends on, and more."""
    model, ids = converted("llama", kind), tokens(2, length)
    expected = converted("llama", kind)(ids, labels=ids).loss
    output = model(ids, labels=ids)
    output.loss.backward()
    assert torch.equal(output.loss, expected)
    assert all(parameter.grad is not None for parameter in model.parameters())
    if length <= 8:
        assert all(site.log_lr.grad == 0 for site in model.sites)


def test_logits_in_a_graph_may_be_written_in_place():
    """As losses with a temperature do."""
    found = []
    for in_place in (False, True):
        model, ids = converted(), tokens(1, 20)
        logits = model(ids).logits
        (logits.div_(2) if in_place else logits / 2).square().sum().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert torch.equal(*found)


LAUNCHED = """
from test_trainer_processes import moved
results = [moved({folder!r}, "lora", 1, ddp_backend="gloo", ddp_find_unused_parameters=False, **settings)
           for settings in ({{}}, {{"gradient_checkpointing": True}})]
"""


def moved(folder, kind, batch, **settings):
    """How far Trainer moves a model over rows of which some fill no chunk."""
    model = converted("llama", kind)
    before = torch.cat([parameter.detach().clone().flatten() for parameter in model.parameters()])
    run = trainer(
        model, folder, per_device_train_batch_size=batch, optim="sgd", learning_rate=0.1, max_steps=4, **settings
    )
    run.train_dataset.rows = [{"input_ids": tokens(1, n, seed=n)[0].tolist()} for n in (5, 33, 6, 3, 20, 7, 4, 12)]
    run.train()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before


def test_two_processes_step_with_a_batch_that_fills_no_chunk(tmp_path):
    found = launched(tmp_path, LAUNCHED.format(folder=str(tmp_path / "run")), 2)
    expected = moved(tmp_path, "lora", 2)
    for two in found:
        assert (two - expected).norm() < 1e-3 * expected.norm()
