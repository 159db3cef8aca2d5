"""The errors this library raises. Each says what was found, what was expected and what to do."""

from typing import Any

LONGEST = 4_000  # characters of a message: it says what was found, and does not repeat all of it


def clipped(text: str, most: int = LONGEST) -> str:
    """The beginning and the end of a text that is longer than `most` characters, which says what to do."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} … ({len(text) - most:,} characters left out) … {text[-end:]}"


def quoted(value: Any, most: int = 100) -> str:
    """A value as it is repeated in a message."""
    return clipped(repr(value), most)


class TTTError(ValueError):
    """Base of every error raised on purpose by `ttt_retrofit`."""

    def __init__(self, message: str = "") -> None:
        super().__init__(clipped(message))


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


class WriterError(TTTError):
    """A writer of facts that cannot be reached, or does not answer in text."""


class MissingExtraError(TTTError, ImportError):
    """A package that is not installed, for one of the extras brings it."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}. Install it with: pip install 'ttt-retrofit[{extra}]'.")


class TTTDeprecationWarning(FutureWarning):
    """A name, argument or file format that the next minor version removes. The message gives its replacement."""
