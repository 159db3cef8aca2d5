"""`TTTTrainer(shard=True)`: what is not trained is split over processes, and every step is that of one process."""

from unittest.mock import patch

import peft
import pytest
import torch
import transformers
from launched import launched
from test_meta_trainer import TTT, converted, logged, trainer
from test_unequal_rows import one_step, unequal
from tiny import tiny
from torch.distributed.tensor import DTensor

from ttt_retrofit import ConfigError, TTTConfig, UnsupportedModelError, wrap
from ttt_retrofit.outer import gradients
from ttt_retrofit.outer.chunks import by_double_backward
from ttt_retrofit.outer.sharding import check_shardable

CHUNKS = (4, 2, 3, 2)  # by document


def tied(kind):
    return wrap(tiny("llama", tie_word_embeddings=True), TTTConfig(**{**TTT, "fast_weights": kind}))


def adapted(kind):
    """With adapters below the fast weights, too."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1, 3], modules_to_save=["ttt"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(converted(fast_weights=kind, layers=[2, 3]), config)


def by_twice(model):
    return by_double_backward


# What is compared with one process: a model, its fast weights, and its settings.
ADAPTERS = {"outer_parameters": ["start", "log_lr", "lora"]}
AGAIN = {"gradient_checkpointing": True}
CASES = {
    "first order": (tied, "delta", {"gradients": "first_order"}),
    "exact": (tied, "delta", {"gradients": "exact", **AGAIN}),
    "exact, with adapters": (adapted, "lora", {"gradients": "exact", **ADAPTERS}),
    "exact, by double backward": (tied, "lora", {"gradients": "exact"}),
    "truncated": (tied, "prime", {"gradients": "truncated"}),
    "none": (tied, "lora", {"gradients": "none", **AGAIN}),
}


def steps(folder, batch, **settings):
    """What a step over rows of unequal length moves in each case, and its loss."""
    found, usual = {}, gradients._second_order
    for case, (make, kind, own) in CASES.items():
        chosen = by_twice if case.endswith("double backward") else usual
        with patch.object(gradients, "_second_order", chosen):
            found[case] = one_step(folder, batch=batch, model=make(kind), chunks=CHUNKS, **own, **settings)
    return found


def evaluated(folder, **settings):
    """Losses over rows of which some processes have none."""
    run = trainer(folder, converted(), per_device_eval_batch_size=1, **settings)
    return [run.evaluate(unequal(CHUNKS[:rows]))["eval_loss"] for rows in (3, 1)]


def several(folder, batch, **settings):
    """Of a run of three steps: what moved, its losses, and how many decoder layers of four were ever whole at once."""
    model, counts = converted(), []
    layers = model.model.layers

    def count(*_):
        counts.append(sum(not isinstance(layer.self_attn.q_proj.weight, DTensor) for layer in layers))

    run = trainer(
        folder, model, unequal(2 * CHUNKS), max_steps=3, optim="sgd", gradients="first_order",
        per_device_train_batch_size=batch, **settings,
    )  # fmt: skip
    for layer in layers:
        layer.self_attn.register_forward_pre_hook(count)
    before = [parameter.detach().clone() for parameter in run.outer.all]
    run.train()
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(run.outer.all, before)])
    return moved, logged(run, "loss"), max(counts)


def resumed(folder, **settings):
    """What is trained at the end of a run of two steps, and of one that was killed after the first."""
    ends = []
    for name, kills in (("whole", (2,)), ("parts", (1, 2))):
        for last in kills:
            saved = {"max_steps": last, "save_strategy": "steps", "save_steps": last}
            run = trainer(folder / name, tied("lora"), unequal(CHUNKS), gradients="first_order", **saved, **settings)
            run.train(resume_from_checkpoint=last == 2 and name == "parts")
        ends.append([parameter.detach() for parameter in run.outer.all])
    with pytest.raises(UnsupportedModelError, match="split over processes"):
        run.model.read([1, 2, 3])
    with pytest.raises(UnsupportedModelError, match="split over processes"):
        run.model.save_pretrained(folder / "model")
    with pytest.raises(UnsupportedModelError, match="split over processes"):
        trainer(folder / "again", run.model)
    run.save_model(folder / "model")
    return ends


LAUNCHED = """
from pathlib import Path
from test_sharding import evaluated, resumed, several, steps
folder, settings = Path({folder!r}), {{"shard": True, "ddp_backend": "gloo"}}
results = {{"steps": steps(folder, 2, **settings), "evaluated": evaluated(folder, **settings),
            "several": several(folder, 2, **settings), "resumed": resumed(folder, **settings)}}
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found that share the weights, and where they saved them."""
    folder = tmp_path_factory.mktemp("two")
    return launched(folder, LAUNCHED.format(folder=str(folder)), 2), folder


@pytest.mark.slow
def test_two_processes_that_share_the_weights_take_the_steps_of_one(tmp_path, two):
    one = steps(tmp_path, 2, accumulated=2)  # differences are as long as the steps of rows that are read together
    for case, (moved, loss) in two[0]["steps"].items():
        expected, its_loss = one[case]
        assert loss == pytest.approx(its_loss, abs=1e-4), case
        assert (moved - expected).norm() < 1e-3 * expected.norm(), case


@pytest.mark.slow
def test_evaluation_does_not_wait_for_a_process_without_rows(tmp_path, two):
    assert two[0]["evaluated"] == pytest.approx(evaluated(tmp_path), abs=1e-5)


@pytest.mark.slow
def test_a_run_goes_the_same_way_with_one_layer_whole_at_a_time(tmp_path, two):
    moved, losses, most = two[0]["several"]
    expected, its_losses, all_layers = several(tmp_path, 4)
    assert losses == pytest.approx(its_losses, abs=1e-4)
    assert (moved - expected).norm() < 1e-4 * expected.norm()
    assert (most, all_layers) == (1, 4)


@pytest.mark.slow
def test_a_sharded_run_resumes_bit_for_bit_and_is_saved_whole(two):
    found, folder = two
    whole, parts = found["resumed"]
    assert all(torch.equal(a, b) for a, b in zip(whole, parts))
    for saved in (folder / "parts" / "checkpoint-2", folder / "model"):
        model, before = transformers.AutoModelForCausalLM.from_pretrained(saved), tied("lora")
        assert len(parts) == sum(".ttt." in name for name, _ in model.named_parameters())
        for (name, parameter), (_, old) in zip(model.named_parameters(), before.named_parameters()):
            if ".ttt." in name:
                assert any(torch.equal(parameter, end) for end in parts), name
            else:
                assert torch.equal(parameter, old), name
    run = trainer(folder / "parts", tied("lora"), unequal(CHUNKS), gradients="first_order", max_steps=3)
    run.train(resume_from_checkpoint=True)  # in one process
    assert run.state.global_step == 3


def test_what_cannot_be_shared_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is one process"):
        trainer(tmp_path, shard=True)
    with pytest.raises(ConfigError, match="leaves nothing"):
        trainer(tmp_path, shard=True, outer_parameters="everything")
    with pytest.raises(ConfigError, match="shard=1"):
        trainer(tmp_path, shard=1)
    with pytest.raises(ConfigError, match="more than the 512 positions"):
        check_shardable(converted(), 513, 2)
    check_shardable(converted(), 512, 2)
