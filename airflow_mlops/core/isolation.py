"""Context managers that isolate imports: they hide packages, suppress warnings and log records, and unload modules."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Make the import of packages fail inside the block, and suppress the resulting warnings.

    This speeds up importing a library that also imports a slow optional package. A package that is already imported
    stays available.

    :param names: top-level names of the packages
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        with no_warnings():
            yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def without_running(package: str) -> Iterator[None]:
    """Make modules of a package importable inside the block without running the package's own ``__init__``.

    This speeds up importing one module of a package that is slow to import. The modules that the block imports are
    unloaded at its end. If the package is already imported, the block changes nothing.

    :param package: top-level name of the package
    :raises ModuleNotFoundError: the package is not installed
    """
    if package in sys.modules:
        yield
        return
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    module = ModuleType(package)
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = module
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


@contextmanager
def no_warnings(*messages: str) -> Iterator[None]:
    """Suppress Python warnings inside the block.

    :param messages: regular expressions that the start of a message must match; by default all warnings are suppressed
    """
    with warnings.catch_warnings():
        for message in messages or ("",):
            warnings.filterwarnings("ignore", message)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Python warnings and all log records below ``ERROR`` inside the block."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with no_warnings():
            yield
    finally:
        logging.disable(disabled)


class FolderModules:
    """The modules of one folder, which can be imported only inside :meth:`active`.

    Two folders may contain different modules with the same name, for example two versions of a model that both contain
    a module ``preprocessing``. Each block sees only the modules of its own folder.

    :param folder: folder with the Python files
    :param names: top-level names of the folder's modules. Modules with these names from other places are hidden inside
        the block. By default, every module whose file lies in the folder is one of the folder's modules
    """

    def __init__(self, folder: Path, names: Collection[str] = ()) -> None:
        self._folder = str(folder)
        self._names = names
        self._path: list[str] = []
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the folder's modules importable inside the block.

        Modules that an earlier block of this object imported, and import paths that it added, are available again.
        """
        path = list(sys.path)
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in self._names}
        before = set(sys.modules)
        sys.path[:0] = self._path
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            self._path = [item for item in sys.path if item not in path]
            new = {name: sys.modules[name] for name in sys.modules.keys() - before}
            self._modules = {name: module for name, module in new.items() if self._is_own(name, module)}
            for name in self._modules:
                del sys.modules[name]
            sys.path[:] = path
            sys.modules.update(hidden)

    def _is_own(self, name: str, module: ModuleType) -> bool:
        if self._names:
            return name.partition(".")[0] in self._names
        # getattr would load a module that is imported lazily.
        attributes = getattr(module, "__dict__", {})
        places = [attributes.get("__file__"), *(attributes.get("__path__") or ())]
        return any(str(place).startswith(f"{self._folder}{os.sep}") for place in places)
