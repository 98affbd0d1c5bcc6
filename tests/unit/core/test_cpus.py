"""The CPUs of a container, and the threads of libraries in it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from airflow_mlops.core import cpus


@pytest.fixture
def container(monkeypatch, tmp_path):
    """Return a function that sets the quota of a container on a machine with eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cpus, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    return lambda quota: (tmp_path / "cpu.max").write_text(f"{quota}\n")


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("", 8)])
def test_the_cpus_are_those_of_the_container(container, quota, expected):
    container(quota)
    assert cpus.available_cpus() == cpus.wanted_threads() == expected


def test_libraries_start_as_many_threads_as_the_container_may_use_cpus(container, monkeypatch):
    arrow = []
    monkeypatch.setitem(cpus.sys.modules, "pyarrow", SimpleNamespace(set_cpu_count=arrow.append))
    container("max 100000")
    cpus.limit_libraries()
    assert ("OMP_NUM_THREADS" in os.environ, arrow) == (False, [])
    container("100000 100000")
    cpus.limit_libraries()
    assert (os.environ["OMP_NUM_THREADS"], arrow) == ("1", [1])
    # A number that is set already is kept.
    os.environ["OMP_NUM_THREADS"] = "3"
    cpus.limit_libraries()
    assert (os.environ["OMP_NUM_THREADS"], arrow) == ("3", [1])
