"""Test-time training for pretrained language models: they keep learning while they read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chat.session import ChatSession
from .config import TTTConfig
from .consolidation.config import Budget, ConsolidationConfig
from .errors import (
    Cancelled,
    CheckpointError,
    ConfigError,
    InputError,
    MissingExtraError,
    TTTDeprecationWarning,
    TTTError,
    UnsupportedModelError,
    WriterError,
)
from .inner.registry import register_fast_weights, register_inner_optimizer, register_inner_rule
from .memory import Memory, MemoryConfig
from .model.auto import AutoModelForCausalLM, TTTModelConfig, wrap
from .model.modeling import TTTPreTrainedModel
from .streaming.cache import TTTCache
from .util.moved import MovedModules

if TYPE_CHECKING:
    from .outer.config import TTTTrainingConfig
    from .outer.trainer import TTTTrainer

__version__ = "0.1.0"

__all__ = [
    "AutoModelForCausalLM",
    "Budget",
    "Cancelled",
    "ChatSession",
    "CheckpointError",
    "ConfigError",
    "ConsolidationConfig",
    "InputError",
    "Memory",
    "MemoryConfig",
    "MissingExtraError",
    "TTTCache",
    "TTTConfig",
    "TTTDeprecationWarning",
    "TTTError",
    "TTTModelConfig",
    "TTTPreTrainedModel",
    "TTTTrainer",
    "TTTTrainingConfig",
    "UnsupportedModelError",
    "WriterError",
    "register_fast_weights",
    "register_inner_optimizer",
    "register_inner_rule",
    "wrap",
]

MovedModules(
    __name__,
    {
        "agent": "chat.session",
        "auto": "model.auto",
        "cache": "streaming.cache",
        "hub": "model.hub",
        "measure": "evaluation",
        "meta": "outer",
        "modeling": "model.modeling",
        "remembering": "model.remembering",
    },
    until="0.3",
).install()

_LAZY = {"TTTTrainer": "trainer", "TTTTrainingConfig": "config"}  # Trainer's imports are heavy, and need accelerate


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module
        from importlib.util import find_spec

        if find_spec("accelerate") is None:
            raise MissingExtraError(name, "accelerate", "train")
        return getattr(import_module(f".outer.{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
