"""What every configuration has: help for each field, an error for unknown names, a short `repr`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from ..errors import ConfigError

ALIKE = 0.75  # of difflib, for a name or one of its parts: 'windows' finds 'sliding_window'
MANY = 40  # more fields than this are not listed in a message
WIDTH = 100
PLAIN = (str, int, float, tuple, list, type(None))
SECTION = "Parameters\n----------\n"
T = TypeVar("T")


def settings(*, removed: Mapping[str, str] | None = None) -> Callable[[type[T]], type[T]]:
    """Class decorator, above `@dataclass(repr=False)`.

    `help(cls)` gets a section of parameters, made of the `help` in each field's metadata. A name that is no field
    raises `ConfigError` with the likeliest ones. `repr` shows what differs from the defaults.

    Parameters
    ----------
    removed : fields of earlier versions, by name, and what to do instead.
    """

    def decorate(cls: type[T]) -> type[T]:
        made, gone = cls.__init__, removed or {}

        @functools.wraps(made)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            for name in sorted(gone.keys() & kwargs.keys()):
                raise ConfigError(f"{cls.__name__} has no field {name!r} any more. {gone[name]}")
            check_names(cls, kwargs)
            made(self, *args, **kwargs)

        cls.__init__ = __init__  # type: ignore[method-assign]
        cls.__repr__ = _differing  # type: ignore[method-assign]
        cls.__doc__ = _documented(cls)
        return cls

    return decorate


def field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def check_names(cls: type, names: Iterable[str]) -> None:
    """Raise `ConfigError` unless all are fields of `cls`."""
    known = field_names(cls)
    unknown = sorted(set(names) - set(known))
    if unknown:
        listed = f" Known fields are {sorted(known)}." if len(known) <= MANY else ""
        raise ConfigError(f"Unknown {cls.__name__} fields {unknown}{did_you_mean(unknown, known)}.{listed}")


def did_you_mean(unknown: Iterable[str], known: Iterable[str]) -> str:
    """` (did you mean 'sliding_window'?)`, or nothing where no name is like one of them."""
    parts = {name: [name.lower(), name.replace("_", ""), *name.split("_")] for name in known}
    alike: dict[str, None] = {}
    for name in unknown:
        found = [other for other, some in parts.items() if get_close_matches(name.lower(), some, cutoff=ALIKE)]
        alike |= dict.fromkeys(get_close_matches(name.lower(), found, n=2, cutoff=0))
    return f" (did you mean {' or '.join(map(repr, alike))}?)" if alike else ""


def _differing(self: Any) -> str:
    """`TTTConfig(chunk_size=64)`: evaluates to an equal configuration, where values are plain."""
    shown = []
    for field in dataclasses.fields(self):
        value = getattr(self, field.name)
        secret = field.name.endswith("_token")  # of the Hub
        ours = (
            isinstance(value, PLAIN) or vars(type(value)).get("__repr__") is _differing
        )  # not what TrainingArguments makes itself
        if field.init and ours and not secret and value != _default(field):
            shown.append(f"{field.name}={value!r}")
    return f"{type(self).__name__}({', '.join(shown)})"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _documented(cls: type) -> str:
    """The docstring with a section of parameters before that of errors."""
    own = [field for field in dataclasses.fields(cls) if field.name in vars(cls).get("__annotations__", {})]
    lines = []
    for field in own:
        default = _default(field)
        shown = "" if default is dataclasses.MISSING else f" (default: {default!r})"
        lines.append(
            textwrap.fill(f"{field.name} : {field.metadata.get('help', '')}{shown}", WIDTH, subsequent_indent="    ")
        )
    before, raises, after = inspect.cleandoc(cls.__doc__ or "").partition("Raises\n------\n")
    return f"{before.rstrip()}\n\n{SECTION}" + "\n".join(lines) + (f"\n\n{raises}{after}" if raises else "\n")
