"""What verbs are given: models by name or directory, settings as NAME=VALUE, texts in files or on stdin."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ..auto import AutoModelForCausalLM, TTTConfigMixin
from ..config import DECIDE_PARAMETERS, TTTConfig
from ..errors import ConfigError, InputError, TTTError, UnsupportedModelError

STDIN = Path("-")


@dataclass(frozen=True)
class Choices:
    """How a model is to read, as far as it was said."""

    preset: str | None = None
    window: int | None = None
    settings: Sequence[str] = ()
    defaults: dict[str, Any] = field(default_factory=dict)  # of the verb; what was said comes before them

    def changes(self) -> dict[str, Any]:
        """Fields of `TTTConfig`."""
        window = {} if self.window is None else {"sliding_window": self.window}
        return self.defaults | window | settings(self.settings)

    def config(self) -> TTTConfig:
        """For a base."""
        return TTTConfig.from_dict(TTTConfig.preset(self.preset or "default").to_dict() | self.changes())

    def of_converted(self, name: str, saved: dict[str, Any]) -> TTTConfig:
        """For the converted model of that name and settings.

        Raises
        ------
        ConfigError
            For a preset, or fields that decide which parameters exist.
        """
        if self.preset is not None:
            raise ConfigError(
                f"{name} is converted already, and a preset is for a base. Use --set NAME=VALUE to change settings."
            )
        fixed = sorted(set(DECIDE_PARAMETERS) & set(self.changes()))
        if fixed:
            raise ConfigError(
                f"{name} is converted already, and {fixed} decide which parameters it has. Convert its base anew to "
                "change them."
            )
        return TTTConfig.from_dict(saved | self.changes())


def settings(said: Sequence[str]) -> dict[str, Any]:
    """["inner_lr=1e-3", "layers=upper"] as a dictionary; values are JSON, Python's True, False and None, or else words.

    Raises
    ------
    ConfigError
        For what is not NAME=VALUE.
    """
    found: dict[str, Any] = {}
    for part in said:
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise ConfigError(f"Found the setting {part!r}, expected NAME=VALUE, such as inner_lr=1e-3.")
        found[name] = _value(value)
    return found


def _value(said: str) -> Any:
    # As a word, "False" would count as true. None has one spelling: "none" is a word that some fields take.
    if said.lower() in ("true", "false"):
        return said.lower() == "true"
    if said == "None":
        return None
    try:
        return json.loads(said)
    except json.JSONDecodeError:
        return said


def load_config(name: str) -> Any:
    """The configuration of a model; `is_converted` tells which kind it is.

    Raises
    ------
    InputError
        When there is no such directory, or no model in it.
    UnsupportedModelError
        When transformers does not know the family, or the configuration is damaged.
    """
    local = Path(name).expanduser()
    if local.exists() and not (local / "config.json").exists():
        raise InputError(f"{name} holds no config.json. Expected a directory written by save_pretrained, or a Hub id.")
    if not local.exists() and (local.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise InputError(f"There is no model directory {name}. Give an existing directory, or a Hub id such as a/b.")
    try:
        return AutoConfig.from_pretrained(local if local.exists() else name)
    except TTTError:
        raise
    except (ValueError, StrictDataclassError) as error:
        reason = str(error).partition("\n\n")[0]  # what follows is advice on other ways to install transformers
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} cannot read the config.json of {name}: {reason} Expected a "
            "causal language model of a family that it knows."
        ) from None


def is_converted(config: Any) -> bool:
    return isinstance(config, TTTConfigMixin)


def find_device(said: str | None) -> torch.device:
    """The device that was named, or else the GPU if there is one.

    Raises
    ------
    ConfigError
        When torch cannot compute on it here.
    """
    if not said:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=said).item()  # not on "meta", which computes nothing
    except (RuntimeError, AssertionError, ImportError):  # what is raised depends on how torch was built
        gpu = torch.accelerator.current_accelerator()
        gpus = [] if gpu is None else [f"{gpu.type}:{index}" for index in range(torch.accelerator.device_count())]
        raise ConfigError(f"--device {said}: torch has no such device here. Choose one of {['cpu', *gpus]}.") from None
    return torch.device(said)


def load_model(name: str, choices: Choices, device: str | None = None, dtype: Any = "auto") -> Any:
    """A converted model, ready to read: a base is converted in memory, a converted checkpoint changed as was said.

    Its parameters are of `dtype`, or as they were saved.

    Raises
    ------
    ConfigError
        For settings that do not fit, a preset for a model that is converted already, or a device that is not here.
    """
    place = find_device(device)  # before the minutes that loading may take
    config, where = load_config(name), Path(name).expanduser()
    found = where if where.exists() else name
    if is_converted(config):
        choices.of_converted(name, config.ttt)  # refuses what does not fit before weights are loaded
        model = AutoModelForCausalLM.from_pretrained(found, dtype=dtype)
        if choices.changes():
            model.configure_ttt(**choices.changes())
    else:
        model = AutoModelForCausalLM.from_pretrained(found, ttt_config=choices.config(), dtype=dtype)
    return model.eval().to(place)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer that stands beside a model.

    Raises
    ------
    InputError
        When there is none.
    """
    where = Path(name).expanduser()
    try:
        return AutoTokenizer.from_pretrained(where if where.exists() else name)
    except ValueError:
        raise InputError(
            f"{name} has no tokenizer that transformers can load. Save that of the base beside the model, with "
            "tokenizer.save_pretrained()."
        ) from None


def read_text(path: Path) -> str:
    """A UTF-8 file, or stdin for "-".

    Raises
    ------
    InputError
        When it is not UTF-8, or empty.
    """
    data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}). Convert it first.") from None
    if not text.strip():
        raise InputError(f"{path} is empty: expected a text.")
    return text


def read_context(path: Path) -> str | list[dict[str, Any]]:
    """A text; or, of a file named .json and of stdin that begins as a list of objects does, a list of chat messages.

    Raises
    ------
    InputError
        When a .json file holds anything but a list of {"role": ..., "content": ...}.
    """
    text = read_text(path)
    if path.suffix != ".json" and not (path == STDIN and re.match(r"\s*\[\s*\{", text)):
        return text
    expected = 'expected a list of {"role": ..., "content": ...}.'
    try:
        messages = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is no JSON ({error}); {expected}") from None
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and {"role", "content"} <= set(message) for message in messages
    ):
        raise InputError(f"{path} holds JSON, but no chat messages; {expected}")
    return messages


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, most: int | None = None) -> torch.Tensor:
    """(1, T) ids of a text, at most `most` of them."""
    return tokenizer(text, return_tensors="pt", verbose=False).input_ids[:, :most]


def check_new(target: Path) -> None:
    """Raise `InputError` where something would be written over."""
    if target.exists():
        raise InputError(f"{target} exists already. Choose another name, or move it away first.")


def check_free(target: Path) -> None:
    """Raise `InputError` where no directory can be written; an empty one that is there is in nobody's way."""
    if not target.is_dir() or any(target.iterdir()):
        check_new(target)


def check_file(target: Path) -> None:
    """Raise `InputError` where no file can be written; directories above it may still have to be made."""
    if target.is_dir():
        raise InputError(f"{target} is a directory. Name a file to write, such as {target / 'state.safetensors'}.")
    above = next(directory for directory in target.absolute().parents if directory.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{target} cannot be written: {above} is no directory that you may write to. Choose another.")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A directory to write into, which becomes `target` only when all of it is there.

    Raises
    ------
    InputError
        When `target` exists and holds something.
    """
    check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as directory:
        whole = Path(directory, target.name)
        whole.mkdir()
        yield whole
        whole.replace(target)
