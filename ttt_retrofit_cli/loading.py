"""What verbs are given: models by name or directory, and settings as NAME=VALUE."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from ttt_retrofit.config import DECIDE_PARAMETERS, TTTConfig
from ttt_retrofit.errors import ConfigError, InputError, TTTError, UnsupportedModelError
from ttt_retrofit.model.auto import AutoModelForCausalLM, TTTConfigMixin
from ttt_retrofit.util.texts import text_ids


@dataclass(frozen=True)
class Choices:
    """How a model is to read, as far as it was said."""

    preset: str | None = None
    window: int | None = None
    settings: Sequence[str] = ()
    defaults: dict[str, Any] = field(default_factory=dict)  # of the verb; what was said comes before them
    trust_remote_code: bool = False  # whether code that stands beside a model may run

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


def load_config(name: str, choices: Choices) -> Any:
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
        return AutoConfig.from_pretrained(
            local if local.exists() else name, trust_remote_code=choices.trust_remote_code
        )
    except TTTError:
        raise
    except (ValueError, StrictDataclassError) as error:
        saved, _ = PreTrainedConfig.get_config_dict(local if local.exists() else name)
        if saved.get("model_type") not in CONFIG_MAPPING:
            _check_code(name, saved, choices)
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
    config, where = load_config(name, choices), Path(name).expanduser()
    found, trust = where if where.exists() else name, choices.trust_remote_code
    if is_converted(config):
        choices.of_converted(name, config.ttt)  # refuses what does not fit before weights are loaded
        model = AutoModelForCausalLM.from_pretrained(found, dtype=dtype, trust_remote_code=trust)
        if choices.changes():
            model.configure_ttt(**choices.changes())
    else:
        model = AutoModelForCausalLM.from_pretrained(
            found, ttt_config=choices.config(), dtype=dtype, trust_remote_code=trust
        )
    return model.eval().to(place)


def load_tokenizer(name: str, choices: Choices) -> PreTrainedTokenizerBase:
    """The tokenizer that stands beside a model.

    Raises
    ------
    InputError
        When there is none.
    """
    where = Path(name).expanduser()
    try:
        return AutoTokenizer.from_pretrained(
            where if where.exists() else name, trust_remote_code=choices.trust_remote_code
        )
    except ValueError:
        _check_code(name, get_tokenizer_config(where if where.exists() else name), choices)
        raise InputError(
            f"{name} has no tokenizer that transformers can load. Save that of the base beside the model, with "
            "tokenizer.save_pretrained()."
        ) from None


def _check_code(name: str, saved: dict[str, Any], choices: Choices) -> None:
    """Raise `UnsupportedModelError` where something could not be loaded because its code was not to run."""
    if "auto_map" in saved and not choices.trust_remote_code:
        raise UnsupportedModelError(
            f"{name} comes with code of its own, which is not run unless you say so. Read that code; if you trust it, "
            "give --trust-remote-code."
        ) from None


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, most: int | None = None) -> torch.Tensor:
    """(1, T) ids of a text that begins, at most `most` of them."""
    return torch.tensor([text_ids(tokenizer, text)], device="cpu")[:, :most]


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
