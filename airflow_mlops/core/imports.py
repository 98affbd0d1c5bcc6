"""Functions that load objects by import path, and identify the code that defines them."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_mlops.core.errors import SpecError

# Extras of this package that are named like the module they install, with the name of that module's project.
_EXTRAS = {"interpret": "InterpretML"}


def load(path: str, what: str) -> Any:
    """Import and return the object with an import path, such as ``package.module.Name`` or ``package.module:name``.

    :param path: import path of the object
    :param what: kind of object for error messages, such as ``metric``
    :raises SpecError: the object cannot be imported
    """
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name in _EXTRAS:
            raise SpecError(
                f"The {what} {path!r} needs {_EXTRAS[error.name]}, which is not installed where the step runs. Install "
                f"airflow-mlops[{error.name}]."
            ) from None
        raise SpecError(
            f"The {what} {path!r} cannot be imported where the step runs: there is no module {error.name!r}. "
            "Install the package that contains the module there. With run_on=Worker() and run_on=Process(...), a module next "
            "to the DAG file is found as well."
        ) from None
    except AttributeError:
        raise SpecError(
            f"The {what} {path!r} does not exist: module {module!r} does not define {name!r}. Correct the import path."
        ) from None
    except Exception as error:
        raise SpecError(
            f"The {what} {path!r} cannot be imported: importing {module!r} raises {type(error).__name__}: {error}. "
            "Correct this module."
        ) from error


@dataclass(frozen=True)
class SourceFile:
    """Code that is not imported: a notebook, or the file that describes a project.

    :param file: path of the file
    :param sha256: SHA-256 of the code
    """

    file: Path
    sha256: str


def source_hash(thing: Any) -> str:
    """Return the SHA-256 of the source file that defines ``thing``.

    Without a source file, ``repr(thing)`` is hashed.
    """
    if isinstance(thing, SourceFile):
        return thing.sha256
    try:
        return hashlib.sha256(Path(inspect.getfile(inspect.unwrap(thing))).read_bytes()).hexdigest()
    except (OSError, TypeError):
        # Compiled code and objects created at run time have no source file.
        return hashlib.sha256(repr(thing).encode()).hexdigest()


def git_commit(thing: Any) -> str | None:
    """Return the hash of the last git commit that changed the source file of ``thing``.

    The result is ``None`` if the source file was never committed, is not in a git checkout or belongs to an installed
    package, or if git cannot be run.
    """
    try:
        file = thing.file if isinstance(thing, SourceFile) else Path(inspect.getfile(inspect.unwrap(thing)))
        if "site-packages" in file.parts:
            return None
        found = subprocess.run(  # noqa: S603 - the path is trusted, because the DAG's author names the source file
            ["git", "log", "-1", "--format=%H", "--", file.name],  # noqa: S607 - git is found on the worker's PATH
            cwd=file.parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, TypeError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
