"""What other libraries decide by a model's class, module or configuration comes out as for the base."""

import inspect
import json
import pickle

import pytest
import torch
import transformers
from converted import logits, ttt
from test_trainer import trainer
from tiny import tiny, tokens
from transformers import TrainingArguments
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.modelcard import TrainingSummary
from transformers.models.auto import modeling_auto
from transformers.utils.generic import can_return_loss, find_labels

from ttt_retrofit import AutoModelForCausalLM, TTTConfig, UnsupportedModelError, wrap
from ttt_retrofit.model.auto import TTTConfigMixin
from ttt_retrofit.model.backbone import ADDED

FAMILIES = ["llama", "qwen2", "qwen3_moe", "gpt2", "gemma3", "gemma3n_text", "deepseek_v3"]
STILL = TTTConfig(layers="all", chunk_size=64, sliding_window=None, inner_lr=0.0)
MAPPINGS = [name for name in vars(modeling_auto) if name.startswith("MODEL") and name.endswith("_MAPPING_NAMES")]

# Where a library asks, and what it asks.
LOOKUPS = {
    "Trainer's label smoothing, pipelines, model cards, serving": lambda model: [
        name for name in MAPPINGS if model._get_name() in getattr(modeling_auto, name).values()
    ],
    "generate's checks of assistants, its kind of cache, TRL's quirks": lambda model: type(model).__name__,
    "the names of submodels, by which weights are converted": lambda model: [
        (name, type(module).__name__) for name, module in model.named_modules() if "ttt" not in name.split(".")
    ],
    "how weights are renamed and merged": lambda model: [
        (type(step).__name__, step.source_patterns, step.target_patterns)
        for step in get_model_conversion_mapping(model)
    ],
    "the loss": lambda model: (model.loss_type, model.loss_function),
    "PEFT's targets, lm-eval's kind of model, TRL's templates": lambda model: model.config.model_type,
    "labels that are kept from the batch": lambda model: (find_labels(type(model)), can_return_loss(type(model))),
    "whether the code is a user's own": lambda model: [
        module.is_custom_code() for module in model.modules() if isinstance(module, transformers.PreTrainedModel)
    ],
    "whether kernels of attention and experts can be chosen": lambda model: (
        type(model)._can_set_attn_implementation(),
        type(model)._can_set_experts_implementation(),
    ),
    "FSDP, device maps and tensor parallelism": lambda model: (model._no_split_modules, model.tp_plan, model.pp_plan),
    "what is tied": lambda model: (model._tied_weights_keys, model.all_tied_weights_keys),
    "batches whose loss may be weighted": lambda model: (
        model.main_input_name,
        [p.name for p in inspect.signature(model.forward).parameters.values() if p.name not in ADDED],
        [p.kind for p in inspect.signature(model.forward).parameters.values() if p.name not in ADDED],
    ),
}


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_look_up_finds_for_the_converted_model_what_it_finds_for_its_base(family, lookup):
    model = tiny(family)
    expected = LOOKUPS[lookup](model)
    assert LOOKUPS[lookup](wrap(model, ttt(layers=[0, 3]))) == expected


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
def test_label_smoothing_shifts_labels(tmp_path, adapter):
    losses = []
    for convert in (False, True):
        model = wrap(tiny("qwen2"), STILL) if convert else tiny("qwen2")
        if adapter:
            peft = pytest.importorskip("peft")
            torch.manual_seed(0)
            model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        run = trainer(model, tmp_path, label_smoothing_factor=0.1, seed=3)
        losses.append([run.evaluate()["eval_loss"]])
        run.train()
        losses[-1] += [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.slow
def test_after_training_with_label_smoothing_it_gives_the_next_token_not_the_present_one(tmp_path):
    model, text = wrap(tiny("qwen2"), STILL), list(range(3, 33))
    arguments = {"max_steps": 40, "learning_rate": 1e-2, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    run = transformers.Trainer(
        model=model,
        args=TrainingArguments(tmp_path, label_smoothing_factor=0.1, save_strategy="no", **arguments),
        train_dataset=[{"input_ids": text, "labels": text}] * 8,
    )
    run.train()
    said = logits(model.eval(), torch.tensor([text]))[0].argmax(-1).tolist()
    assert said[:-1] == text[1:]


def test_a_model_card_of_trainer_says_what_the_model_is_for(tmp_path):
    run = trainer(wrap(tiny("qwen2"), STILL), tmp_path, max_steps=1)
    run.train()
    assert TrainingSummary.from_trainer(run).tasks == "text-generation"


def test_refusals_name_the_class_that_was_given():
    with pytest.raises(UnsupportedModelError, match=r"^MixtralForCausalLM has no dense MLP"):
        wrap(tiny("mixtral"), TTTConfig(layers="all"))


# ------------------------------------------------------------------ on disk


# Their configurations are their own, their model is Llama's. No other family that can be made borrows one.
@pytest.mark.slow
@pytest.mark.parametrize("family", ["internlm3", "iquestcoder"])
def test_a_model_borrowed_from_another_family_is_saved_and_loaded(tmp_path, family):
    model, ids = wrap(tiny(family), ttt()), tokens(2, 30)
    model.save_pretrained(tmp_path / "converted")
    for load in (transformers.AutoModelForCausalLM, AutoModelForCausalLM):
        again = load.from_pretrained(tmp_path / "converted")
        assert again.config.model_type == family and type(again) is type(model)
        assert torch.equal(logits(again, ids), logits(model, ids))
    expected = logits(model, ids)
    plain = model.unwrap()
    assert type(plain).__name__ == "LlamaForCausalLM" and plain.config.model_type == family
    plain.save_pretrained(tmp_path / "base")
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "base", ttt_config=ttt())
    assert isinstance(converted.config, TTTConfigMixin)
    assert torch.equal(logits(converted, ids), expected)


def test_the_file_names_our_class_so_that_nobody_loads_the_plain_base_by_it(tmp_path):
    model = wrap(tiny("qwen2"), ttt())
    for _ in range(2):
        model.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert saved["architectures"] == ["TTTQwen2ForCausalLM"]
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


OTHERS = ["AutoModel", "AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModelForMaskedLM"]
OTHERS += ["AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForSeq2SeqLM"]


@pytest.mark.parametrize("auto", OTHERS)
def test_other_auto_classes_refuse_a_converted_checkpoint_and_say_what_to_do(tmp_path, auto):
    model = wrap(tiny("qwen2"), ttt())
    model.save_pretrained(tmp_path)
    message = rf"{auto} cannot load a converted Qwen2ForCausalLM.*AutoModelForCausalLM.*unwrap\(\)"
    with pytest.raises(UnsupportedModelError, match=message):
        getattr(transformers, auto).from_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=message):
        getattr(transformers, auto).from_config(model.config)


def test_an_auto_class_that_loads_this_very_base_loads_it_converted(tmp_path):
    model, ids = wrap(tiny("gemma3"), ttt()), tokens(1, 30)
    model.save_pretrained(tmp_path)
    for auto in ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
        again = getattr(transformers, auto).from_pretrained(tmp_path)
        assert type(again) is type(model) and torch.equal(logits(again, ids), logits(model, ids))


def test_peft_finds_the_converted_class_by_the_name_it_wrote_down(tmp_path):
    peft = pytest.importorskip("peft")
    wrap(tiny("qwen2"), ttt()).save_pretrained(tmp_path / "converted")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "converted")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.AutoPeftModel.from_pretrained(tmp_path / "adapter", import_allowlist=["ttt_retrofit.model.auto"])
    assert type(again.get_base_model()) is type(model)
    assert torch.equal(logits(again, tokens(1, 30)), logits(adapted, tokens(1, 30)))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral", "gpt2"])
def test_hidden_states_and_attentions_are_recorded_as_for_the_base(family):
    """Transformers looks up by a class's name what it can record."""
    ids = tokens(2, 9)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    expected = tiny(family, "eager")(ids, **wanted)
    model = wrap(tiny(family, "eager"), TTTConfig(sliding_window=None, learn_from="none"))
    copied = pickle.loads(pickle.dumps(model))  # before transformers hooks itself in, which no pickle can hold
    for found in (model(ids, **wanted), copied(ids, **wanted)):
        for name in ("hidden_states", "attentions"):
            assert len(found[name]) == len(expected[name])
            for ours, theirs in zip(found[name], expected[name]):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
