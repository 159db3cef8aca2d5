"""TRL's trainers, which call a model's backbone for losses of their own, train a converted model as it reads."""

import copy

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from test_saving import word_tokenizer
from tiny import tiny, tokens
from torch.nn.functional import cross_entropy
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from ttt_retrofit import TTTConfig, UnsupportedModelError, wrap

pytestmark = pytest.mark.slow

TTT = TTTConfig(layers="all", chunk_size=8, sliding_window=16, sink_tokens=2, inner_lr=0.1, inner_optimizer="sgd")
LENGTHS = (37, 21, 30, 40)
ROWS = [tokens(1, length, seed=index)[0].tolist() for index, length in enumerate(LENGTHS)]
COMMON = {
    "report_to": [],
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 1,
    "bf16": False,
}


def sft(model, folder, **changes) -> SFTTrainer:
    arguments = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "max_steps": 8, **COMMON}
    data = Dataset.from_dict({"input_ids": ROWS})
    peft = changes.pop("peft_config", None)
    return SFTTrainer(
        model=model,
        args=SFTConfig(folder, **{**arguments, "learning_rate": 5e-3, "gradient_checkpointing": False, **changes}),
        train_dataset=data,
        eval_dataset=data,
        processing_class=word_tokenizer(),
        peft_config=peft,
    )


def mean_loss(model) -> float:
    """Nats per token of all rows, each read alone by the model's own forward."""
    with torch.no_grad():
        ids = [torch.tensor([row]) for row in ROWS]
        losses = [cross_entropy(model(row).logits[0, :-1], row[0, 1:], reduction="sum").item() for row in ids]
    return sum(losses) / sum(length - 1 for length in LENGTHS)


@pytest.mark.parametrize("adapter", [False, True])
def test_sft_takes_the_loss_of_the_model_as_it_reads(tmp_path, adapter):
    model = wrap(tiny("qwen2"), TTT).eval()
    expected, unread = mean_loss(model), mean_loss(copy.deepcopy(model).unwrap())
    assert abs(expected - unread) > 1e-2  # another loss than that of the plain base
    run = sft(model, tmp_path, peft_config=LoraConfig(r=4, target_modules=["q_proj"]) if adapter else None)
    entry = run.evaluate()
    assert entry["eval_loss"] == pytest.approx(expected, abs=2e-2)
    run.train()
    assert run.evaluate()["eval_loss"] < entry["eval_loss"] - (0.005 if adapter else 0.02)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "cohere2", "granite"])
def test_fused_log_probabilities_are_those_of_the_logits(family):
    """What GRPO, DPO and KTO score completions by."""
    model, ids = wrap(tiny(family), TTT), tokens(2, 30)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    labels = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
        add_fused_lm_head(model)
        found = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs
    expected = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    scored = labels[:, 1:] != -100
    scored[0, :6] = False  # predicted from padding
    torch.testing.assert_close(found[scored], expected[scored], atol=1e-4, rtol=0)


def grpo(model, folder, **changes) -> GRPOTrainer:
    def many_different(completion_ids, **kwargs):
        return [float(len(set(ids))) for ids in completion_ids]

    arguments = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 12, "max_steps": 1}
    arguments |= {**COMMON, "learning_rate": 1e-2, "gradient_checkpointing": False}
    return GRPOTrainer(
        model=model,
        args=GRPOConfig(folder, **{**arguments, **changes}),
        train_dataset=Dataset.from_dict({"prompt": ["w5 w6 w7 w8 w9", "w11 w12 w13"]}),
        reward_funcs=many_different,
        processing_class=word_tokenizer(),
    )


def test_grpo_trains(tmp_path):
    model = wrap(tiny("qwen2"), TTT)
    before = model.model.layers[0].mlp.down_proj.weight.clone()
    run = grpo(model, tmp_path)
    run.train()
    assert run.state.global_step == 1
    assert not torch.equal(before, model.model.layers[0].mlp.down_proj.weight)


def test_a_reference_model_is_converted_where_the_policy_was_loaded_from_a_converted_checkpoint(tmp_path):
    wrap(tiny("qwen2"), TTT).save_pretrained(tmp_path / "converted")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "converted")
    run = grpo(model, tmp_path, beta=0.1)
    assert run.ref_model is not model and type(run.ref_model) is type(model)
    with torch.no_grad():
        assert torch.equal(run.ref_model.base_model(tokens(1, 30))[0], model.base_model(tokens(1, 30))[0])
    run.train()


def test_a_plain_reference_of_a_converted_policy_is_refused(tmp_path):
    tiny("qwen2").save_pretrained(tmp_path / "base")
    model = wrap(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), TTT)
    with pytest.raises(UnsupportedModelError, match=r"without a converted model around them.*load the policy from"):
        grpo(model, tmp_path, beta=0.1).train()
