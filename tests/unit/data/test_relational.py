"""The database for relational work: bounded memory, temporary files, CPUs and quoting."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pytest

from airflow_mlops.data import relational


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


@pytest.mark.parametrize(("quota", "cpus"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), (None, 8)])
def test_the_cpus_are_those_of_the_container(monkeypatch, tmp_path, quota, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(relational, "_CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert relational.available_cpus() == cpus
    with relational.connect("100MB") as connection:
        assert setting(connection, "threads") == cpus
