"""`wrap`, the drop-in `AutoModelForCausalLM`, and how transformers learns of converted models.

On disk a converted model's `config.json` is the base's flat config plus `model_type: "ttt_retrofit"`,
`base_model_type`, `base_model_name_or_path`, a `ttt` block and an `auto_map`. In memory its class derives from the
family's class. The class's `__name__` and its config's `model_type` stay the family's, because Trainer, PEFT,
TRL and pipelines decide by them how to treat a model. Its `__qualname__`, under which pickle finds it, is ours.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..config import TTTConfig
from ..errors import CheckpointError, ConfigError, TTTError, UnsupportedModelError
from ..inner import layer
from ..util.files import check_regular_inside
from ..util.hub_ids import hub_id
from ..util.settings import field_names
from . import hub
from .alike import records_alike
from .modeling import TTTMixin, TTTPreTrainedModel, derived_forward

# What says where and how to load rather than what; transformers consumes these while it reads a config.
LOCATION = (
    *("cache_dir", "code_revision", "force_download", "local_files_only", "proxies", "revision", "subfolder"),
    *("token", "trust_remote_code"),
)
# Of these a config may only hold what the model is loaded with, so they go to the model alone.
FOR_THE_MODEL = ("dtype", "torch_dtype", "quantization_config")

# The mixin stands before the family's class, from which it inherits everything it calls.
if TYPE_CHECKING:
    _ConfigBase = PreTrainedConfig
else:
    _ConfigBase = object
_DERIVED: dict[tuple[type, ...], Any] = {}
PREFIX = "TTT"
JOINT = "_of_"  # in the name of a class whose configurations are not of the kind its base names


class TTTConfigMixin(_ConfigBase):
    """Makes a family's config write itself as a converted one, and read what it wrote."""

    _base_class: type[PreTrainedConfig]
    base_model_name_or_path: str | None = None  # the base that was converted
    ttt: dict[str, Any] | None = None  # None when read from a base, as PEFT does to compare
    auto_map = hub.AUTO_MAP  # TRL looks in it for an auto class, where it does not know the architecture

    def to_diff_dict(self) -> dict[str, Any]:
        """What `save_pretrained` writes. `to_dict`, which PEFT reads, stays the family's."""
        values = super().to_diff_dict()
        if self.ttt is None:
            return values
        return values | {
            # Not the base's: who loads a class by the name in this file must not get the plain base.
            "architectures": [_derived_name(name) for name in self.architectures or []],
            "model_type": hub.MODEL_TYPE,
            "base_model_type": self.model_type,
            "base_model_name_or_path": hub_id(self.base_model_name_or_path),
            "auto_map": hub.AUTO_MAP,
            "ttt": self.ttt,
        }

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> Any:
        values, unused = super().get_config_dict(*args, **kwargs)
        return (_as_family(values) if values.get("model_type") == hub.MODEL_TYPE else values), unused


def derived_config(base: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """`TTTQwen3Config(TTTConfigMixin, Qwen3Config)`."""
    if (base,) not in _DERIVED:
        members = {"__module__": __name__, "_base_class": base}
        _DERIVED[base,] = type(_derived_name(base.__name__), (TTTConfigMixin, base), members)
    return _DERIVED[base,]


def derived_model(base: type[PreTrainedModel], config: type[PreTrainedConfig] | None = None) -> type[PreTrainedModel]:
    """`TTTQwen3ForCausalLM(TTTMixin, Qwen3ForCausalLM)`, known to transformers' auto classes.

    config: the class its configurations are of, where that is not the one `base` names: InternLM3's is not Llama's.
    """
    config = config or base.config_class
    if config is None:
        raise UnsupportedModelError(f"{base.__name__} does not say which configuration class it is made from.")
    if (base, config) in _DERIVED:
        return _DERIVED[base, config]
    own = derived_config(config)
    name = _derived_name(base.__name__)
    members = {
        "__module__": __name__,
        "__qualname__": name if config is base.config_class else f"{name}{JOINT}{config.__name__}",
        "_base_class": base,
        "config_class": own,
        "config": own,
        "forward": derived_forward(base),
        "_keep_in_fp32_modules_strict": {*(base._keep_in_fp32_modules_strict or ()), layer.TTT},
    }
    _DERIVED[base, config] = type(base.__name__, (TTTMixin, base), members)
    records_alike(_DERIVED[base, config], base)
    _register(_DERIVED[base, config], config)
    return _DERIVED[base, config]


def _derived_name(name: str) -> str:
    return PREFIX + name.removeprefix(PREFIX)


def _register(derived: Any, family: type[PreTrainedConfig]) -> None:
    """Let each auto class load the converted model where it would load this base, and refuse it otherwise."""
    base = derived._base_class
    for auto in _BaseAutoModelClass.__subclasses__():
        if auto._model_mapping is None:  # the parent of AutoBackbone, no auto class itself
            continue
        loads = auto is transformers.AutoModelForCausalLM or auto._model_mapping.get(family, None) is base
        auto.register(derived.config_class, derived if loads else _refusal(auto, derived), exist_ok=True)


def _refusal(auto: type, derived: Any) -> type:
    """What an auto class finds for a converted model of which it would make something else."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedModelError(
            f"{auto.__name__} cannot load a converted {derived._base_class.__name__}: it reads as a causal language "
            "model. Load it with transformers.AutoModelForCausalLM. For another head on the plain base, call unwrap() "
            f"on what that gives, save it with save_pretrained(), and load that with {auto.__name__}."
        )

    members = {"__module__": __name__, "config_class": derived.config_class}
    members |= {"from_pretrained": staticmethod(refuse), "_from_config": staticmethod(refuse)}
    return type(f"NotFor{auto.__name__}", (), members)


def __getattr__(name: str) -> Any:
    """Derived classes by name, so that pickle finds them in a fresh process, and PEFT by `__name__` (PEP 562)."""
    base, _, config = name.removeprefix(PREFIX).partition(JOINT)
    found = getattr(transformers, base, None)
    if isinstance(found, type) and issubclass(found, PreTrainedModel):
        return derived_model(found, getattr(transformers, config) if config else None)
    if isinstance(found, type) and issubclass(found, PreTrainedConfig):
        return derived_config(found)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class TTTModelConfig(PreTrainedConfig):
    """The configuration class of `model_type: "ttt_retrofit"`: returns the derived config of the right family."""

    model_type = hub.MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        values = _as_family(config_dict)
        family = CONFIG_MAPPING[values["model_type"]]
        derived_model(_base_model(family, values.get("architectures")), family)
        return derived_config(family).from_dict(values, **kwargs)


def _as_family(config_dict: dict[str, Any]) -> dict[str, Any]:
    """A converted `config.json` as the family's own, plus the `ttt` block."""
    missing = sorted({"base_model_type", "ttt"} - set(config_dict))
    if missing:
        raise CheckpointError(
            f"config.json says model_type {hub.MODEL_TYPE!r} but lacks {missing}. "
            "Save the model again with save_pretrained."
        )
    family = config_dict["base_model_type"]
    if family not in CONFIG_MAPPING:
        raise CheckpointError(f"The base is of type {family!r}, which this version of transformers does not know.")
    dropped = ("auto_map", "base_model_type")
    return {key: value for key, value in config_dict.items() if key not in dropped} | {"model_type": family}


def _base_model(config: type[PreTrainedConfig], architectures: list[str] | None) -> type[PreTrainedModel]:
    """The generating class that a checkpoint names, or else the family's causal language model."""
    for name in architectures or []:
        named = getattr(transformers, name.removeprefix(PREFIX), None)
        if isinstance(named, type) and issubclass(named, PreTrainedModel) and named.can_generate():
            return named
    mapped: Any = transformers.AutoModelForCausalLM._model_mapping.get(config, None)
    if mapped is None:
        raise UnsupportedModelError(f"{config.__name__} has no causal language model in transformers.")
    return mapped


def wrap(
    model: PreTrainedModel | str | os.PathLike, config: TTTConfig | None = None, **kwargs: Any
) -> TTTPreTrainedModel:
    """Convert a pretrained decoder into one that keeps learning while it reads.

    Parameters
    ----------
    model : a transformers model, converted in place; or a name or directory, loaded with `kwargs`.
    config : how it reads. Default: the saved configuration of a converted checkpoint, `TTTConfig()` for a base.

    Returns
    -------
    The model, now an instance of a class derived from its family's (`isinstance` still holds).

    Raises
    ------
    UnsupportedModelError
        When the model cannot be converted, or was already dispatched over devices. The model is unchanged.
    ConfigError
        When `config` does not fit the model.
    """
    if not isinstance(config, TTTConfig | None):
        found = type(config).__name__
        raise ConfigError(f"Expected a TTTConfig, found {found}. TTTConfig.from_dict() makes one of a dict.")
    if isinstance(model, (str, os.PathLike)):
        return AutoModelForCausalLM.from_pretrained(model, ttt_config=config, **kwargs)
    _check_not_ours(kwargs, "wrap(model, TTTConfig({}))")
    if kwargs:
        raise ConfigError(f"{sorted(kwargs)} are for loading by name, but this model is already loaded.")
    config = TTTConfig() if config is None else config
    _check_wrappable(model)
    base, converted = type(model), model
    model.__class__ = derived_model(base, type(model.config))
    assert isinstance(converted, TTTMixin)
    try:
        _own_config(model)
        with torch.inference_mode(False), torch.device("cpu"):
            converted.attach_ttt(config)
    except Exception:
        model.__class__ = base
        raise
    _mark(model.config, model.name_or_path, config)
    hub.forget_gguf(model)
    layer.initialise(model)
    layer.warn_of_large_steps(converted.sites, config)
    return converted


def _own_config(model: PreTrainedModel) -> None:
    """Give the model a configuration of its own: several models may have been made from one object."""
    copies: dict[int, Any] = {}
    copy.deepcopy(model.config, copies)
    for module in model.modules():
        held = vars(module).get("config")
        if id(held) in copies:
            vars(module)["config"] = copies[id(held)]


def _mark(config: Any, base_name: str | None, ttt: TTTConfig) -> None:
    """Make the config of a base that of a converted model."""
    config.__class__ = derived_config(type(config))
    config.base_model_name_or_path = base_name
    config.ttt = ttt.to_dict()


def _check_not_ours(kwargs: dict[str, Any], remedy: str) -> None:
    """Raise for fields of `TTTConfig` among what no configuration of a base has taken."""
    ours = [name for name in kwargs if name in field_names(TTTConfig)]
    if ours:
        given = ", ".join(f"{name}={kwargs[name]!r}" for name in ours)
        raise ConfigError(f"{sorted(ours)} belong to TTTConfig: {remedy.format(given)}.")


def _check_wrappable(model: Any) -> None:
    if isinstance(model, TTTMixin):
        raise ConfigError("The model is converted already. Call unwrap() first to convert it anew.")
    if not isinstance(model, PreTrainedModel):
        hint = " Wrap the base first, then add the adapter." if _is_peft(model) else ""
        raise UnsupportedModelError(f"Expected a transformers model, found {type(model).__name__}.{hint}")
    adapted = [name for name, module in model.named_modules() if _is_peft(module)]
    if adapted:
        raise UnsupportedModelError(
            f"The model carries PEFT adapters, such as {adapted[0]}. Merge or delete them, wrap, then add them again."
        )
    if not model.can_generate():
        raise UnsupportedModelError(f"{type(model).__name__} is not a causal language model; it has no generate().")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise UnsupportedModelError(
            "The model was made under torch.inference_mode(), so no gradient can pass through its weights. "
            "Load it outside."
        )
    # accelerate sets both on the instance: `forward` is shadowed there, where no derived class can reach it.
    dispatched = vars(model).get("hf_device_map", {})
    if "_hf_hook" in vars(model) or len(set(dispatched.values())) > 1:
        raise UnsupportedModelError(
            f"The model is dispatched already (device map {dispatched}): accelerate's hooks would bypass the "
            "conversion. Load it with "
            "ttt_retrofit.AutoModelForCausalLM.from_pretrained(name, ttt_config=..., device_map=...)."
        )


def _is_peft(module: Any) -> bool:
    # Without importing PEFT, which need not be installed.
    return type(module).__module__.partition(".")[0] == "peft"


class AutoModelForCausalLM:
    """Drop-in for transformers' class: converts a base while loading, or loads a converted checkpoint."""

    def __init__(self) -> None:
        raise OSError(
            "Use AutoModelForCausalLM.from_pretrained(name_or_directory, ttt_config=...) or .from_config(config, ...)."
        )

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike, *args: Any, ttt_config: TTTConfig | None = None, **kwargs: Any
    ) -> TTTPreTrainedModel:
        """As transformers' `from_pretrained`, with `ttt_config` for a base.

        Code that comes with a model runs only with `trust_remote_code=True`. There is no prompt on stdin.

        Raises
        ------
        ConfigError
            When `ttt_config` differs from the one a converted checkpoint was saved with.
        CheckpointError
            When the checkpoint is damaged or incomplete.
        """
        if any(isinstance(given, TTTConfig) for given in (*args, kwargs.get("config"))):
            raise ConfigError("A TTTConfig is passed by name: from_pretrained(name, ttt_config=TTTConfig(...)).")
        check_regular_inside(Path(path))
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        kwargs = {"trust_remote_code": False, **kwargs}
        if kwargs.get("gguf_file"):
            return wrap(load(path, *args, **kwargs), ttt_config)
        config, rest = _load_config(path, kwargs)
        _check_not_ours(rest, "ttt_config=TTTConfig({})")
        if isinstance(config, TTTConfigMixin):
            _check_agrees(path, config, ttt_config)
            return load(path, *args, config=config, **rest)
        if type(config) not in CONFIG_MAPPING.values():  # remote code: its class is known only once it is loaded
            return wrap(load(path, *args, **kwargs), ttt_config)
        base = _base_model(type(config), config.architectures)
        if base.config_class is config.sub_configs.get("text_config"):
            config = config.get_text_config()
        derived: Any = derived_model(base, type(config))
        _mark(config, os.fspath(path), ttt_config or TTTConfig())
        return derived.from_pretrained(path, *args, config=config, convert=True, **rest)

    @classmethod
    def from_config(
        cls, config: PreTrainedConfig, *, ttt_config: TTTConfig | None = None, **kwargs: Any
    ) -> TTTPreTrainedModel:
        """A converted model with random weights, from the config of a base or of a converted model.

        `kwargs` are those of transformers' `from_config`, such as `dtype`. The caller's config is not changed.

        Raises
        ------
        ConfigError
            When `ttt_config` differs from the one that `config` holds.
        UnsupportedModelError
            When models of this config cannot be converted.
        """
        config = copy.deepcopy(config)
        if isinstance(config, TTTConfigMixin) and config.ttt is not None:
            _check_agrees("The config", config, ttt_config)
            return transformers.AutoModelForCausalLM.from_config(config, **kwargs)
        return wrap(transformers.AutoModelForCausalLM.from_config(config, **kwargs), ttt_config)


def _check_agrees(what: str | os.PathLike, config: TTTConfigMixin, ttt_config: TTTConfig | None) -> None:
    saved = TTTConfig.from_dict(config.ttt or {})
    if ttt_config not in (None, saved):
        raise ConfigError(
            f"{what} is converted already, with {saved}; ttt_config is {ttt_config}. Load it without ttt_config, then "
            "call configure_ttt(), or convert the base anew."
        )


def _load_config(path: str | os.PathLike, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The config with the overrides among `kwargs` applied, and what is left for the model."""
    rest = dict(kwargs)
    config = rest.pop("config", None)
    if isinstance(config, PreTrainedConfig):
        return copy.deepcopy(config), rest  # the caller's stays that of a base
    if Path(path, "adapter_config.json").is_file() and not Path(path, "config.json").is_file():
        raise CheckpointError(
            f"{path} holds a PEFT adapter and no model. Load and convert its base, then put the adapter onto it: "
            "peft.PeftModel.from_pretrained(model, directory)."
        )
    kept = {name: rest.pop(name) for name in FOR_THE_MODEL if name in rest}
    location = {name: rest.pop(name) for name in LOCATION if name in rest}
    try:
        config, rest = AutoConfig.from_pretrained(config or path, return_unused_kwargs=True, **location, **rest)
    except TTTError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, StrictDataclassError) as error:
        if not Path(path, "config.json").is_file():
            raise
        raise CheckpointError(f"The config.json of {path} describes no model that can be loaded: {error}") from error
    return config, location | kept | rest


AutoConfig.register(hub.MODEL_TYPE, TTTModelConfig, exist_ok=True)
