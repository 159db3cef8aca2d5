"""The errors this library raises. Each says what was found, what was expected and what to do."""


class TTTError(ValueError):
    """Base of every error raised on purpose by `ttt_retrofit`."""


class ConfigError(TTTError):
    """A `TTTConfig` that contradicts itself or the model it is meant for."""


class UnsupportedModelError(TTTError):
    """A model, layer or mode that cannot be converted or run correctly."""


class InputError(TTTError):
    """Tokens, masks or caches that the model cannot read."""


class CheckpointError(TTTError):
    """A file that is missing, damaged, or made for another model."""


class Cancelled(TTTError):
    """A consolidation that was stopped before its end."""


class MissingExtraError(TTTError, ImportError):
    """A package that is not installed, for one of the extras brings it."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}. Install it with: pip install 'ttt-retrofit[{extra}]'.")
