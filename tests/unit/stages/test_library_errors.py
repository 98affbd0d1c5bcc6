"""Errors of data libraries that a step did not foresee: not retried if a retry cannot correct them."""

from __future__ import annotations

import inspect
import logging
import sys
from types import ModuleType

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy.exc

from airflow_mlops import __version__
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import MLOpsError, SourceError, UnsupportedDataError
from airflow_mlops.stages.runner import run_call

STEP = """
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.stages.context import StepContext

def run(spec: Spec, context: StepContext) -> Result:
    return {body}
"""


@pytest.fixture
def fails(tmp_path, monkeypatch):
    """Run a step of this package whose code is an expression, and return the exception that it ends with."""

    def run(body: str, **names) -> Exception:
        step = ModuleType("airflow_mlops.stages.odd.step")
        vars(step).update(names)
        exec(compile(STEP.format(body=body), "airflow_mlops/stages/odd/step.py", "exec"), vars(step))
        monkeypatch.setitem(sys.modules, "airflow_mlops.stages.odd", ModuleType("airflow_mlops.stages.odd"))
        monkeypatch.setitem(sys.modules, step.__name__, step)
        call = StepCall(step="odd", spec={}, store=f"file://{tmp_path}", key="results/odd.json", version=__version__)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            run_call(call)
        return caught.value

    return run


def raising(error: BaseException) -> dict:
    return {"error": error, "body": "(_ for _ in ()).throw(error)"}


def subclasses(module: ModuleType, base: type) -> set[type]:
    return {kind for kind in vars(module).values() if inspect.isclass(kind) and issubclass(kind, base)}


def made(kind: type) -> Exception:
    return kind("first line\nsecond line")


# ArrowException itself stands for an unknown error.
MAY_PASS = (OSError, MemoryError, Warning, pa.lib.ArrowCancelled)
DUCKDB = (duckdb.DataError, duckdb.IntegrityError, duckdb.NotSupportedError, duckdb.ProgrammingError)
FINAL = [
    *sorted(subclasses(pa.lib, pa.ArrowException) - {pa.ArrowException}, key=str),
    *sorted((kind for kind in subclasses(duckdb, duckdb.Error) if issubclass(kind, DUCKDB)), key=str),
    *sorted(subclasses(pd.errors, Exception), key=str),
    sqlalchemy.exc.CompileError,
    sqlalchemy.exc.ArgumentError,
    sqlalchemy.exc.NoSuchModuleError,
]
# Errors of the clipboard need Windows.
FINAL = [kind for kind in FINAL if not issubclass(kind, MAY_PASS) and "Pyperclip" not in kind.__name__]


def test_no_error_about_data_is_retried(fails):
    assert len(FINAL) > 50
    for kind in FINAL:
        error = fails(**raising(made(kind)))
        assert type(error) is UnsupportedDataError, kind
        assert not error.retryable
        assert kind.__name__ in str(error)
        assert "'odd'" in str(error)
        assert "\n" not in str(error)
        # Airflow would print the library's traceback below the error.
        assert error.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk full"),
        ConnectionResetError("lost"),
        pa.lib.ArrowException("unknown"),
        duckdb.IOException("no space"),
        duckdb.OutOfMemoryException("8 GB"),
        pd.errors.DatabaseError("gone"),
        sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection")),
        sqlalchemy.exc.IntegrityError("INSERT", {}, Exception("another worker wrote the row")),
        RuntimeError("not of a data library"),
        ValueError("not of a data library"),
        SourceError("unreachable"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_raised_unchanged(fails, error):
    assert fails(**raising(error)) is error


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("pa.array(['x']).cast('int64')", "ArrowInvalid: Failed to parse string: 'x' as a scalar of type int64"),
        ("pa.table({'a': [1]})['b']", "KeyError"),
        ("duckdb.sql('SELECT missing FROM (SELECT 1 AS a)')", "BinderException: Binder Error"),
        ("duckdb.sql(\"SELECT CAST('x' AS INT)\").fetchall()", "ConversionException"),
        ("pd.Series(['x']).astype(float)", "ValueError: could not convert string to float: 'x'"),
        ("pd.DataFrame({'a': [1]})['b']", "KeyError: 'b'"),
        ("pd.Timestamp('99999-01-01')", "99999-01-01"),
    ],
)
def test_the_sentence_has_the_first_line_of_the_library_and_the_log_has_the_traceback(fails, caplog, body, line):
    with caplog.at_level(logging.ERROR):
        error = fails(body, pa=pa, duckdb=duckdb, pd=pd)
    assert isinstance(error, UnsupportedDataError)
    assert line in str(error)
    (record,) = caplog.records
    assert "Traceback" in caplog.text
    assert record.exc_info[0] is not UnsupportedDataError


def test_the_exception_of_a_users_code_is_raised_unchanged_with_its_traceback(fails):
    def users_feature(rows: pa.Array) -> pa.Array:
        return rows.cast(pa.int64())

    error = fails("function(rows)", function=users_feature, rows=pa.array(["x"]))
    assert isinstance(error, pa.ArrowInvalid)
    assert "users_feature" in [entry.name for entry in pytest.ExceptionInfo.from_exception(error).traceback]


def test_the_class_survives_the_way_back_from_a_process_or_pod():
    from airflow_mlops.core import termination

    error = termination.error_in({"error": "UnsupportedDataError", "message": "x"})
    assert isinstance(error, MLOpsError)
    assert type(error) is UnsupportedDataError
    assert not error.retryable
