"""Test-time training for pretrained language models: they keep learning while they read."""

from .auto import AutoModelForCausalLM, TTTModelConfig, wrap
from .cache import TTTCache
from .config import TTTConfig
from .errors import CheckpointError, ConfigError, InputError, TTTError, UnsupportedModelError

__version__ = "0.1.0"

__all__ = [
    "AutoModelForCausalLM",
    "CheckpointError",
    "ConfigError",
    "InputError",
    "TTTCache",
    "TTTConfig",
    "TTTError",
    "TTTModelConfig",
    "UnsupportedModelError",
    "wrap",
]
