"""Hashes of the user's own code.

Import paths name objects in the user's modules. The hashes cover these modules and all modules that they import.

The code is not run. The modules are found as Python's import system finds them, and their import statements are read
from their source text. The standard library and installed packages are not followed, because their versions are known,
see :func:`environment`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from importlib import invalidate_caches
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from pkgutil import get_importer, iter_modules
from sysconfig import get_path

from airflow_mlops import __version__
from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.forks import may_differ

_INSTALLED = ("site-packages", "dist-packages")
_OWN = "airflow_mlops"
_IMPORTERS = ("import_module", "__import__")
# Functions and classes that can run code that no import statement names.
_LOADERS = (
    "exec", "eval", "exec_module", "load_module", "module_from_spec", "spec_from_file_location", "SourceFileLoader",
    "resolve_name", "import_string",
)  # fmt: skip
# lazy_loader imports a module of a package when a name from it is first used. It may read these names from a `.pyi` file.
_LOADING = ("lazy_loader", "pydoc", "runpy")
# Code that matches may add folders to sys.path. After it has run, more modules can be imported.
_PATH = re.compile(rb"\bsys\.path\b|\bfrom sys import [^\n]*(\bpath\b|[*(])|\baddsitedir\b")


def environment() -> str:
    """Return a fingerprint of Python's version, the kind of machine, and the versions of all installed packages.

    A package that was installed from a repository, a folder or a file can be built again with the same version.
    Therefore the fingerprint also covers the hashes of the files of such packages.
    """
    # The names of these folders contain the versions. Reading the metadata of all packages takes a second.
    packages = {
        (name, _files_of(os.path.join(folder, name)))
        for folder in sys.path
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if name.endswith((".dist-info", ".egg-info"))
    }
    return fingerprint([platform.python_version(), platform.machine(), __version__, sorted(packages)])


def _files_of(metadata: str) -> str:
    """Return a hash of the files of a package that was installed from a repository, a folder or a file.

    :param metadata: the folder ``*.dist-info``
    :return: the hash; empty for a package from a package index. It is also empty for an editable package, whose code is
        outside of ``site-packages`` and is treated like other modules of the user
    """
    try:
        origin = Path(metadata, "direct_url.json").read_text(encoding="utf-8")
        if json.loads(origin).get("dir_info", {}).get("editable"):
            return ""
        record = Path(metadata, "RECORD").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    # These files are left out: scripts (in `..`) contain the path of Python, and metadata the time or place of the
    # build.
    own = ("..", os.path.basename(metadata))
    return fingerprint(sorted(line for line in record.splitlines() if not line.startswith(own)))


def hashes(paths: Iterable[str]) -> dict[str, str]:
    """Hash the user's modules that define objects, and all modules that these modules import.

    Modules in ``site-packages`` are not followed. If an import path names such a module, or the version of its package
    is unknown, the whole package is one entry: the hash of all its Python files.

    :param paths: import paths of objects, such as ``package.module:function`` or ``package.module.Class``, or of
        modules
    :return: the SHA-256 by name of the module; ``pinned`` for the standard library and for this package; empty for a
        module that does not exist
    :raises NotCacheableError: a module is not Python source text, may run code that no import statement names (such as
        with ``exec``), or may have changed since this process imported it; or a module is not found, and another
        module may change ``sys.path``
    """
    invalidate_caches()
    found: dict[str, str] = {}
    changes_path: list[str] = []
    named = {module_of(path) for path in paths}
    waiting = [(name, True) for name in sorted(named)]
    while waiting:
        name, is_module = waiting.pop()
        for module in _with_parents(name):
            if module in found and name not in named:
                continue
            spec = _find(module)
            if spec is None:
                # A missing module may be created later, so it is recorded. A missing attribute of a module is not
                # recorded.
                if module == name and is_module:
                    if module in sys.modules:
                        raise NotCacheableError(f"the module {module!r} is imported, but its file is unknown")
                    found[module] = ""
                continue
            if _is_pinned(spec):
                top = module.partition(".")[0]
                if name in named or (top not in found and not _has_version(spec)):
                    found[module] = _hash_of_package(_find(module.partition(".")[0]) or spec)
                break
            if module in found or (source := _source(spec)) is None:
                continue
            if may_differ(module, str(spec.origin)):
                raise NotCacheableError(
                    f"the file of the module {module!r} was changed after the scheduler or worker may have imported it; restart the "
                    "scheduler or worker"
                )
            found[module] = hashlib.sha256(source).hexdigest()
            waiting += _imports(source, spec)
            if _PATH.search(source):
                changes_path.append(module)
    missing = sorted(module for module, digest in found.items() if not digest)
    if changes_path and missing:
        raise NotCacheableError(
            f"the module {missing[0]!r} is not found, but may be found after the module {min(changes_path)!r} has changed sys.path"
        )
    return dict(sorted(found.items()))


def module_of(path: str) -> str:
    """Return the name of the module in an import path."""
    return path.partition(":")[0] if ":" in path else path.rpartition(".")[0] or path


def _with_parents(name: str) -> list[str]:
    """Return the names of a module's packages, outermost first, and the name of the module. Python imports them all."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _find(name: str) -> ModuleSpec | None:
    """Find a module, without importing the module or the packages that contain it."""
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        # The module has no spec, such as `__main__`.
        return None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = _find_in(list(spec.submodule_search_locations), f"{spec.name}.{part}")
    return spec


def _find_in(folders: list[str], name: str) -> ModuleSpec | None:
    """Find a module of a package in the folders of the package."""
    parts: list[str] = []
    for folder in folders:
        importer = get_importer(folder)
        found = importer.find_spec(name) if importer is not None else None
        if found is not None and found.loader is not None:
            return found
        # A package without `__init__.py` may consist of several folders.
        parts += (found.submodule_search_locations or []) if found is not None else []
    if not parts:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = parts
    return spec


def _is_pinned(spec: ModuleSpec) -> bool:
    """Return whether the version of Python or of an installed package determines the module's code."""
    if spec.origin in ("built-in", "frozen") or spec.name.partition(".")[0] == _OWN:
        return True
    places = _places(spec)
    # A package without `__init__.py` may consist of a folder of an installed package and a folder of the user.
    return bool(places) and all(_is_installed(place) or _is_standard(place) for place in places)


def _has_version(spec: ModuleSpec) -> bool:
    """Return whether :func:`environment` contains the version of a pinned module.

    A package that was copied into ``site-packages`` has no metadata, and therefore no version.
    """
    top = spec.name.partition(".")[0]
    installed = [Path(place).parts for place in _places(spec) if _is_installed(place)]
    folders = {Path(*parts[: max(map(parts.index, {*parts} & {*_INSTALLED})) + 1]) for parts in installed}
    return top == _OWN or not folders or all(_is_listed(top, str(item), item.stat().st_mtime_ns) for item in folders)


@lru_cache(maxsize=1024)
def _is_listed(top: str, folder: str, changed: int) -> bool:
    starts = (f"{top}/".encode(), f"{top}.".encode())
    # The metadata of the package with the same name as the module is read first.
    for name in sorted(os.listdir(folder), key=lambda name: not name.lower().startswith(top.lower())):
        if name.endswith((".dist-info", ".egg-info")):
            with suppress(FileNotFoundError, NotADirectoryError):
                record = Path(folder, name, "RECORD").read_bytes()
                if record.startswith(starts) or any(b"\n" + start in record for start in starts):
                    return True
            with suppress(FileNotFoundError, NotADirectoryError):
                if top in Path(folder, name, "top_level.txt").read_text(encoding="utf-8").split():
                    return True
    return False


def _is_installed(place: str) -> bool:
    return any(part in Path(place).parts for part in _INSTALLED)


def _is_standard(place: str) -> bool:
    # A file of the user may have the same name as a module of the standard library.
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(get_path("stdlib")))


def _places(spec: ModuleSpec) -> list[str]:
    if spec.has_location and spec.origin:
        return [spec.origin]
    return list(spec.submodule_search_locations or ())


def _hash_of_package(spec: ModuleSpec) -> str:
    """Return a hash of the Python files of an installed package, because its version alone may not identify them.

    For the standard library and for this package, return ``pinned``.
    """
    if spec.name.partition(".")[0] == _OWN or not any(map(_is_installed, _places(spec))):
        return "pinned"
    folders = list(spec.submodule_search_locations or ())
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
    files = files or ([Path(spec.origin)] if spec.origin else [])
    states = [(file, file.stat()) for file in files]
    return _hash_of_files(tuple((str(file), state.st_mtime_ns, state.st_size) for file, state in states))


@lru_cache(maxsize=64)
def _hash_of_files(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash the contents of files. A file with an unchanged time and size is not read again by the same process.

    :param files: path, time of the last change in nanoseconds, and size in bytes
    """
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.hexdigest()


def _source(spec: ModuleSpec) -> bytes | None:
    """Return the source text of a module; ``None`` for a package without ``__init__.py``, which has no code.

    :raises NotCacheableError: the module is not Python source text
    """
    if spec.origin is None or not spec.has_location:
        return None
    if not spec.origin.endswith(".py") or not os.path.isfile(spec.origin):
        raise NotCacheableError(f"the module {spec.name!r} ({spec.origin}) is not a file with Python source text")
    return Path(spec.origin).read_bytes()


def _imports(source: bytes, spec: ModuleSpec) -> Iterator[tuple[str, bool]]:
    """Yield each name that a module imports anywhere in its code, and whether the name certainly names a module.

    The second value is ``False`` for ``b`` in ``from a import b``, because ``b`` may be a module or an attribute.

    :raises NotCacheableError: the module may run code that no import statement names, or the source text cannot be
        parsed
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise NotCacheableError(f"the module {spec.name!r} cannot be parsed ({error})") from None
    package = spec.name if spec.submodule_search_locations is not None else spec.name.rpartition(".")[0]
    known: set[int] = set()
    # ast.walk visits a call before the name of its function, so `known` already contains the name when the name is
    # visited.
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join(filter(None, [*parents, base]))
            yield base, True
            names = [alias.name for alias in node.names]
            yield from ((f"{base}.{item}", False) for item in (_listed(base) if names == ["*"] else names))
        elif isinstance(node, ast.Call) and _name(node.func) in _IMPORTERS:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
                known.add(id(node.func))
                yield first.value, True
        if id(node) not in known and (way := _other_way(node)):
            raise NotCacheableError(f"the module {spec.name!r} may run code that no import statement names ({way})")


def _listed(package: str) -> list[str]:
    """Return the modules that ``from package import *`` may import.

    If the source text of the package mentions ``__all__``, these are all modules of the package. Otherwise, there are none.
    """
    spec = _find(package)
    if spec is None or spec.submodule_search_locations is None or _is_pinned(spec):
        return []
    if b"__all__" not in (_source(spec) or b""):
        return []
    return sorted(module.name for module in iter_modules(spec.submodule_search_locations))


def _other_way(node: ast.AST) -> str | None:
    """Return the name of a function or module, such as ``exec``, with which a syntax node may run code without an import.

    :return: ``None`` if the node contains no such name
    """
    if isinstance(node, ast.Import):
        return next((alias.name for alias in node.names if alias.name in _LOADING), None)
    if isinstance(node, ast.ImportFrom):
        renamed = (
            alias.name for alias in node.names if alias.asname is not None and alias.name in _IMPORTERS + _LOADERS
        )
        return node.module if node.module in _LOADING else next(renamed, None)
    found = _name(node) if isinstance(node, ast.expr) else ""
    # A method `exec` or `eval`, such as that of a network or a data frame, is not Python's function.
    is_method = found in ("exec", "eval") and isinstance(node, ast.Attribute)
    return found if found in _IMPORTERS + _LOADERS and not is_method else None


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""
