"""A full disk, too little memory and too few open files are one clear error, whichever exception reports them."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import tempfile
from types import ModuleType

import pyarrow as pa
import pytest

from airflow_mlops import __version__
from airflow_mlops.core import resource_errors
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import (
    ComputeError,
    MemoryLimitError,
    MLOpsError,
    ModelFormatError,
    SourceError,
    SpillError,
    StoreError,
    TableUnavailableError,
    TrainingError,
)
from airflow_mlops.stages import executors
from airflow_mlops.stages.runner import run_call


def of_os(number: int, file: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), file) if file else OSError(number, os.strerror(number))


def caused(error: Exception, by: BaseException) -> Exception:
    error.__cause__ = by
    return error


def handled(error: Exception, by: BaseException) -> Exception:
    error.__context__ = by
    error.__suppress_context__ = True
    return error


def of_library(name: str, text: str) -> Exception:
    return type("Failure", (Exception,), {"__module__": name})(text)


DOWNLOAD = (
    "The following failures occurred while downloading one or more artifacts from http://mlflow:\n"
    "##### File MLmodel #####\n[Errno 28] No space left on device\n##### File conda.yaml #####\n[Errno 28] No space"
)


@pytest.mark.parametrize(
    "error",
    [
        of_os(errno.ENOSPC),
        of_os(errno.EDQUOT),
        caused(ModelFormatError("The model cannot be exported."), of_os(errno.ENOSPC)),
        caused(of_library("mlflow.exceptions", "skops does not support functions"), of_os(errno.ENOSPC)),
        handled(SourceError("The file cannot be read."), of_os(errno.ENOSPC)),
        caused(MLOpsError("The files cannot be downloaded."), of_library("mlflow.exceptions", DOWNLOAD)),
        caused(MLOpsError("Feast failed."), sqlite3.OperationalError("database or disk is full")),
        of_library("xgboost.core", "fwrite: No space left on device"),
    ],
)
def test_a_full_disk_is_one_error_that_names_the_folder_and_can_be_retried(error):
    found = resource_errors.explain(error)
    assert isinstance(found, SpillError)
    assert found.retryable
    assert tempfile.gettempdir() in str(found)
    assert "TMPDIR" in str(found)
    assert str(found).endswith(f"too many files (`df -i {tempfile.gettempdir()}`), or your quota is used up (`quota`).")


def test_the_error_of_a_full_disk_names_the_folder_of_a_file_elsewhere():
    found = resource_errors.explain(caused(TrainingError("A function raised it."), of_os(errno.ENOSPC, "/srv/own/a")))
    assert isinstance(found, SpillError)
    assert found.retryable
    assert "/srv/own." in str(found)
    assert "TMPDIR" not in str(found)


def test_the_error_of_a_full_disk_names_the_stores_of_feast():
    write = {
        "__name__": "feast.infra.online_stores.sqlite",
        "error": sqlite3.OperationalError("database or disk is full"),
    }
    with pytest.raises(sqlite3.OperationalError) as caught:
        exec("raise error", write)
    found = resource_errors.explain(caught.value)
    assert isinstance(found, SpillError)
    assert found.retryable
    assert "feature_store.yaml" in str(found)


@pytest.mark.parametrize(
    "error",
    [
        # These errors already name the disk.
        caused(StoreError("The store is full."), of_os(errno.ENOSPC)),
        caused(SpillError("The disk is full.", disk_full=True), of_os(errno.ENOSPC)),
        caused(TableUnavailableError("The table could not be written."), of_os(errno.ENOSPC)),
        handled(MLOpsError("The run cannot be ended."), StoreError("The store is full.")),
        # The disks of servers.
        of_library("psycopg.errors", "could not extend file: No space left on device"),
        of_library("mlflow.exceptions", "(sqlite3.OperationalError) database or disk is full"),
        of_os(errno.EACCES),
        ValueError("bad"),
    ],
)
def test_other_errors_stay_as_they_are(error):
    assert resource_errors.explain(error) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        pa.ArrowMemoryError("malloc of size 64 failed"),
        of_os(errno.ENOMEM),
        caused(TrainingError("Fitting raised it."), MemoryError()),
        of_library("xgboost.core", "std::bad_alloc"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_too_little_memory_is_one_error(error):
    assert isinstance(resource_errors.explain(error), MemoryLimitError)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_few_open_files_are_one_error_that_names_the_limit(number):
    found = resource_errors.explain(caused(StoreError("Check the credentials."), of_os(number, "/store/a")))
    assert type(found) is ComputeError
    assert "ulimit -n" in str(found)


def test_steps_and_executors_report_a_full_disk(tmp_path, monkeypatch):
    step = ModuleType("airflow_mlops.stages.odd.step")
    exec(
        "from airflow_mlops.core.calls import Result, Spec\n"
        "from airflow_mlops.stages.context import StepContext\n"
        "def run(spec: Spec, context: StepContext) -> Result:\n"
        "    raise OSError(28, 'No space left on device')\n"
        "def part(store, arguments, part):\n"
        "    raise OSError(28, 'No space left on device')\n",
        vars(step),
    )
    monkeypatch.setitem(sys.modules, "airflow_mlops.stages.odd", ModuleType("airflow_mlops.stages.odd"))
    monkeypatch.setitem(sys.modules, step.__name__, step)
    url = f"file://{tmp_path}"
    with pytest.raises(SpillError):
        run_call(StepCall(step="odd", spec={}, store=url, key="results/odd.json", version=__version__))
    answer = executors.answer(f"{step.__name__}:part", url, {}, None)
    assert (answer["error"], answer["retryable"]) == ("SpillError", True)
