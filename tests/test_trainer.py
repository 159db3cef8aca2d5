"""transformers' Trainer trains, evaluates, saves and resumes a converted model as it does any other."""

import pytest
import torch
import transformers
from converted import converted, logits, ttt
from test_pipeline import word_tokenizer
from tiny import tiny, tokens
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from ttt_retrofit import wrap

LENGTHS = (37, 21, 30, 9, 40, 25, 33, 12)


def dataset() -> list[dict]:
    """Texts of unequal length, with a column that no model takes."""
    texts = [tokens(1, length, seed=i)[0].tolist() for i, length in enumerate(LENGTHS)]
    return [{"input_ids": ids, "attention_mask": [1] * len(ids), "source": "novel"} for ids in texts]


class Remembered(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.rows = dataset()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]


def trainer(model, folder, **arguments) -> Trainer:
    defaults = {
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "learning_rate": 5e-3,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
    }
    tokenizer = word_tokenizer()
    tokenizer.padding_side = "right"
    return Trainer(
        model=model,
        args=TrainingArguments(folder, **{**defaults, **arguments}),
        train_dataset=Remembered(),
        eval_dataset=Remembered(),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_lowers_the_loss_of_the_texts(tmp_path, kind, checkpointing):
    model = wrap(tiny("llama"), ttt(kind))
    run = trainer(model, tmp_path, gradient_checkpointing=checkpointing, max_steps=12)
    before = run.evaluate()["eval_loss"]
    starts = {name: p.clone() for name, p in model.named_parameters()}
    run.train()
    after = run.evaluate()["eval_loss"]
    assert after < before - 0.05
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, starts[name])}
    assert any(name.endswith("log_lr") for name in moved) and "model.layers.0.mlp.down_proj.weight" in moved
    for part in model.kind.learned_start:
        assert any(name.endswith(f"start_{part}") for name in moved)


@pytest.mark.slow
def test_gradient_checkpointing_trains_the_same(tmp_path):
    logged = []
    for checkpointing in (False, True):
        run = trainer(converted("llama", "lora"), tmp_path, gradient_checkpointing=checkpointing, seed=1)
        run.train()
        logged.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert logged[0] == pytest.approx(logged[1], abs=2e-3)


def test_unknown_columns_are_dropped_and_known_ones_kept(tmp_path):
    run = trainer(wrap(tiny("llama"), ttt()), tmp_path)
    run._set_signature_columns_if_needed()
    assert {"input_ids", "attention_mask", "labels"} <= set(run._signature_columns)
    batch = next(iter(run.get_train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.slow
def test_a_run_resumes_where_it_was_saved(tmp_path):
    def start(folder, **arguments):
        return trainer(converted("llama", "lora"), folder, save_strategy="steps", save_steps=3, **arguments)

    whole = start(tmp_path / "whole")
    whole.train()
    start(tmp_path / "parts", max_steps=3).train()
    resumed = start(tmp_path / "parts")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    ids = tokens(2, 37)
    torch.testing.assert_close(logits(resumed.model, ids), logits(whole.model, ids), rtol=0, atol=2e-3)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "parts" / "checkpoint-6")
    assert torch.equal(logits(again, ids), logits(resumed.model.eval(), ids))


@pytest.mark.slow
def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path):
    model = converted("llama", "delta")
    run = trainer(
        model,
        tmp_path,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=2,
        eval_steps=2,
        load_best_model_at_end=True,
    )
    run.train()
    again = transformers.AutoModelForCausalLM.from_pretrained(run.state.best_model_checkpoint)
    assert torch.equal(logits(model.eval(), tokens(1, 30)), logits(again, tokens(1, 30)))


@pytest.mark.slow
def test_the_loss_is_that_of_the_plain_family_when_nothing_is_learned(tmp_path):
    """Padding, gradient accumulation and its normalisation included."""
    plain = trainer(tiny("llama"), tmp_path, gradient_accumulation_steps=2)
    ours = trainer(wrap(tiny("llama"), ttt(inner_lr=0.0, sliding_window=None)), tmp_path, gradient_accumulation_steps=2)
    for run in (plain, ours):
        run.train()
    logged = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (plain, ours)]
    assert logged[0] == pytest.approx(logged[1], abs=1e-4)


def test_the_loss_is_the_same_with_padding_on_either_side():
    model = converted("llama", "delta")
    rows = [row["input_ids"] for row in dataset()[:3]]
    losses = []
    for side in ("left", "right"):
        tokenizer = word_tokenizer()
        tokenizer.padding_side = side
        batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": row} for row in rows])
        losses.append(model(**batch).loss.item())
    alone = [model(torch.tensor([row]), labels=torch.tensor([row])).loss.item() for row in rows]
    mean = sum(loss * (len(row) - 1) for loss, row in zip(alone, rows)) / sum(len(row) - 1 for row in rows)
    assert losses == pytest.approx([mean, mean], abs=1e-3)


@pytest.mark.slow
def test_mixed_precision_trains(tmp_path):
    model = wrap(tiny("llama"), ttt("lora"))
    run = trainer(model, tmp_path, bf16=True)
    run.train()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(entry["loss"] > 0 for entry in run.state.log_history if "loss" in entry)
