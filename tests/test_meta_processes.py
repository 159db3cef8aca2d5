"""`TTTTrainer` in several processes, and where it leaves a loss for Trainer to add up."""

import pytest
import torch
from accelerate import Accelerator, DistributedType
from launched import launched
from test_meta_trainer import MODES, trainer

from ttt_retrofit import ConfigError

pytestmark = pytest.mark.slow

SPREAD = ("first_order", "exact")  # over processes; that of rows over batches is test_unequal_rows


def test_a_sharded_launch_is_refused(tmp_path, monkeypatch):
    """Where the launcher, not the settings, asks for it."""
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ConfigError, match="FSDP shards parameters"):
        trainer(tmp_path)


LAUNCHED = """
import datasets
from pathlib import Path
from test_meta_trainer import converted, documents, trainer, logged
from test_unequal_rows import one_step, unequal
results = {{"unequal": {{mode: one_step({folder!r}, mode, {batch}, ddp_backend={backend!r}) for mode in {modes!r}}}}}
for gradients in ("first_order", "exact"):
    for steps in (2, 3):  # killed after the second
        model = converted(fast_weights="delta")
        before = [p.detach().clone() for p in model.parameters()]
        run = trainer({folder!r} + gradients, model, documents(), max_steps=steps, save_strategy="steps", save_steps=1,
                      per_device_train_batch_size={batch}, optim="sgd", gradients=gradients, ddp_backend={backend!r},
                      save_total_limit=1, eval_dataset=documents(5), per_device_eval_batch_size=2)
        run.train(resume_from_checkpoint=steps == 3)
    assert [path.name for path in Path({folder!r} + gradients).glob("[!.]*")] == ["checkpoint-3"]
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before)])
    results[gradients] = {{"moved": moved, "loss": logged(run, "loss")}}
stream = datasets.Dataset.from_dict({{"input_ids": unequal()[:3]}}).to_iterable_dataset()
evaluated = [run.evaluate(), run.evaluate(unequal()), run.evaluate(unequal()[:1]), run.evaluate(stream)]
results["eval"] = [metrics["eval_loss"] for metrics in evaluated]
"""


def test_two_processes_take_the_steps_of_one_with_the_same_global_batch(tmp_path):
    results = []
    for processes, batch in ((1, 4), (2, 2)):
        folder = tmp_path / str(processes)
        values = {"folder": str(folder), "batch": batch, "modes": SPREAD}
        values |= {"backend": "gloo" if processes > 1 else None}
        results.append(launched(folder, LAUNCHED.format(**values), processes))
    assert results[1]["eval"] == pytest.approx(results[0]["eval"], abs=1e-4)
    for gradients, tolerance in (("first_order", 1e-4), ("exact", 1e-2)):
        one, two = (result[gradients] for result in results)
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert (two["moved"] - one["moved"]).norm() < tolerance * one["moved"].norm()
    for mode in SPREAD:
        (one, one_loss), (two, two_loss) = (result["unequal"][mode] for result in results)
        assert two_loss == pytest.approx(one_loss, abs=1e-4)
        assert (two - one).norm() < (1e-2 if mode in ("exact", "truncated") else 1e-4) * one.norm()


@pytest.mark.parametrize("gradients", MODES)
def test_the_loss_of_a_step_is_where_trainer_adds_losses_up(tmp_path, monkeypatch, gradients):
    run = trainer(tmp_path, gradients=gradients)
    batch = next(iter(run.get_train_dataloader()))
    monkeypatch.setattr(run, "_prepare_inputs", lambda inputs: inputs)
    monkeypatch.setattr(type(run.args), "device", torch.device("meta"))  # in the place of an accelerator

    assert run.training_step(run.model, batch, 10).device == run.args.device
