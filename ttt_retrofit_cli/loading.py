"""Models and tokenizers by name or directory, read as the options say."""

from __future__ import annotations

from pathlib import Path
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

from .options import ModelOptions, ReadingOptions
from .settings import settings


def changes_of(options: ReadingOptions) -> dict[str, Any]:
    """Fields of `TTTConfig` that were given."""
    window = {} if options.window is None else {"sliding_window": options.window}
    return window | settings(options.settings or ())


def chosen_ttt(name: str, config: Any, options: ReadingOptions) -> TTTConfig:
    """How the model of that name and configuration, of a base or of a converted model, is to read.

    Raises
    ------
    ConfigError
        For settings that do not fit; for a converted model, a preset and fields that decide which parameters exist.
    """
    changes = changes_of(options)
    if not is_converted(config):
        return TTTConfig.from_dict(TTTConfig.preset(options.preset or "default").to_dict() | changes)
    if options.preset is not None:
        raise ConfigError(
            f"{name} is converted already, and a preset is for a base. Use --set NAME=VALUE to change settings."
        )
    fixed = sorted(set(DECIDE_PARAMETERS) & set(changes))
    if fixed:
        raise ConfigError(
            f"{name} is converted already, and {fixed} decide which parameters it has. Convert its base anew to "
            "change them."
        )
    return TTTConfig.from_dict(config.ttt | changes)


def load_config(name: str, options: ReadingOptions) -> Any:
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
        return AutoConfig.from_pretrained(local if local.exists() else name, trust_remote_code=options.trust)
    except TTTError:
        raise
    except (ValueError, StrictDataclassError) as error:
        saved, _ = PreTrainedConfig.get_config_dict(local if local.exists() else name)
        if saved.get("model_type") not in CONFIG_MAPPING:
            _check_code(name, saved, options)
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


def load_model(name: str, options: ModelOptions) -> Any:
    """A converted model, ready to read: a base is converted in memory, a converted checkpoint changed as was said.

    Raises
    ------
    ConfigError
        For settings that do not fit, a preset for a model that is converted already, or a device that is not here.
    """
    place = find_device(options.device)  # before the minutes that loading may take
    config, where = load_config(name, options), Path(name).expanduser()
    ttt, changes = chosen_ttt(name, config, options), changes_of(options)
    converting = {} if is_converted(config) else {"ttt_config": ttt}
    model = AutoModelForCausalLM.from_pretrained(
        where if where.exists() else name,
        dtype=options.dtype or "auto",
        trust_remote_code=options.trust,
        **converting,
    )
    if is_converted(config) and changes:
        model.configure_ttt(**changes)
    return model.eval().to(place)


def load_tokenizer(name: str, options: ReadingOptions) -> PreTrainedTokenizerBase:
    """The tokenizer that stands beside a model.

    Raises
    ------
    InputError
        When there is none.
    """
    where = Path(name).expanduser()
    try:
        return AutoTokenizer.from_pretrained(where if where.exists() else name, trust_remote_code=options.trust)
    except ValueError:
        _check_code(name, get_tokenizer_config(where if where.exists() else name), options)
        raise InputError(
            f"{name} has no tokenizer that transformers can load. Save that of the base beside the model, with "
            "tokenizer.save_pretrained()."
        ) from None


def _check_code(name: str, saved: dict[str, Any], options: ReadingOptions) -> None:
    """Raise `UnsupportedModelError` where something could not be loaded because its code was not to run."""
    if "auto_map" in saved and not options.trust:
        raise UnsupportedModelError(
            f"{name} comes with code of its own, which is not run unless you say so. Read that code; if you trust it, "
            "give --trust-remote-code."
        ) from None


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, most: int | None = None) -> torch.Tensor:
    """(1, T) ids of a text that begins, at most `most` of them."""
    return torch.tensor([text_ids(tokenizer, text)], device="cpu")[:, :most]
