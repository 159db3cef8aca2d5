"""What is saved comes back as it was, through transformers' own classes."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from converted import TTT, converted, in_fresh_process, logits, ttt
from safetensors.torch import load_file, save_file
from tiny import SHAPE, VOCABULARY, tiny, tokens
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import ttt_retrofit
from ttt_retrofit import ConfigError, TTTCache, TTTConfig, UnsupportedModelError, wrap

CASES = [
    *((family, kind) for family in ("llama", "gpt2") for kind in ("delta", "lora", "prime")),
    ("llama", "subspace"),
    ("gemma3_text", "lora"),
    ("gemma3", "delta"),
    ("gemma3", "prime"),
    ("qwen3_moe", "lora"),
    ("qwen3_moe", "prime"),
]

LOAD_ALL = """
import json, sys, torch, transformers
from pathlib import Path
from safetensors.torch import load_file
if sys.argv[2] == "import":
    import ttt_retrofit
report = {}
for folder in map(Path, sys.argv[3:]):
    trust = {} if sys.argv[2] == "import" else {"trust_remote_code": True}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **trust)
    expected = load_file(folder / "expected" / "logits.safetensors")
    with torch.no_grad():
        out = model(expected["ids"])
    report[folder.name] = {
        "class": type(model).__qualname__,
        "family": [cls.__name__ for cls in type(model).__mro__],
        "difference": (out.logits - expected["logits"]).abs().max().item(),
        "updates": out.past_key_values.loss_by_chunk.shape[1],
        "ttt": model.config.ttt,
        "imported before": sys.argv[2] == "import",
    }
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
report["tokenizer"] = tokenizer("w5 w7").input_ids
print(json.dumps(report))
"""


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def saved(folder: Path, model) -> Path:
    ids = tokens(2, 37)
    model.save_pretrained(folder)
    (folder / "expected").mkdir()
    save_file({"ids": ids, "logits": logits(model, ids)}, folder / "expected" / "logits.safetensors")
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    folders = {}
    for family, kind in CASES:
        changes = {"layers": [0, 3]} if family == "qwen3_moe" else {}
        folders[f"{family}-{kind}"] = saved(root / f"{family}-{kind}", converted(family, kind, **changes))
    word_tokenizer().save_pretrained(folders["llama-delta"])
    return folders


@pytest.fixture(scope="module")
def reloaded(checkpoints) -> dict:
    return in_fresh_process(LOAD_ALL, checkpoints["llama-delta"], "import", *checkpoints.values())


@pytest.fixture(scope="module")
def reloaded_by_remote_code(checkpoints) -> dict:
    chosen = [checkpoints[name] for name in ("llama-lora", "gemma3-delta", "qwen3_moe-prime")]
    return in_fresh_process(LOAD_ALL, checkpoints["llama-delta"], "trust", *chosen)


@pytest.mark.parametrize("family, kind", CASES)
def test_a_fresh_process_reloads_the_same_model(reloaded, family, kind):
    found = reloaded[f"{family}-{kind}"]
    base = type(tiny(family))
    assert found["class"] == f"TTT{base.__name__}" and base.__name__ in found["family"]
    assert found["difference"] == 0 and found["updates"] == 4
    changes = {"layers": [0, 3]} if family == "qwen3_moe" else {}
    assert TTTConfig.from_dict(found["ttt"]) == ttt(kind, **changes)


@pytest.mark.parametrize("name", ["llama-lora", "gemma3-delta", "qwen3_moe-prime"])
def test_trust_remote_code_needs_no_import_of_the_package(reloaded_by_remote_code, name):
    found = reloaded_by_remote_code[name]
    assert found["difference"] == 0 and found["updates"] == 4 and not found["imported before"]


def test_a_converted_directory_serves_its_tokenizer(reloaded, reloaded_by_remote_code):
    assert reloaded["tokenizer"] == reloaded_by_remote_code["tokenizer"] == [5, 7]


def test_the_saved_keys_are_those_of_the_base_plus_ttt(checkpoints, tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    plain = load_file(tmp_path / "model.safetensors")
    ours = load_file(checkpoints["llama-lora"] / "model.safetensors")
    assert {key for key in ours if ".ttt." not in key} == set(plain)
    assert {key.rsplit(".", 1)[-1] for key in ours if ".ttt." in key} == {"log_lr", "base_norm", "start_a", "start_b"}


def test_experts_are_saved_one_by_one_as_the_family_publishes_them(checkpoints):
    keys = load_file(checkpoints["qwen3_moe-lora"] / "model.safetensors")
    assert "model.layers.1.mlp.experts.0.down_proj.weight" in keys


def test_the_derived_class_loads_without_the_auto_class(checkpoints, caplog):
    model = converted("llama", "lora")
    again = type(model).from_pretrained(checkpoints["llama-lora"])
    ids = tokens(1, 20)
    assert torch.equal(logits(again, ids), logits(model, ids))
    assert "not supported for all configurations" not in caplog.text


def test_saving_again_after_reloading_changes_no_byte(checkpoints, tmp_path):
    for name in ("llama-prime", "gpt2-delta"):
        first = checkpoints[name]
        transformers.AutoModelForCausalLM.from_pretrained(first).save_pretrained(tmp_path / name)
        for file in ("config.json", "model.safetensors", "README.md"):
            assert (tmp_path / name / file).read_bytes() == (first / file).read_bytes(), file


@pytest.mark.parametrize("name", ["llama-lora", "gemma3-delta", "gpt2-delta", "qwen3_moe-prime"])
def test_a_conversation_goes_on_in_the_reloaded_model(checkpoints, tmp_path, name):
    family, kind = name.split("-")
    model = converted(family, kind, **({"layers": [0, 3]} if family == "qwen3_moe" else {}))
    cache = model.read(tokens(1, 21))
    cache.save(tmp_path / "paused")
    again = transformers.AutoModelForCausalLM.from_pretrained(checkpoints[name])
    resumed = TTTCache.load(tmp_path / "paused", again)
    more = tokens(1, 9, seed=1)
    with torch.no_grad():
        there, here = (m(more, past_key_values=c).logits for m, c in ((again, resumed), (model, cache)))
    assert torch.equal(there, here)


def test_unwrapping_a_reloaded_model_gives_the_base_back(checkpoints):
    plain = transformers.AutoModelForCausalLM.from_pretrained(checkpoints["llama-lora"]).unwrap()
    base = tiny("llama")
    assert type(plain) is type(base) and type(plain.config) is type(base.config)
    ids = tokens(1, 30)
    assert torch.equal(logits(plain, ids), logits(base, ids))


def test_another_model_made_from_the_same_configuration_is_left_alone(tmp_path):
    first, second = tiny("gemma3"), tiny("gemma3")
    for module in second.modules():
        if isinstance(vars(module).get("config"), type(second.config)):
            module.config = first.config
    second.model.language_model.config = first.model.language_model.config
    before = logits(second, tokens(1, 20))
    wrap(first, TTT)
    assert type(second.config) is transformers.Gemma3Config and second.config._attn_implementation == "sdpa"
    assert torch.equal(logits(second, tokens(1, 20)), before)
    second.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gemma3"


def test_a_base_that_transformers_cannot_find_again_is_not_saved(tmp_path):
    class OwnConfig(transformers.LlamaConfig):
        model_type = "own"

    class OwnForCausalLM(transformers.LlamaForCausalLM):
        config_class = OwnConfig

    model = wrap(OwnForCausalLM(OwnConfig(**SHAPE)), TTT)
    with pytest.raises(UnsupportedModelError, match=r"OwnForCausalLM.*Register it.*'own'"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- half precision


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
def test_bf16_keeps_ttt_parameters_in_full_precision(checkpoints, tmp_path, kind):
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(checkpoints[f"llama-{kind}"], dtype=torch.bfloat16)
    dtypes = {".ttt." in name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    stored = load_file(checkpoints[f"llama-{kind}"] / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert ".ttt." not in name or torch.equal(tensor, stored[name])
    ids = tokens(2, 37)
    with torch.no_grad():
        out = model(ids)
    assert out.logits.dtype == torch.bfloat16 and out.past_key_values.loss_by_chunk.isfinite().all()
    assert all(t.dtype == torch.float32 for t in out.past_key_values.fast.tensors().values() if t.is_floating_point())
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.dtype == torch.bfloat16 and torch.equal(logits(again, ids), out.logits)


def test_casting_a_converted_model_leaves_ttt_parameters_in_full_precision():
    model = converted("llama", "lora")
    before = {name: value.clone() for name, value in model.state_dict().items() if ".ttt." in name}
    model.to(torch.bfloat16)
    after = model.state_dict()
    assert after["lm_head.weight"].dtype == torch.bfloat16
    assert all(torch.equal(after[name], value) for name, value in before.items())


# ---------------------------------------------------------------------- the drop-in


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny("llama").save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe", "phi3"])
def test_converting_while_loading_equals_wrapping_an_instance(tmp_path, family, kind):
    config = ttt(kind, layers=[0, 3])
    tiny(family).save_pretrained(tmp_path)
    instance = wrap(tiny(family), config)
    loaded = ttt_retrofit.AutoModelForCausalLM.from_pretrained(tmp_path, ttt_config=config)
    assert type(loaded) is type(instance) and not loaded.training
    here, there = instance.state_dict(), loaded.state_dict()
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
    ids = tokens(2, 37)
    assert torch.equal(logits(loaded, ids), logits(instance, ids))


@pytest.mark.slow
def test_wrap_takes_a_directory_and_loading_arguments(base):
    model = wrap(str(base), TTT, dtype=torch.bfloat16, attn_implementation="eager", rms_norm_eps=1e-2)
    assert isinstance(model, transformers.LlamaForCausalLM) and model.ttt == TTT
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "ttt_eager"
    assert model.config.rms_norm_eps == model.model.norm.variance_epsilon == 1e-2


@pytest.mark.slow
def test_a_configuration_that_is_given_stays_that_of_a_base(base):
    config = transformers.AutoConfig.from_pretrained(base)
    model = ttt_retrofit.AutoModelForCausalLM.from_pretrained(base, ttt_config=TTT, config=config)
    assert model.ttt == TTT and type(config) is transformers.LlamaConfig


def test_wrap_takes_a_converted_directory_with_its_own_settings(checkpoints):
    model, ids = wrap(checkpoints["llama-lora"]), tokens(1, 30)
    assert model.ttt == ttt("lora") != TTTConfig()
    assert torch.equal(logits(model, ids), logits(converted("llama", "lora"), ids))


def test_wrap_uses_defaults_for_a_base(base):
    assert wrap(base).ttt == wrap(tiny("llama")).ttt == TTTConfig()


def test_the_drop_in_uses_defaults_and_reports_nothing_missing(base, caplog):
    model, info = ttt_retrofit.AutoModelForCausalLM.from_pretrained(base, output_loading_info=True)
    assert model.ttt == TTTConfig()
    assert not info["missing_keys"] and "LOAD REPORT" not in caplog.text


def test_the_drop_in_loads_a_converted_checkpoint(checkpoints):
    model = converted("llama", "lora")
    ids = tokens(1, 30)
    for config in (None, ttt("lora")):
        loaded = ttt_retrofit.AutoModelForCausalLM.from_pretrained(checkpoints["llama-lora"], ttt_config=config)
        assert torch.equal(logits(loaded, ids), logits(model, ids))


def test_another_configuration_than_the_saved_one_is_refused(checkpoints):
    with pytest.raises(ConfigError, match=r"converted already.*configure_ttt"):
        wrap(checkpoints["llama-lora"], ttt("lora", inner_lr=0.5))


def test_a_configuration_that_does_not_fit_is_refused_while_loading(base):
    with pytest.raises(ConfigError, match=r"layers=\[9\] are out of range"):
        wrap(base, TTTConfig(layers=[9]))


def test_the_drop_in_makes_a_model_of_a_configuration(base, tmp_path):
    config = transformers.AutoConfig.from_pretrained(base)
    make, ids = ttt_retrofit.AutoModelForCausalLM.from_config, tokens(1, 30)
    model = make(config, ttt_config=TTT, dtype=torch.bfloat16)
    assert model.ttt == TTT and model.dtype == torch.bfloat16 and type(config) is transformers.LlamaConfig
    again = make(model.config)
    assert again.ttt == TTT and again.read(ids).loss_by_chunk.isfinite().any()
    again.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, ids), logits(again.eval(), ids))
    with pytest.raises(ConfigError, match=r"The config is converted already.*configure_ttt"):
        make(model.config, ttt_config=ttt("lora", inner_lr=0.5))
    assert make(config).ttt == TTTConfig()


def test_arguments_for_loading_are_refused_for_an_instance():
    with pytest.raises(ConfigError, match=r"dtype.*already loaded"):
        wrap(tiny("llama"), TTT, dtype=torch.bfloat16)
