"""Avoid imports that a process does not need: pandas, and packages that MLflow imports only if they are installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _Hiding(MetaPathFinder):
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"{name} is not used in this process.", name=name)


def hide(*names: str) -> None:
    """Make later imports of packages fail.

    :param names: names of packages that are not imported yet, and that other libraries import if they are installed
    """
    sys.meta_path.insert(0, _Hiding(names))


def without_pandas() -> None:
    """Make later imports of pandas fail.

    If pandas is installed, pyarrow imports it for the first array from Python values. The import takes 60 MB of memory
    and, in the middle of a request, a second.
    """
    hide("pandas")


class _Postponed(ModuleType):
    """A module whose code runs when one of its attributes is used for the first time."""

    def __getattr__(self, name: str) -> Any:
        # The import system reads special attributes such as __path__. Reading them must not run the module's code.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None
        assert isinstance(spec.loader, _PostponedLoader)
        spec.loader.own.exec_module(self)
        return getattr(self, name)


class _PostponedLoader(Loader):
    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Postponed(spec.name)
        if spec.submodule_search_locations is not None:
            # Submodules can be imported before the code of their package runs.
            module.__path__ = spec.submodule_search_locations
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Postponing(MetaPathFinder):
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self._names else None
        if spec is not None and spec.loader is not None:
            spec.loader = _PostponedLoader(spec.loader)
        return spec


def postpone(*names: str) -> None:
    """Run the code of modules only when one of their attributes is used, instead of when they are imported.

    If a later release of a library uses such a module immediately, the module still works, and only the saving is lost.

    :param names: full names of modules that are not imported yet
    """
    sys.meta_path.insert(0, _Postponing(names))
