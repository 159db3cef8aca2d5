"""Modules under the names they had before they moved into packages: they import as before, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from ..errors import TTTDeprecationWarning


class MovedModules(MetaPathFinder, Loader):
    """Finds the modules of a package that have moved. moved: from the old name to the new one, both below `package`.

    What moved is the same module under both names, so that classes stay identical and old pickles load.
    """

    def __init__(self, package: str, moved: dict[str, str], until: str) -> None:
        self._package, self._moved, self._until = package, moved, until

    def install(self) -> None:
        """Ask here first. Python asks for names below this package alone what no module of it answers to."""
        sys.meta_path.insert(0, self)

    def new_name(self, fullname: str) -> str | None:
        package, _, old = fullname.partition(".")
        first, *rest = old.split(".")
        if package != self._package or first not in self._moved:
            return None
        return ".".join([package, self._moved[first], *rest])

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if self.new_name(fullname) is None else ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = self.new_name(old)
        assert new is not None
        warnings.warn(
            f"{old} has moved to {new}; the old name goes with version {self._until}. Import it from there, or from "
            f"{self._package} what that exports.",
            TTTDeprecationWarning,
            stacklevel=2,
        )
        sys.modules[old] = import_module(new)
