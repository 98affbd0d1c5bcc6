"""The database for relational work: bounded memory, temporary files, CPUs and quoting."""

from __future__ import annotations

import inspect
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SpecError, SpillError
from airflow_mlops.data import relational, sorting
from airflow_mlops.data.feast import point_in_time
from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.stages.join_labels import joining
from airflow_mlops.stages.training_set.events import in_order
from airflow_mlops.stages.validate import duplicates
from tests.support import disks


def setting(connection, name):
    return connection.execute("SELECT current_setting($name)", {"name": name}).fetchone()[0]


def test_temporary_files_lie_in_a_folder_that_is_deleted_at_the_end():
    with relational.connect("100MB") as connection:
        folder = Path(setting(connection, "temp_directory"))
        assert folder.is_dir()
        assert setting(connection, "memory_limit") in ("95.3 MiB", "100.0 MB")
        assert setting(connection, "TimeZone") == "UTC"
    assert not folder.exists()


def test_work_larger_than_memory_continues_on_disk():
    with relational.connect("60MB") as connection:
        folder = Path(setting(connection, "temp_directory"))
        connection.execute("CREATE TABLE words AS SELECT uuid()::VARCHAR AS word FROM range(1000000)")
        words = connection.sql("SELECT word FROM words ORDER BY word").to_arrow_reader(1_000)
        first = next(words)["word"].to_pylist()
        assert first == sorted(first)
        written = sum(file.stat().st_size for file in folder.iterdir())
    assert written > 1_000_000


def test_a_python_variable_is_not_a_table():
    numbers = duckdb.sql("SELECT 1").to_arrow_table()
    assert numbers.num_rows == 1
    with relational.connect("100MB") as connection, pytest.raises(duckdb.CatalogException, match="numbers"):
        connection.execute("SELECT * FROM numbers")


@pytest.mark.parametrize("name", ["at", "two words", 'with "quotes"', "x; DROP TABLE t; --", "é"])
def test_any_name_can_be_quoted(name):
    with relational.connect("100MB") as connection:
        connection.execute(f"CREATE TABLE t ({relational.quoted(name)} INTEGER)")
        assert connection.execute("SELECT * FROM t").description[0][0] == name


def test_a_database_has_as_many_threads_as_the_process_may_use_cpus(monkeypatch):
    monkeypatch.setattr(relational, "available_cpus", lambda: 3)
    with relational.connect("100MB") as connection:
        assert setting(connection, "threads") == 3


@pytest.fixture
def small_disk(tmp_path):
    with disks.mounted(tmp_path / "small", "20m") as folder:
        yield folder


def test_a_full_disk_is_an_error_that_names_the_folder(small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    words = "CREATE TABLE words AS SELECT uuid()::VARCHAR AS word FROM range(3000000)"
    message = f"The disk is full.*{small_disk}.*TMPDIR"
    with pytest.raises(SpillError, match=message) as caught, relational.connect("60MB") as connection:
        connection.execute(words)
    assert caught.value.retryable
    assert not list(small_disk.iterdir())


def test_a_limit_that_is_too_small_is_another_error():
    message = r"more memory than its limit of 1KB.*\[mlops\] memory"
    words = "SELECT max(word) FROM (SELECT uuid()::VARCHAR AS word FROM range(100000)) GROUP BY word"
    with pytest.raises(SpillError, match=message) as caught, relational.connect("1KB") as connection:
        connection.execute(words)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        ("0::/a/b", {"memory.max": "max", "a/memory.max": "2000000000", "a/b/memory.max": "max"}, 2_000_000_000),
        ("0::/host/path", {"memory.max": "3000000000"}, 3_000_000_000),
        (
            "4:memory:/a",
            {"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/a/memory.limit_in_bytes": "10"},
            10,
        ),
        ("5:cpu:/a", {"memory.max": "max"}, None),
        (None, {}, None),
    ],
)
def test_the_memory_is_that_of_the_container(monkeypatch, tmp_path, cgroup, files, limit):
    monkeypatch.delenv("MLOPS_MEMORY", raising=False)
    monkeypatch.setattr(relational, "_CGROUPS", tmp_path)
    monkeypatch.setattr(relational, "_OWN_CGROUP", tmp_path / "cgroup")
    if cgroup:
        (tmp_path / "cgroup").write_text(f"7:devices:/\n{cgroup}\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert relational.available_memory() == (limit or machine)
    assert relational.default_memory() == f"{max((limit or machine) // 2_000_000, 100)}MB"


def test_one_of_eight_processes_on_a_machine_has_one_thread_and_an_eighth_of_the_memory(monkeypatch):
    monkeypatch.delenv("MLOPS_MEMORY", raising=False)
    monkeypatch.setattr(relational, "available_cpus", lambda: 8)
    monkeypatch.setattr(relational, "_memory_files", list)
    monkeypatch.setattr(relational.os, "sysconf", {"SC_PAGE_SIZE": 1 << 20, "SC_PHYS_PAGES": 16_000}.get)
    monkeypatch.setattr(relational.resource, "getrlimit", lambda kind: (-1, -1))
    with relational.connect_on_one_cpu() as connection:
        assert (setting(connection, "threads"), setting(connection, "memory_limit")) == (1, "999.4 MiB")
    # The memory limit of the process (ulimit) is not divided among the tasks of the machine.
    monkeypatch.setattr(relational.resource, "getrlimit", lambda kind: (1_000_000_000, -1))
    assert relational.default_memory(8) == "500MB"


def test_sorts_and_joins_take_a_part_of_a_large_memory_by_default(monkeypatch):
    monkeypatch.delenv("MLOPS_MEMORY", raising=False)
    found = []
    for cpus, memory in ((2, 64), (16, 64), (2, 1)):
        monkeypatch.setattr(relational, "available_cpus", lambda cpus=cpus: cpus)
        monkeypatch.setattr(relational, "available_memory", lambda _, memory=memory: memory * 1_000_000_000)
        found.append((relational.default_memory(), relational.default_memory(most=1_000_000_000)))
    assert found == [("32000MB", "1000MB"), ("32000MB", "4000MB"), ("500MB", "500MB")]
    monkeypatch.setattr(relational, "available_memory", lambda _: 64_000_000_000)
    with relational.connect_bounded(most=200_000_000) as connection:
        assert setting(connection, "memory_limit") in ("190.7 MiB", "200.0 MB")
    # A limit that is set counts, however large.
    with relational.connect_bounded("3GB", most=200_000_000) as connection:
        assert setting(connection, "memory_limit") in ("2.7 GiB", "3.0 GB")
    monkeypatch.setenv("MLOPS_MEMORY", "3GB")
    assert relational.default_memory(most=200_000_000) == "3GB"


@pytest.mark.parametrize(
    ("connect", "limit"),
    [
        (joining.Join.connect, "381.4 MiB"),
        (inspect.signature(in_order).parameters["connect"].default, "953.6 MiB"),
        (inspect.signature(point_in_time.join).parameters["connect"].default, "953.6 MiB"),
    ],
    ids=["labels", "events", "features"],
)
def test_each_stage_has_its_own_default(monkeypatch, connect, limit):
    monkeypatch.delenv("MLOPS_MEMORY", raising=False)
    monkeypatch.setattr(relational, "available_cpus", lambda: 2)
    monkeypatch.setattr(relational, "available_memory", lambda _: 64_000_000_000)
    with connect() as connection:
        assert setting(connection, "memory_limit") == limit


def test_repeated_values_and_ids_are_sorted_with_little_memory(monkeypatch):
    monkeypatch.delenv("MLOPS_MEMORY", raising=False)
    limits = []

    @contextmanager
    def connect(limit):
        limits.append(limit)
        with duckdb.connect() as connection:
            yield connection

    monkeypatch.setattr(relational, "connect", connect)
    monkeypatch.setattr(relational, "available_cpus", lambda: 2)
    monkeypatch.setattr(relational, "available_memory", lambda _: 64_000_000_000)
    monkeypatch.setattr(sorting, "_ROWS_IN_MEMORY", 0)
    table = pa.table({"id": [2, 1, 2]})
    list(sorting.in_order(table.to_batches(), table.schema, ["id"], 3))
    rows = SimpleNamespace(schema=table.schema, facts={"id": ColumnFacts()}, tables=lambda _: [(np.arange(3), table)])
    assert duplicates.repeated_rows(rows, ["id"], most=1).numbers.first(9).tolist() == [0, 2]
    assert limits == ["1000MB", "300MB"]


def test_the_setting_decides_the_memory(monkeypatch):
    monkeypatch.setenv("MLOPS_MEMORY", "200MB")
    with relational.connect() as connection:
        assert setting(connection, "memory_limit") in ("190.7 MiB", "200.0 MB")
    monkeypatch.setenv("MLOPS_MEMORY", "much")
    with pytest.raises(SpecError, match=r"\[mlops\] memory is 'much'"):
        relational.default_memory()
