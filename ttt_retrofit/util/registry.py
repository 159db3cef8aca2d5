"""Methods by name: the library's own, those that a program registers, and those that installed packages bring.

It knows nothing of what a method does. Entry points of packages are looked at only for a name that nobody registered.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from ..errors import ConfigError, quoted

Method = TypeVar("Method", bound=type)


class NotRegisteredError(ConfigError):
    """A method that a configuration names and that this process does not know."""


class Registry:
    """Classes by the name that a configuration gives for them.

    Parameters
    ----------
    setting : the field of a configuration that holds the name, such as "inner_rule".
    group : the group of entry points in which packages announce theirs, such as "ttt_retrofit.inner_rules".
    """

    def __init__(self, setting: str, group: str) -> None:
        self.setting, self.group = setting, group
        self._registered: dict[str, type] = {}

    def register(self, name: str) -> Callable[[Method], Method]:
        """Decorator: make a class known under `name`.

        Raises
        ------
        ConfigError
            When another class has that name, or `name` is no word.
        """
        if not isinstance(name, str) or not name:
            raise ConfigError(f"register_{self.setting}({quoted(name)}): expected a name, as in @register_…('mine').")

        def add(method: Method) -> Method:
            other = self._registered.get(name, method)
            # A notebook's cell that runs again defines the same class anew.
            if (other.__module__, other.__qualname__) != (method.__module__, method.__qualname__):
                raise ConfigError(
                    f"{self.setting}={name!r} is {other.__module__}.{other.__qualname__} already. Register "
                    f"{method.__module__}.{method.__qualname__} under another name."
                )
            self._registered[name] = method
            return method

        return add

    def get(self, name: object) -> Any:
        """The class of that name.

        Raises
        ------
        NotRegisteredError
            When nobody registered it, and no installed package announces it.
        """
        if isinstance(name, str) and name not in self._registered:
            self._load(name)
        if not isinstance(name, str) or name not in self._registered:
            raise NotRegisteredError(
                f"{self.setting}={quoted(name)} is not registered. Choose one of {self.names()}, import the module "
                f"that registers it with @ttt_retrofit.register_{self.setting}, or install the package that brings it."
            )
        return self._registered[name]

    def names(self) -> list[str]:
        """All that can be asked for: what is registered, then what packages announce."""
        return list(dict.fromkeys([*self._registered, *sorted(entry_points(group=self.group).names)]))

    def _load(self, name: str) -> None:
        """Import what a package announces under `name`."""
        announced = {point.value: point for point in entry_points(group=self.group, name=name)}
        if len(announced) > 1:
            raise ConfigError(
                f"{self.setting}={name!r} is announced by several packages: {sorted(announced)}. Keep one."
            )
        for point in announced.values():
            self.register(name)(point.load())
