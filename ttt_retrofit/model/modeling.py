"""`TTTMixin`: what a converted model has beyond its family's class.

`TTTQwen3ForCausalLM(TTTMixin, Qwen3ForCausalLM)` is made by `auto.py` at run time; the family's modelling code runs
unchanged underneath. Calling and reading, generating, remembering and saving are mixins of their own.
B batch rows, T tokens, D model width.
"""

from __future__ import annotations

import inspect
from typing import Any
from uuid import uuid4

import torch
from transformers import PreTrainedModel
from transformers.utils import logging
from transformers.utils.generic import ModelOutput

from ..config import DECIDE_PARAMETERS, TTTConfig
from ..errors import CheckpointError, ConfigError, UnsupportedModelError
from ..inner import hooks, layer
from ..inner.discovery import find_sites, learned_positions
from ..inner.fast_weights import fast_weights
from ..inner.inner_rules import inner_rule
from ..inner.rms_norm import rms_norms
from ..memory.batch_cache import BatchCache
from ..streaming import rotary
from ..streaming.cache import TTTCache
from ..streaming.captured import Latest
from ..streaming.window import restore_attention, set_windowed_attention, windowed_name
from ..util.given import check_ids
from . import backbone, hub
from .alike import AlikeMixin
from .ask import AskMixin
from .backbone import ADDED
from .facts import FactsMixin
from .summary import SummaryMixin

logger = logging.get_logger(__name__)

ATTACHED = (
    "ttt",
    "kind",
    "_places",
    "_reach",
    "_latest",
    "static_shapes",
    "_identity",
    "_rematerialise",
    "learned_positions",
    "_versions",
    "_memory_batches",
)
INTERNAL = ("ended", "on_segment")  # what `generate` and `read` hand to forward, and nobody else


class TTTMixin(AlikeMixin, hub.CheckpointMixin, SummaryMixin, AskMixin, FactsMixin):
    """Test-time training for a causal language model of any family."""

    _base_class: type[PreTrainedModel]  # set on the derived class

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        if config.ttt is None:
            raise CheckpointError(
                f"The configuration of {config._name_or_path!r} has no `ttt` block: it is a base. Convert it with "
                "wrap() or ttt_retrofit.AutoModelForCausalLM."
            )
        super().__init__(config, *args, **kwargs)
        self.attach_ttt(TTTConfig.from_dict(config.ttt))
        layer.initialise(self) if self.device.type != "meta" else None

    # ------------------------------------------------------------------ conversion

    def attach_ttt(self, ttt: TTTConfig) -> None:
        """Add the TTT sites to a plain decoder. Raises before anything is changed."""
        sites = find_sites(self, ttt)
        inner_rule(ttt).check_model(sites, self.get_input_embeddings())
        _check_forward(self._base_class)
        TTTCache(self.config, ttt, "")  # raises for layers whose state cannot be carried
        set_windowed_attention(self)
        self.ttt, self.kind = ttt, fast_weights(ttt)
        layer.add_sites(self, sites, self.kind)
        backbone.attach(self)
        self.learned_positions, self._reach = learned_positions(self), None
        self._identity, self._latest = uuid4().hex, Latest()
        self._rematerialise = super().is_activation_checkpointing
        if self._rematerialise:  # the layers' own switch, which drops the cache between chunks
            super()._activation_checkpointing_disable()
        self.attach_memory()
        self.bind_ttt()

    def bind_ttt(self) -> None:
        """(Re)connect the sites to the modules that now stand at their paths; adapters around them included.

        Memories are hooked on after them, when they are next collated.
        """
        sites = layer.ttt_sites(self)
        hooks.bind(self, [*sites, *rms_norms(self, sites[0].module_in(self))], alone=True)
        layer.keep_gradients(self)
        self._places, self._memory_batches = [site.site for site in sites], BatchCache()
        if self.device.type != "meta":  # else the family has still to fill in its frequencies
            self._reach = rotary.freeze(self)

    def check_bound(self) -> None:
        """Follow where modules were replaced since (dequantized, adapted by PEFT, assigned), or offloaded."""
        sites = self.sites
        if any(site.log_lr.is_meta for site in sites):
            hub.settle(self, fresh=False)
            sites = self.sites
        if not hooks.is_bound(self, sites):
            layer.check_modules(self)
            self.bind_ttt()

    def configure_ttt(self, **changes: Any) -> TTTConfig:
        """Change how the model reads: window, chunk, inner rule, optimizer, learning rate, `learn_from`.

        Caches with another window or chunk are refused afterwards. Raises `ConfigError` for changes that would need
        other parameters.
        """
        fixed = set(DECIDE_PARAMETERS) & set(changes)
        if fixed:
            raise ConfigError(
                f"{sorted(fixed)} decide which parameters exist. Call unwrap() and wrap() again to change them."
            )
        changed = TTTConfig.from_dict({**self.ttt.to_dict(), **changes})
        inner_rule(changed).check_model(self._places, self.get_input_embeddings())
        self.ttt = changed
        self.config.ttt = self.ttt.to_dict()
        layer.warn_of_large_steps(self.sites, self.ttt)
        return self.ttt

    def set_attn_implementation(self, attn_implementation: str | dict, *args: Any, **kwargs: Any) -> None:
        """transformers', which keeps the window. Raises `UnsupportedModelError` for kernels that cannot carry it."""
        names = attn_implementation.values() if isinstance(attn_implementation, dict) else [attn_implementation]
        for name in names:
            windowed_name(self, name)  # raises before anything is changed
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        set_windowed_attention(self)

    def unwrap(self, merge: bool = False) -> PreTrainedModel:
        """Return to the plain class of the family, in place, as before `wrap`.

        Parameters
        ----------
        merge : fold the loaded memory into the weights; it then acts on every token. Raises `ConfigError` when no
            memory is loaded, or the weights are not plain matrices.
        """
        if merge:
            self.merge_memory()
        hooks.unbind(self)
        layer.remove_sites(self)
        backbone.detach(self)
        restore_attention(self)
        rotary.release(self)
        checkpointing = self._rematerialise and self.supports_gradient_checkpointing
        for name in ATTACHED:
            self.__dict__.pop(name, None)
        del self.config.ttt, self.config.base_model_name_or_path
        config_class: Any = type(self.config)
        self.config.__class__ = config_class._base_class
        self.__class__ = self._base_class  # type: ignore[assignment]
        if checkpointing:
            self.activation_checkpointing_enable()
        return self

    # ------------------------------------------------------------------ activation checkpointing

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Recompute each chunk in the backward pass, in place of the layers' own switch."""
        self._rematerialise = True
        if self.main_input_name == "input_ids" and getattr(self, "_hf_peft_config_loaded", False):
            self.enable_input_require_grads()

    gradient_checkpointing_enable = activation_checkpointing_enable

    def activation_checkpointing_disable(self) -> None:
        self._rematerialise = False

    gradient_checkpointing_disable = activation_checkpointing_disable

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self._rematerialise

    @property
    def is_activation_checkpointing(self) -> bool:
        return self._rematerialise


# What `wrap` gives, for annotations and isinstance: to a type checker the mixin is a `PreTrainedModel`, as every class
# that derives from it is.
TTTPreTrainedModel = TTTMixin


def _check_forward(base: type[PreTrainedModel]) -> None:
    parameters = inspect.signature(base.forward).parameters
    missing = [
        name for name in ("input_ids", "position_ids", "past_key_values", "logits_to_keep") if name not in parameters
    ]
    if missing:
        raise UnsupportedModelError(
            f"{base.__name__}.forward has no {missing}, which reading in chunks needs. Its parameters are "
            f"{list(parameters)}. Expected a decoder of transformers' usual signature."
        )


def derived_forward(base: type[PreTrainedModel]) -> Any:
    """A forward with the family's signature, which Trainer and `generate` inspect, plus what is ours."""
    signature = inspect.signature(base.forward)

    # Hooks, chunks and caches are Python that changes from call to call: traced, each call would be traced anew. Layers
    # that are compiled by themselves are run so, within.
    @torch.compiler.disable
    def forward(self: TTTMixin, *args: Any, **kwargs: Any) -> ModelOutput | tuple:
        own = {name: kwargs.pop(name, None) for name in (*ADDED, *INTERNAL)}
        bound = signature.bind(self, *args, **kwargs).arguments
        bound.pop("self")
        extra = bound.pop("kwargs", {})
        check_ids(bound.get("input_ids"), "model")
        return self.ttt_forward(**bound, **extra, **own)

    parameters = list(signature.parameters.values())
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ADDED]
    last = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    head = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = signature.replace(parameters=[*head, *added, *last])
    forward.__doc__ = base.forward.__doc__
    return forward
