"""`wrap`, the drop-in `AutoModelForCausalLM`, and how transformers learns of converted models.

On disk a converted model's `config.json` is the base's flat config plus `model_type: "ttt_retrofit"`,
`base_model_type`, a `ttt` block and an `auto_map`. In memory its class derives from the family's class, and its
config's `model_type` stays the family's, so that PEFT, Trainer and TRL treat it as that family.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from . import hub, layer
from .config import TTTConfig
from .errors import CheckpointError, ConfigError, UnsupportedModelError
from .modeling import TTTMixin, derived_forward


class TTTConfigMixin:
    """Makes a family's config write itself as a converted one."""

    _base_class: type[PreTrainedConfig]
    ttt: dict[str, Any]

    def to_diff_dict(self) -> dict[str, Any]:
        """What `save_pretrained` writes. `to_dict`, which PEFT reads, stays the family's."""
        values = super().to_diff_dict()  # type: ignore[misc]
        values |= {
            "model_type": hub.MODEL_TYPE,
            "base_model_type": type(self).model_type,  # type: ignore[attr-defined]
            "auto_map": hub.AUTO_MAP,
            "ttt": self.ttt,
        }
        return values


@cache
def derived_config(base: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """`TTTQwen3Config(TTTConfigMixin, Qwen3Config)`."""
    name = f"TTT{base.__name__}"
    return type(name, (TTTConfigMixin, base), {"__module__": __name__, "_base_class": base})


@cache
def derived_model(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """`TTTQwen3ForCausalLM(TTTMixin, Qwen3ForCausalLM)`, known to transformers' `AutoModelForCausalLM`."""
    strict = set(base._keep_in_fp32_modules_strict or ())
    config = derived_config(base.config_class)
    members = {
        "__module__": __name__,
        "_base_class": base,
        "config_class": config,
        "config": config,
        "forward": derived_forward(base),
        "_keep_in_fp32_modules_strict": strict | {layer.TTT},
        "from_pretrained": classmethod(_from_pretrained),
    }
    cls = type(f"TTT{base.__name__}", (TTTMixin, base), members)
    transformers.AutoModelForCausalLM.register(config, cls, exist_ok=True)
    return cls


def __getattr__(name: str) -> Any:
    """Derived classes by name, so that pickle finds them in a fresh process (PEP 562)."""
    base = getattr(transformers, name.removeprefix("TTT"), None) if name.startswith("TTT") else None
    if isinstance(base, type) and issubclass(base, PreTrainedModel):
        return derived_model(base)
    if isinstance(base, type) and issubclass(base, PreTrainedConfig):
        return derived_config(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class TTTModelConfig(PreTrainedConfig):
    """The front door for `model_type: "ttt_retrofit"`: gives back the derived config of the right family."""

    model_type = hub.MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        values = dict(config_dict)
        missing = sorted({"base_model_type", "ttt"} - set(values))
        if missing:
            raise CheckpointError(
                f"config.json says model_type {hub.MODEL_TYPE!r} but lacks {missing}. "
                "Save the model again with save_pretrained."
            )
        family = values.pop("base_model_type")
        if family not in CONFIG_MAPPING:
            raise CheckpointError(f"The base is of type {family!r}, which this version of transformers does not know.")
        values.pop("auto_map", None)
        values["model_type"] = family
        base = CONFIG_MAPPING[family]
        architectures = values.get("architectures") or []
        derived_model(_base_model(base, architectures))
        return derived_config(base).from_dict(values, **kwargs)


def _base_model(config: type[PreTrainedConfig], architectures: list[str]) -> type[PreTrainedModel]:
    named = [getattr(transformers, name.removeprefix("TTT"), None) for name in architectures]
    found = next((cls for cls in named if cls is not None), None)
    found = found or transformers.AutoModelForCausalLM._model_mapping.get(config, None)
    if found is None:
        raise UnsupportedModelError(f"{config.__name__} has no causal language model in transformers.")
    return found


class TTTForCausalLM:
    """What `trust_remote_code=True` resolves to."""

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, *args: Any, config: Any, **kwargs: Any) -> Any:
        model = derived_model(_base_model(type(config)._base_class, config.architectures or []))
        return model.from_pretrained(path, *args, config=config, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModelForCausalLM") -> None:
        """Nothing to do: `save_pretrained` writes the shim and the `auto_map`."""


def _from_pretrained(
    cls: type[PreTrainedModel],
    path: str | os.PathLike,
    *args: Any,
    output_loading_info: bool = False,
    convert: bool = False,
    **kwargs: Any,
) -> Any:
    """As `PreTrainedModel.from_pretrained`. A converted checkpoint must hold every `ttt` tensor; a base has none yet."""
    try:
        model, info = super(TTTMixin, cls).from_pretrained(path, *args, output_loading_info=True, **kwargs)
    except SafetensorError as error:
        raise CheckpointError(
            f"A safetensors file in {path} is truncated or damaged ({error}). Download or save it again."
        ) from error
    missing = sorted(key for key in info["missing_keys"] if f".{layer.TTT}." in key)
    if missing and not convert:
        raise CheckpointError(
            f"{path} lacks {len(missing)} tensors of its fast weights, such as {missing[0]!r}. It is no complete "
            "converted checkpoint: save it again, or convert the base with wrap()."
        )
    mismatched = sorted(str(entry) for entry in info["mismatched_keys"])
    if mismatched:
        raise CheckpointError(f"{path} was made for another base: {mismatched[:3]} differ in shape.")
    model.bind_ttt()
    if convert:
        layer.initialise(model)
        hub.forget_gguf(model)
    return (model, info) if output_loading_info else model


def wrap(model: PreTrainedModel | str | os.PathLike, config: TTTConfig | None = None, **kwargs: Any) -> Any:
    """Convert a pretrained decoder into one that keeps learning while it reads.

    Parameters
    ----------
    model : a transformers model, converted in place; or a name or directory, loaded with `kwargs`.
    config : how it reads; `TTTConfig()` when not given.

    Returns
    -------
    The model, now an instance of a class derived from its family's (`isinstance` still holds).

    Raises
    ------
    UnsupportedModelError
        When the model cannot be converted, or was already dispatched over devices. It is left as it was.
    ConfigError
        When `config` does not fit the model.
    """
    config = config or TTTConfig()
    if isinstance(model, (str, os.PathLike)):
        return AutoModelForCausalLM.from_pretrained(model, ttt_config=config, **kwargs)
    if kwargs:
        raise ConfigError(f"{sorted(kwargs)} are for loading by name; this model is loaded already.")
    _check_wrappable(model)
    base = type(model)
    cls = derived_model(base)
    hub.forget_gguf(model)
    model.__class__ = cls
    try:
        model.attach_ttt(config)
    except Exception:
        model.__class__ = base
        raise
    model.config.__class__ = derived_config(type(model.config))
    model.config.ttt = config.to_dict()
    layer.initialise(model)
    return model


def _check_wrappable(model: Any) -> None:
    if isinstance(model, TTTMixin):
        raise ConfigError("The model is converted already. Call unwrap() first to convert it anew.")
    if not isinstance(model, PreTrainedModel):
        hint = " Wrap the base first, then add the adapter." if "peft" in type(model).__module__ else ""
        raise UnsupportedModelError(f"Expected a transformers model, found {type(model).__name__}.{hint}")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedModelError("The model carries PEFT adapters. Merge or delete them, wrap, then add them again.")
    if not model.can_generate():
        raise UnsupportedModelError(f"{type(model).__name__} is not a causal language model; it has no generate().")
    dispatched = getattr(model, "hf_device_map", None) or {}
    hooked = "_hf_hook" in model.__dict__
    if hooked or len(set(dispatched.values())) > 1:
        raise UnsupportedModelError(
            f"The model is dispatched already (device map {dispatched}): accelerate's hooks would bypass the conversion. "
            "Load it with ttt_retrofit.AutoModelForCausalLM.from_pretrained(name, ttt_config=..., device_map=...)."
        )


class AutoModelForCausalLM:
    """Drop-in for transformers' class: converts a base while loading, or loads a converted checkpoint."""

    def __init__(self) -> None:
        raise OSError("Use AutoModelForCausalLM.from_pretrained(name_or_directory, ttt_config=...).")

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike, *args: Any, ttt_config: TTTConfig | None = None, **kwargs: Any
    ) -> Any:
        """As transformers' `from_pretrained`, with `ttt_config` for a base.

        Raises
        ------
        ConfigError
            When `ttt_config` differs from the one a converted checkpoint was saved with.
        """
        shared = {
            name: kwargs[name]
            for name in (
                "revision",
                "token",
                "cache_dir",
                "local_files_only",
                "subfolder",
                "trust_remote_code",
                "gguf_file",
            )
            if name in kwargs
        }
        config = kwargs.pop("config", None) or AutoConfig.from_pretrained(path, **shared)
        if isinstance(config, TTTConfigMixin):
            saved = TTTConfig.from_dict(config.ttt)
            if ttt_config is not None and ttt_config != saved:
                raise ConfigError(
                    f"{path} is converted already, with {saved}; ttt_config is {ttt_config}. Load it without ttt_config, "
                    "then call configure_ttt(), or convert the base anew."
                )
            return transformers.AutoModelForCausalLM.from_pretrained(path, *args, config=config, **kwargs)
        ttt_config = ttt_config or TTTConfig()
        base = transformers.AutoModelForCausalLM._model_mapping.get(type(config), None)
        if base is None or kwargs.get("gguf_file"):
            # Remote code has no class to derive from before it is loaded, nor has a GGUF file a config on disk.
            return wrap(transformers.AutoModelForCausalLM.from_pretrained(path, *args, **kwargs), ttt_config)
        named = [getattr(transformers, name, None) for name in config.architectures or []]
        base = next(
            (c for c in named if isinstance(c, type) and issubclass(c, PreTrainedModel) and c.can_generate()), base
        )
        derived = derived_model(base)
        config.__class__ = derived_config(type(config))
        config.ttt = ttt_config.to_dict()
        return derived.from_pretrained(path, *args, config=config, convert=True, **kwargs)


AutoConfig.register(hub.MODEL_TYPE, TTTModelConfig, exist_ok=True)
