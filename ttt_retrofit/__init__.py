"""Test-time training for pretrained language models: they keep learning while they read."""

from .agent import ChatSession
from .auto import AutoModelForCausalLM, TTTModelConfig, wrap
from .cache import TTTCache
from .config import TTTConfig
from .consolidation.config import Budget, ConsolidationConfig
from .errors import CheckpointError, ConfigError, InputError, TTTError, UnsupportedModelError
from .memory import Memory, MemoryConfig

__version__ = "0.1.0"

__all__ = [
    "AutoModelForCausalLM",
    "Budget",
    "ChatSession",
    "CheckpointError",
    "ConfigError",
    "ConsolidationConfig",
    "InputError",
    "Memory",
    "MemoryConfig",
    "TTTCache",
    "TTTConfig",
    "TTTError",
    "TTTModelConfig",
    "UnsupportedModelError",
    "wrap",
]
