"""Recognise errors of data libraries that a retry of the step cannot correct.

The modules of a stage convert the errors that they expect to errors of this package. This module is for all other
errors. It compares names of classes and modules, so it imports none of the libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType

from airflow_mlops.core.errors import UnsupportedDataError

# PEP 249: errors in the text of a query, or in the data.
_PEP_249 = frozenset({"DataError", "IntegrityError", "NotSupportedError", "ProgrammingError"})
# The base classes of the errors, by library. Other errors, such as duckdb.IOException, may be temporary.
_FINAL = {
    "pyarrow": frozenset({
        "ArrowCapacityError", "ArrowIndexError", "ArrowInvalid", "ArrowKeyError", "ArrowNotImplementedError",
        "ArrowSerializationError", "ArrowTypeError",
    }),
    "duckdb": _PEP_249,
    "_duckdb": _PEP_249,
    # Two processes that write the same row cause an IntegrityError of SQLAlchemy, which may be temporary.
    "sqlalchemy": _PEP_249 - {"IntegrityError"} | {"ArgumentError", "CompileError"},
}  # fmt: skip
# The data causes all exceptions that these libraries define.
_ALWAYS_FINAL = frozenset({"numpy", "pandas"})
_LIBRARIES = _FINAL.keys() | _ALWAYS_FINAL
# Python's own exceptions that are final if one of the libraries raises them.
_BUILT_IN = (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError)
_LONGEST = 300


def explain(error: Exception, step: str) -> UnsupportedDataError | None:
    """Return the error that a task reports instead of an error of a data library.

    :param error: an exception that a step raised, with its traceback
    :param step: name of the step
    :return: ``None`` if a retry can succeed, or if the exception does not come from a data library. Also ``None``
        if the user's own code is in the traceback, because the user needs the original exception
    """
    frames = list(_frames(error))
    if not _is_final(error, frames) or not all(_is_installed(frame) for frame in frames):
        return None
    line = " ".join(str(error).strip().partition("\n")[0].split())[:_LONGEST].rstrip(". ")
    return UnsupportedDataError(
        f"The step {step!r} cannot process its data ({type(error).__name__}{f': {line}' if line else ''}): correct the "
        "values or the column in the source, or declare another type at ingestion (types=). If the data is correct, "
        "report the traceback in the task's log as a bug of airflow-mlops."
    )


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_final(error: Exception, frames: list[FrameType]) -> bool:
    # A file or a server may become available again, and a retry may have more memory.
    if isinstance(error, (OSError, MemoryError, Warning)):
        return False
    for kind in type(error).__mro__:
        library = _top(kind.__module__)
        if library in _ALWAYS_FINAL or kind.__name__ in _FINAL.get(library, ()):
            return True
    return isinstance(error, _BUILT_IN) and bool(frames) and _top(_module(frames[-1])) in _LIBRARIES


def _is_installed(frame: FrameType) -> bool:
    """Return whether the code of a frame belongs to this package, to Python, or to an installed package."""
    top = _top(_module(frame))
    if top == __package__.partition(".")[0] or top in sys.stdlib_module_names:
        return True
    # The frames of compiled modules name source files, which are not installed.
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
    parts = Path(file or frame.f_code.co_filename).parts
    return "site-packages" in parts or "dist-packages" in parts


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _top(module: str) -> str:
    return module.partition(".")[0]
