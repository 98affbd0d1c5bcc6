"""Keep what an import loads, prints or leaves behind away from the rest of the process."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Make the import of these packages fail inside the block, and suppress warnings about it.

    For a library that imports an optional package which is slow to load and not needed. A package that is already
    imported stays available.
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
    """The modules of one folder, visible only inside :meth:`active`.

    Two folders may hold different modules with the same name, for example two versions of a model that both bring a
    module ``preprocessing``. Each block sees the modules of its own folder, and no others do.

    :param names: top-level names of the folder's modules. If they are given, only these modules belong to the folder,
        and modules of the same names from elsewhere are hidden inside the block. By default every module whose file
        lies in the folder belongs to it
    """

    def __init__(self, folder: Path, names: Collection[str] = ()) -> None:
        self._folder = str(folder)
        self._names = names
        self._path: list[str] = []
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the folder's modules visible. A later block sees the modules and import paths of earlier ones again."""
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
        # getattr would make a lazy module load itself.
        attributes = getattr(module, "__dict__", {})
        places = [attributes.get("__file__"), *(attributes.get("__path__") or ())]
        return any(str(place).startswith(f"{self._folder}{os.sep}") for place in places)
