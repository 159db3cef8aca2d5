"""`TTTTrainer`: trains the outer parameters as transformers' Trainer trains a model."""

import copy
import dataclasses

import datasets
import pytest
import torch
import transformers
from test_pipeline import word_tokenizer
from tiny import tiny, tokens

from ttt_retrofit import AutoModelForCausalLM, ConfigError, InputError, TTTConfig, TTTTrainer, TTTTrainingConfig, wrap
from ttt_retrofit.outer.chunks import by_differences, by_double_backward
from ttt_retrofit.outer.gradients import through_updates
from ttt_retrofit.outer.parameters import choose
from ttt_retrofit.outer.sharding import check_shardable
from ttt_retrofit.streaming.tokens import align

CHUNK = 8
TTT = {"layers": "all", "rank": 4, "chunk_size": CHUNK, "sliding_window": 16, "sink_tokens": 2, "inner_lr": 1e-2}
MODES = ["exact", "truncated", "first_order", "none"]


def converted(family="llama", **changes):
    return wrap(tiny(family), TTTConfig(**{**TTT, **changes}))


def documents(count=8, length=5 * CHUNK):
    """Documents that repeat themselves, each in its own way, so that there is something to learn while reading."""
    return [tokens(1, CHUNK - 1, seed=i)[0].repeat(length)[:length].tolist() for i in range(count)]


def trainer(folder, model=None, data=None, kind="lora", **arguments):
    defaults = {
        "sequence_length": 5 * CHUNK,
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 0,
    }
    extra = {name: arguments.pop(name) for name in ("eval_dataset", "processing_class", "callbacks", "ttt_config",
             "compute_metrics", "compute_loss_func") if name in arguments}  # fmt: skip
    args = TTTTrainingConfig(str(folder), **{**defaults, **arguments})
    model = converted(fast_weights=kind) if model is None else model
    return TTTTrainer(model, args, documents() if data is None else data, **extra)


def logged(run, name):
    return [entry[name] for entry in run.state.log_history if name in entry]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("gradients", MODES)
def test_training_lowers_the_loss(tmp_path, kind, gradients):
    run = trainer(tmp_path, kind=kind, gradients=gradients, truncate_chunks=2, max_steps=12, eval_dataset=documents())
    before = run.evaluate()
    run.train()
    after = run.evaluate()
    which = "eval_loss_without_updates" if gradients == "none" else "eval_loss"
    assert after[which] < before[which] - 0.02


@pytest.mark.slow
def test_only_what_was_chosen_is_trained(tmp_path):
    for kind, expected in (("delta", {"down_proj.weight", "log_lr"}), ("lora", {"start_a", "start_b", "log_lr"})):
        model = converted(fast_weights=kind)
        before = {name: p.clone() for name, p in model.named_parameters()}
        trainer(tmp_path, model).train()
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert moved and {next(e for e in expected if name.endswith(e)) for name in moved} == expected


def test_metrics_of_the_inner_loop_are_logged(tmp_path):
    run = trainer(tmp_path, max_steps=2)
    run.train()
    for name in ("inner_loss_first", "inner_loss_last", "fast_weight_norm", "inner_lr_lowest", "grad_norm"):
        assert len(logged(run, name)) == 2 and all(value > 0 for value in logged(run, name))


def test_evaluation_is_by_position_with_updates_and_without(tmp_path):
    model = converted(fast_weights="delta", inner_lr=5e-2)
    run = trainer(tmp_path, model, eval_dataset={"short": documents(3, 3 * CHUNK), "long": documents(3)})
    metrics = run.evaluate()
    ids = torch.tensor(documents(3))
    with torch.no_grad():
        losses = model(ids).past_key_values.loss_by_chunk.double()
    assert metrics["eval_long_loss"] == pytest.approx(losses.mean().item(), abs=1e-5)
    assert metrics["eval_long_loss_q1"] == pytest.approx(losses[:, :2].mean().item(), abs=1e-5)  # chunks 0 and 1 of 5
    assert metrics["eval_long_gain"] > 0.01
    assert metrics["eval_short_loss_without_updates"] > 0 and "eval_short_loss_q4" not in metrics
    assert run.evaluate(documents(3))["eval_loss"] == metrics["eval_long_loss"]  # documents that are given later
    assert run.predict(documents(3)).metrics["test_loss"] == metrics["eval_long_loss"]


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    for kind in ("delta", "lora"):
        whole = trainer(tmp_path / kind / "whole", kind=kind, **settings)
        whole.train()
        trainer(tmp_path / kind / "parts", kind=kind, **{**settings, "max_steps": 3}).train()
        resumed = trainer(tmp_path / kind / "parts", kind=kind, **settings)
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == 6
        for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters()):
            assert torch.equal(a, b), name


@pytest.mark.slow
@pytest.mark.parametrize("gradients", ["exact", "none"])
def test_gradient_checkpointing_trains_the_same(tmp_path, gradients):
    ends = []
    for checkpointing in (False, True):
        run = trainer(tmp_path, gradients=gradients, gradient_checkpointing=checkpointing, max_steps=3)
        run.train()
        ends.append(run.outer.all)
    assert all(torch.equal(a, b) for a, b in zip(*ends))


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
def test_a_trained_checkpoint_loads_with_the_same_logits(tmp_path, kind):
    run = trainer(tmp_path, kind=kind, max_steps=2)
    run.train()
    run.save_model(tmp_path / "final")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    ids = tokens(2, 37)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, run.model.eval()(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("gradients,tolerance", [("first_order", 1e-4), ("exact", 1e-2)])
def test_accumulated_batches_are_one_larger_batch(tmp_path, gradients, tolerance):
    """In exact gradients, differences are as long as the steps of the rows that are read together."""
    moved = []
    for batch, accumulated in ((4, 1), (1, 4)):
        settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        run = trainer(tmp_path, max_steps=2, optim="sgd", gradients=gradients, **settings)
        before = [p.detach().clone() for p in run.outer.all]
        run.train()
        moved.append(torch.cat([(p.detach() - b).flatten() for p, b in zip(run.outer.all, before)]))
    assert (moved[0] - moved[1]).norm() < tolerance * moved[0].norm()


@pytest.mark.parametrize("gradients", ["none", "first_order", "exact"])
def test_mixed_precision_computes_in_16_bits_and_trains_in_full(tmp_path, gradients):
    run = trainer(tmp_path, kind="delta", bf16=True, max_steps=3, gradients=gradients, eval_dataset=documents(2))
    computed = set()
    run.ttt_model.get_output_embeddings().register_forward_hook(lambda _, __, logits: computed.add(logits.dtype))
    run.train()
    assert computed == {torch.bfloat16}
    computed.clear()
    run.evaluate()
    assert computed == {torch.bfloat16}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in run.outer.all)
    assert all(value > 0 for value in logged(run, "loss"))


def test_a_model_with_lora_trains_and_is_saved(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], layers_to_transform=[2, 3], modules_to_save=["ttt"]
    )
    model = peft.get_peft_model(converted(fast_weights="lora"), config)
    run = trainer(tmp_path, model, outer_parameters=["start", "log_lr", "lora"], max_steps=3)
    before = {name: p.clone() for name, p in model.named_parameters()}
    run.train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any("lora_B" in name for name in moved) and any("modules_to_save" in name for name in moved)
    assert not any(name.endswith("q_proj.base_layer.weight") for name in moved)


FOUR = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


def quantized(folder, kind="lora", **settings):
    tiny("llama", hidden_size=64, intermediate_size=128).save_pretrained(folder / "base")
    config = transformers.BitsAndBytesConfig(**(settings or FOUR))
    ttt = TTTConfig(**{**TTT, "fast_weights": kind})
    return AutoModelForCausalLM.from_pretrained(
        folder / "base", ttt_config=ttt, quantization_config=config, dtype=torch.float32
    )


@pytest.mark.slow
def test_a_four_bit_base_trains(tmp_path):
    run = trainer(tmp_path, quantized(tmp_path), max_steps=8, eval_dataset=documents())
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < before - 0.01
    run.save_model(tmp_path / "final")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    ids = tokens(2, 37)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, run.model.eval()(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("reading", [by_differences, by_double_backward])
def test_gradients_of_a_four_bit_base_are_those_of_its_dequantized_twin(tmp_path, reading):
    model = quantized(tmp_path)
    dense = wrap(copy.deepcopy(model).unwrap().dequantize(), model.ttt)
    ids, found = tokens(2, 4 * CHUNK), []
    for one in (model, dense):
        outer = choose(one, ["start", "log_lr"])
        gradients = through_updates(one, outer, align(ids, None, None), 4, reading).gradients
        found.append(torch.cat([gradients[p].flatten() for p in outer.all]))
    assert (found[0] - found[1]).norm() < 2e-2 * found[1].norm()


def test_what_a_quantized_base_cannot_train_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Linear4bit.*fast_weights='lora'"):
        trainer(tmp_path, quantized(tmp_path, "delta"))
    with pytest.raises(ConfigError, match=r"quantized or offloaded \(model.*_proj.weight\)"):
        check_shardable(quantized(tmp_path), 64, processes=2)
    with pytest.raises(ConfigError, match="8-bit"):
        trainer(tmp_path, quantized(tmp_path, load_in_8bit=True))


# ---------------------------------------------------------------------- data

WORDS = "the cat sat on a mat and the dog ran over it all day long until night fell"


def test_texts_ids_and_data_sets_give_the_same_sequences(tmp_path):
    tokenizer = word_tokenizer()
    texts = [" ".join([WORDS] * 3), " ".join([WORDS] * 4)]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    forms = [
        texts,
        ids,
        [{"text": text} for text in texts],
        datasets.Dataset.from_dict({"text": texts, "source": ["a", "b"]}),
        datasets.Dataset.from_dict({"input_ids": ids}),
        datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset(),
    ]
    found = [list(trainer(tmp_path, data=data, processing_class=tokenizer).train_dataset) for data in forms]
    assert found[0] and all(rows == found[0] for rows in found)
    for row in found[0]:
        assert len(row["input_ids"]) % CHUNK == 0 and 2 * CHUNK <= len(row["input_ids"]) <= 5 * CHUNK


@pytest.mark.slow
def test_a_streaming_data_set_trains_and_resumes(tmp_path):
    stream = datasets.Dataset.from_dict({"input_ids": documents(20)}).to_iterable_dataset()
    whole = trainer(tmp_path / "whole", data=stream, max_steps=4)
    whole.train()
    trainer(tmp_path / "parts", data=stream, max_steps=2, save_strategy="steps", save_steps=2).train()
    resumed = trainer(tmp_path / "parts", data=stream, max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.outer.all, resumed.outer.all))


def test_documents_are_kept_apart(tmp_path):
    """No row mixes two documents, and each row is read as if it were alone."""
    one, two = tokens(1, 3 * CHUNK + 3, seed=1)[0].tolist(), tokens(1, 5 * CHUNK + 2 * CHUNK, seed=2)[0].tolist()
    rows = [row["input_ids"] for row in trainer(tmp_path, data=[one, two]).train_dataset]
    assert rows == [one[: 3 * CHUNK], two[: 5 * CHUNK], two[5 * CHUNK :]]
    model = converted()
    run = trainer(tmp_path, model, data=[one, two], eval_dataset=[one, two], per_device_eval_batch_size=3)
    alone = [trainer(tmp_path, model, eval_dataset=[d]).evaluate()["eval_loss"] for d in (one, two)]
    assert run.evaluate()["eval_loss"] == pytest.approx((3 * alone[0] + 7 * alone[1]) / 10, abs=1e-5)


class Nothing:
    def __iter__(self):
        return iter(())


def test_bad_data_is_refused(tmp_path):
    for data, message in (
        ([], "holds 0 documents"),
        ([[1] * 9], "none of at least two chunks"),
        ("a text", "is a str"),
        (["a text"], "tokenizer"),
        ([{"body": "x"}], "'body'"),
        ([[0.5, 1.0]], "flat list of token ids"),
        ([[5] * 39 + [97]], "token ids 5 to 97"),
    ):
        with pytest.raises(InputError, match=message):
            trainer(tmp_path, data=data)
    with pytest.raises(InputError, match="holds 0 documents"):
        trainer(tmp_path, data=Nothing()).train()
    with pytest.raises(InputError, match=r"dictionary of \['train'\]"):
        trainer(tmp_path, data={"train": documents()})
    with pytest.raises(InputError, match="eval_dataset is a generator, which can be read once"):
        trainer(tmp_path, eval_dataset=(document for document in documents()))
    with pytest.raises(InputError, match="train_dataset holds the token ids 1 to 500"):
        trainer(tmp_path, data=["a text"], processing_class=lambda text, **_: {"input_ids": [1] * 39 + [500]})
    with pytest.raises(ConfigError, match="every worker would read all of it"):
        trainer(tmp_path, data=Nothing(), dataloader_num_workers=2)


def test_bad_settings_are_refused(tmp_path):
    for settings, message in (
        ({"gradients": "second_order"}, "gradients='second_order'"),
        ({"truncate_chunks": 0}, "truncate_chunks=0"),
        ({"outer_parameters": ["all"]}, "outer_parameters"),
        ({"outer_parameters": ["lora"]}, "no LoRA"),
        ({"sequence_length": CHUNK}, "at least two"),
        ({"sequence_length": 5 * CHUNK + 1}, "multiple of the chunk"),
        ({"fsdp": True}, "fsdp"),
        ({"torch_compile": True}, "torch_compile"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha=5.0"),
        ({"bf16_full_eval": True}, "bf16_full_eval=True"),
        ({"compute_metrics": len}, "compute_metrics is given"),
        ({"compute_loss_func": len}, "compute_loss_func is given"),
        ({"sequence_length": 512.0}, "whole number"),
        ({"learning_rate": "3e-5"}, "a number, without quotes"),  # YAML reads 3e-5 as a word
        ({"max_steps": "4"}, "max_steps='4'"),
        ({"evaluate_without_updates": "no"}, "True or False"),
    ):
        with pytest.raises(ConfigError, match=message):
            trainer(tmp_path, **settings)
    with pytest.raises(ConfigError, match="512 positions"):
        trainer(tmp_path, converted("gpt2"), sequence_length=640)
    with pytest.raises(ConfigError, match="expected a converted one"):
        trainer(tmp_path, tiny("llama"))
    with pytest.raises(ConfigError, match="expected a TTTTrainingConfig"):
        TTTTrainer(converted(), transformers.TrainingArguments(str(tmp_path), use_cpu=True))


def test_a_refused_training_freezes_nothing(tmp_path):
    model = converted()
    for refused in ({"outer_parameters": ["log_lr", "lora"]}, {"data": [[1, 2, 3]]}):
        with pytest.raises((ConfigError, InputError)):
            trainer(tmp_path, model, **refused)
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_one_outer_parameter_may_be_named_alone(tmp_path):
    run = trainer(tmp_path, outer_parameters="log_lr")
    assert run.outer.rates and not run.outer.starts and not run.outer.others


def test_settings_are_read_from_a_command_line(tmp_path):
    given = ["--output_dir", str(tmp_path), "--gradients", "truncated", "--outer_parameters", "start", "log_lr"]
    (args,) = transformers.HfArgumentParser(TTTTrainingConfig).parse_args_into_dataclasses([*given, "--use_cpu"])
    assert (args.gradients, args.outer_parameters) == ("truncated", ["start", "log_lr"])
    assert all(
        f.metadata.get("help") for f in dataclasses.fields(args) if f.name in vars(TTTTrainingConfig)["__annotations__"]
    )


def test_a_model_is_loaded_by_name(tmp_path):
    tiny("llama").bfloat16().save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    run = trainer(tmp_path, tmp_path / "base", [" ".join([WORDS] * 4)], ttt_config=TTTConfig(**TTT), max_steps=1)
    assert run.model.dtype == torch.float32
    run.train()
    run.save_model(tmp_path / "final")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "final")
    assert trainer(tmp_path, tmp_path / "final", documents()).ttt_model.ttt == TTTConfig(**TTT)
