"""Memories for engines that run the base without this library: what is written, and what is refused."""

import dataclasses
import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from commands import document, fails, run
from converted import TTT, converted
from peft import PeftModel
from remembered import memory
from tiny import tiny

from ttt_retrofit import CheckpointError, ConfigError, InputError, wrap
from ttt_retrofit.memory.gguf_adapter import Base, paired, write_gguf
from ttt_retrofit.memory.lora import merged
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving.adapters import export_adapters
from ttt_retrofit.serving.directories import directory_name

EVERYWHERE = ("gate", "up", "down", "attention")


def config_of(directory):
    return json.loads((directory / "adapter_config.json").read_text())


def change_of(weights):
    """What is added to a projection's matrix."""
    return weights["b"].float() @ weights["a"].float()


# ---------------------------------------------------------------------- engines


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_adapter_for_an_engine_is_the_one_for_peft(tmp_path, engine):
    made = memory(converted(), 1, 2, gated=False, target_modules=EVERYWHERE)
    assert made.to_lora(tmp_path / "engine", engine=engine) == made.to_lora(tmp_path / "peft")
    assert config_of(tmp_path / "engine") == config_of(tmp_path / "peft")
    config = config_of(tmp_path / "engine")
    assert config["r"] == config["lora_alpha"] == 4 and config["bias"] == "none" and config["peft_type"] == "LORA"


def test_a_bank_is_merged_into_one_adapter_and_what_the_cut_loses_is_returned(tmp_path):
    made = memory(converted(), 1, 2, 3, gated=False)
    kept = made.to_lora(tmp_path, rank=4, engine="vllm")
    factors, _ = merged([entry.weights for entry in made.entries], 4)
    for path, share in kept.items():
        whole = sum(change_of(entry.weights[path]) for entry in made.entries)
        lost = torch.linalg.norm(whole - change_of(factors[path])) / torch.linalg.norm(whole)
        assert (1 - share) ** 0.5 == pytest.approx(lost.item(), abs=1e-3)
    assert 0.1 < 1 - min(kept.values()) < 0.9 and config_of(tmp_path)["r"] == 4


def test_an_engine_that_would_not_load_an_adapter_is_named_when_it_is_written(tmp_path):
    target, model = tmp_path / "adapter", converted()
    wide = memory(model, *range(1, 18), gated=False, rank=32)  # 17 entries of rank 32
    with pytest.raises(ConfigError, match="at most 512"):
        wide.to_lora(target, rank=1000, engine="vllm")
    with pytest.raises(ConfigError, match=r"expected one of \['vllm', 'sglang'\]"):
        memory(model, 1).to_lora(target, engine="tgi")
    with pytest.raises(ConfigError, match="Conv1D"):
        memory(converted("gpt2"), 1).to_lora(target, engine="vllm", transposed=True)
    with pytest.raises(ConfigError, match="up_proj only beside gate_proj"):
        memory(model, 1, target_modules=("up",)).to_lora(target, engine="sglang")
    with pytest.raises(ConfigError, match=r"loads no LoRA of .*fc1"):
        memory(converted("phi"), 1).to_lora(target, engine="sglang")
    with pytest.raises(ConfigError, match="shared_expert"):
        memory(converted("qwen2_moe"), 1).to_lora(target, engine="sglang")
    with pytest.raises(ConfigError, match="is empty"):
        memory(model).to_lora(target, engine="vllm")
    assert not target.exists()
    memory(converted("phi"), 1).to_lora(target, engine="vllm")


# ---------------------------------------------------------------------- a store for vLLM's resolver


def test_a_store_is_exported_as_one_directory_that_changes_at_once(tmp_path):
    model, adapters = converted(), tmp_path / "adapters"
    store = MemoryStore(tmp_path / "store")
    assert store.export(adapters, "ines") is None
    store.save(memory(model, 1))
    first = store.export(adapters, "ines", base_name="org/base")
    # What vLLM's resolver looks at: the name is a part of the path, and the base is the one that it serves.
    assert config_of(adapters / "ines")["base_model_name_or_path"] == "org/base"
    assert (adapters / "ines").resolve() == first and store.export(adapters, "ines", base_name="org/base") == first
    store.save(memory(model, 1, 2))
    second = store.export(adapters, "ines", base_name="org/base")
    assert second != first and not first.exists() and (adapters / "ines").resolve() == second
    assert config_of(adapters / "ines")["r"] == 4
    PeftModel.from_pretrained(tiny("llama"), adapters / "ines")
    store.erase()
    assert store.export(adapters, "ines") is None
    assert not (adapters / "ines").is_symlink() and not second.parent.exists()


def test_the_name_of_an_adapter_is_one_part_of_a_path(tmp_path):
    store = MemoryStore(tmp_path / "store")
    store.save(memory(converted(), 1))
    for name in ("", ".", "..", "../ines", "a/b", ".versions", "a\n", "é"):
        with pytest.raises(InputError, match="cannot be named"):
            store.export(tmp_path / "adapters", name)
    (tmp_path / "adapters" / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="not exported here"):
        store.export(tmp_path / "adapters", "mine")


def test_the_users_of_a_server_are_exported_and_those_who_are_gone_are_deleted(tmp_path):
    model, users, adapters = converted(), tmp_path / "store", tmp_path / "adapters"
    ines, omar = directory_name("ines"), directory_name("omar")
    for seed, name in enumerate((ines, omar), start=1):
        MemoryStore(users / name / "memory").save(memory(model, seed))
    (users / directory_name("nobody")).mkdir()  # has said something, nothing is consolidated yet
    (adapters / "mine").mkdir(parents=True)
    written = export_adapters(users, adapters)
    assert written == {name: (adapters / name).resolve() for name in (ines, omar)}
    MemoryStore(users / omar / "memory").erase()
    assert export_adapters(users, adapters).keys() == {ines}
    assert sorted(path.name for path in adapters.iterdir()) == sorted([".versions", ines, "mine"])
    with pytest.raises(InputError, match="no directory"):
        export_adapters(tmp_path / "none", adapters)


# ---------------------------------------------------------------------- GGUF


def gguf_of(family, path):
    """A file with the names and shapes of a tiny model's projections, as llama.cpp's converter makes it."""
    model = tiny(family)
    architecture = {"mistral": "llama"}.get(family, family)
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(numbers[architecture], 4)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(4)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 2:
            value = tensor.mT if family == "gpt2" and ".h." in name else tensor
            writer.add_tensor(f"{names.get_name(name.removesuffix('.weight'))}.weight", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    reader = gguf.GGUFReader(path)
    fields = {key: reader.get_field(key).contents() for key in reader.fields if not key.startswith("GGUF.")}
    return fields, {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gpt2"])
def test_a_gguf_adapter_adds_what_the_memory_adds(tmp_path, family):
    targets = ("down",) if family == "gpt2" else EVERYWHERE
    made = memory(converted(family), 1, 2, target_modules=targets)
    base = gguf_of(family, tmp_path / "base.gguf")
    assert set(made.to_gguf(tmp_path / "memory.gguf", base=base).values()) == {1.0}
    fields, tensors = read(tmp_path / "memory.gguf")
    assert fields["general.type"] == "adapter" and fields["adapter.type"] == "lora"
    assert fields["general.architecture"] == family and fields["adapter.lora.alpha"] == 4.0
    factors, _ = merged([entry.weights for entry in made.entries], 16)
    assert len(tensors) == 2 * len(factors)
    layer = next(path for path in factors if re.search(r"\.2\..*(down_proj|mlp\.c_proj)", path))
    assert torch.equal(tensors["blk.2.ffn_down.weight.lora_a"], factors[layer]["a"])
    assert torch.equal(tensors["blk.2.ffn_down.weight.lora_b"], factors[layer]["b"])


def test_queries_and_keys_are_laid_out_as_llama_cpp_rotates_them(tmp_path):
    # Halves of a head that are rotated together lie side by side: 0, 4, 1, 5, … of eight features.
    rows = torch.arange(16.0)[:, None]
    assert paired(rows, 2).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    for family in ("llama", "qwen2"):
        made = memory(converted(family), 1, target_modules=("attention",))
        made.to_gguf(tmp_path / "memory.gguf", base=gguf_of(family, tmp_path / f"{family}.gguf"))
        _, tensors = read(tmp_path / "memory.gguf")
        weights = made.entries[0].weights["model.layers.1.self_attn.k_proj"]["b"]
        expected = paired(weights, 2) if family == "llama" else weights
        assert torch.equal(tensors["blk.1.attn_k.weight.lora_b"], expected)


def test_without_a_file_the_architecture_is_that_of_the_base_that_the_memory_names(base, tmp_path):
    dataclasses.replace(memory(converted(), 1), base_name=base).to_gguf(tmp_path / "memory.gguf")
    assert read(tmp_path / "memory.gguf")[0]["general.architecture"] == "llama"
    assert f"FROM {base}\n" in (tmp_path / "Modelfile").read_text()


def test_a_modelfile_names_base_and_adapter_from_where_it_is(tmp_path):
    base = gguf_of("llama", tmp_path / "base.gguf")
    memory(converted(), 1).to_gguf(tmp_path / "ines" / "memory.gguf", base=base)
    lines = (tmp_path / "ines" / "Modelfile").read_text().splitlines()
    assert lines[1:] == ["FROM ../base.gguf", "ADAPTER ./memory.gguf"]


def test_what_llama_cpp_has_no_place_for_is_named(tmp_path):
    target, llama = tmp_path / "memory.gguf", gguf_of("llama", tmp_path / "base.gguf")
    with pytest.raises(CheckpointError, match="another model"):
        memory(wrap(tiny("llama", intermediate_size=40), TTT), 1).to_gguf(target, base=llama)
    with pytest.raises(ConfigError, match="is empty"):
        memory(converted()).to_gguf(target, base=llama)
    with pytest.raises(ConfigError, match="no configuration of the base"):
        dataclasses.replace(memory(converted(), 1), base_name=str(tmp_path)).to_gguf(target)
    with pytest.raises(CheckpointError, match="no GGUF file"):
        memory(converted(), 1).to_gguf(target, base=tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("no GGUF at all, but long enough")
    with pytest.raises(CheckpointError, match="no GGUF file"):
        memory(converted(), 1).to_gguf(target, base=tmp_path / "text.gguf")
    memory(converted(), 1).to_gguf(target, base=llama)
    with pytest.raises(CheckpointError, match="Expected the GGUF file of a model"):
        memory(converted(), 1).to_gguf(tmp_path / "second.gguf", base=target)
    assert not (tmp_path / "second.gguf").exists()


def test_a_projection_without_a_tensor_is_named(tmp_path):
    factors, _ = merged([memory(converted("gpt_neox"), 1, target_modules=("attention",)).entries[0].weights], 4)
    with pytest.raises(ConfigError, match="lays out attention in 'gptneox' is not known"):
        write_gguf(factors, Base("gptneox", 4, 4, 4, "tiny"), tmp_path / "memory.gguf")
    with pytest.raises(ConfigError, match="no tensor of their own"):
        write_gguf(factors, Base("llama", 4, 4, 2, "tiny"), tmp_path / "memory.gguf")
    with pytest.raises(ConfigError, match="no architecture 'ctrl'"):
        write_gguf(factors, Base("ctrl", 4, 4, 2, "tiny"), tmp_path / "memory.gguf")


def test_the_command_line_exports_one_memory_or_a_store(tmp_path):
    base, users, ines = gguf_of("llama", tmp_path / "base.gguf"), tmp_path / "users", directory_name("ines")
    user = users / ines
    MemoryStore(user / "memory").save(memory(converted(), 1))
    said = document("memory", "export-gguf", user, tmp_path / "out" / "memory.gguf", "--base", base)
    assert said["energy_kept"].keys() == memory(converted(), 1).entries[0].weights.keys()
    assert "exists already" in fails("memory", "export-gguf", user, tmp_path / "out" / "other.gguf", "--base", base)
    assert "keeps at least 100%" in run("memory", "export", user, tmp_path / "adapter", "--engine", "sglang").stdout
    said = document("memory", "export-store", users, tmp_path / "adapters", "--base-name", "org/base")
    assert config_of(Path(said["adapters"][ines]))["base_model_name_or_path"] == "org/base"
