"""The errors that this library raises. Each says what was found, what was expected and what to do next."""

from typing import Any

LONGEST = 4_000  # characters of a message, which may quote what was found


def clipped(text: str, most: int = LONGEST) -> str:
    """`text`, or its beginning and its end when it has more than `most` characters. The end says what to do."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} … ({len(text) - most:,} characters left out) … {text[-end:]}"


def quoted(value: Any, most: int = 100) -> str:
    """The `repr` of a value, clipped for a message."""
    return clipped(repr(value), most)


class TTTError(ValueError):
    """Base of every error that `ttt_retrofit` raises deliberately."""

    def __init__(self, message: str = "") -> None:
        super().__init__(clipped(message))


class ConfigError(TTTError):
    """A setting that is out of range, or contradicts another setting or the model."""


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
    """A missing optional dependency. The message names the extra that installs it."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}. Install it with: pip install 'ttt-retrofit[{extra}]'.")


class TTTDeprecationWarning(FutureWarning):
    """A name, argument or file format that the next minor version removes. The message gives its replacement."""
