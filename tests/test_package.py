"""The wheel holds what is needed at run time, works alone, and names the extra that is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import ttt_retrofit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ["ttt_retrofit", "ttt_retrofit_cli"]
INFO = f"ttt_retrofit-{PROJECT['version']}.dist-info"
CACHES = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built offline, of a copy: a build leaves directories behind."""
    copy, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=CACHES)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*build, "-w", str(target), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(target.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(INFO)}
    files = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    assert names == {path.as_posix() for path in files if "__pycache__" not in path.parts}
    assert {"ttt_retrofit/py.typed", "ttt_retrofit/consolidation/prompts.toml"} <= names


def test_what_the_wheel_says_of_itself_is_what_the_project_says(wheel):
    with zipfile.ZipFile(wheel) as archive:
        said = Parser().parsestr(archive.read(f"{INFO}/METADATA").decode())
        assert archive.read(f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert "ttt-retrofit = ttt_retrofit_cli:main" in archive.read(f"{INFO}/entry_points.txt").decode()
    assert said["Version"] == ttt_retrofit.__version__ and said["License-Expression"] == PROJECT["license"]
    assert said.get_all("Provides-Extra") == list(PROJECT["optional-dependencies"])


def test_citation_changelog_and_licence_agree_with_the_project():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation and f"\nlicense: {PROJECT['license']}\n" in citation
    assert re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == PROJECT["version"]
    assert "Apache License" in (ROOT / "LICENSE").read_text() and PROJECT["license"] == "Apache-2.0"


ALONE = """
import json, sys
sys.modules |= dict.fromkeys(json.loads(sys.argv[1]))  # as if none were installed
import torch
import transformers
from ttt_retrofit import MissingExtraError, TTTConfig, wrap
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.viz import collect, text
import ttt_retrofit, ttt_retrofit_cli
shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 50}
config = transformers.LlamaConfig(num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape)
model = wrap(transformers.LlamaForCausalLM(config), TTTConfig(sliding_window=8, chunk_size=4))
losses = model.read(torch.arange(3, 40)).loss_by_chunk
assert Prompts.load(None)
said = []
for needed in ("ttt_retrofit.TTTTrainer", "ttt_retrofit.TTTTrainingConfig", "ttt_retrofit.viz.figures"):
    package, _, name = needed.rpartition(".")
    try:
        exec(f"from {package} import {name}")
    except MissingExtraError as error:
        said.append(str(error))
print(json.dumps([ttt_retrofit.__file__, ttt_retrofit_cli.__file__, losses.numel(), said]))
"""


@pytest.mark.slow
def test_the_unpacked_wheel_works_without_extras_and_names_the_one_that_is_missing(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    user = [PROJECT["optional-dependencies"][extra] for extra in ("viz", "train", "quant", "chat", "serve")]
    extras = [re.split("[<>=]", requirement)[0] for extra in user for requirement in extra]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(extras)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    package, commands, chunks, said = json.loads(done.stdout)
    assert all(Path(path).is_relative_to(tmp_path) for path in (package, commands)) and chunks == 9
    assert len(said) == 3 and all("\n" not in line for line in said)
    assert all(f"pip install 'ttt-retrofit[{extra}]'" in line for line, extra in zip(said, ("train", "train", "viz")))
