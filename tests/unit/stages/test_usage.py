"""What a step used."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.core.usage import Usage
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages import usage
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.usage import Meter, record


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_bytes_of_the_store_are_counted(kind, tmp_path):
    store = ArtifactStore(f"{kind}://{tmp_path}/counted")
    store.write_bytes("before", b"x" * 10)
    meter = Meter(store)
    store.write_bytes("one", b"x" * 1000)
    with store.create("two") as file:
        file.write(b"y" * 500)
        file.write(b"y" * 7)
    store.read_bytes("one")
    store.read_many(["one", "two", "absent"])
    with store.open("two") as opened:
        opened.seek(400)
        opened.read(50)
    found = meter.usage()
    assert found.written_bytes == 1507
    assert found.read_bytes == 1000 + 1507 + 50


def test_time_memory_and_rows_are_those_of_the_step(store):
    before = np.ones(40_000_000)
    del before
    meter = Meter(store)
    StepContext(store, meter=meter).processed(1200)
    held = np.ones(10_000_000)
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    found = meter.usage()
    assert found.rows == 1200
    assert found.cpu_seconds > 0.01
    assert found.seconds > 0.01
    assert held.nbytes / 1e6 < found.peak_memory_mb
    # The kernel measures the memory of the step, and not that of the process before it.
    smaller = Meter(store).usage().peak_memory_mb
    del held
    assert Meter(store).usage().peak_memory_mb < smaller


def test_memory_of_a_process_that_the_step_started_counts(store):
    meter = Meter(store)
    subprocess.run(
        [sys.executable, "-c", "x = bytearray(1_500_000_000); x[::4096] = b'1' * len(x[::4096])"], check=True
    )
    assert meter.usage().peak_memory_mb > 1400


def test_gpus_that_a_process_can_use_are_counted(tmp_path, monkeypatch):
    # Device files of GPU time cannot exist here, so empty files take their place.
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(usage, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert usage.available_gpus() == 2
    for visible, count in (("", 0), ("-1", 0), ("1", 1), ("0,1,2", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert usage.available_gpus() == count


def test_a_server_that_cannot_be_reached_does_not_fail_the_step(caplog):
    class Trained(Result):
        def mlflow_runs(self) -> list[str]:
            return ["abc"]

    class Training(Spec):
        mlflow: MLflowTarget = MLflowTarget()

    def away(conn_id):
        return SimpleNamespace(conn_type="mlflow", host="http://127.0.0.1:1")

    record(Usage(seconds=1, cpu_seconds=1, peak_memory_mb=9), "train", Trained(summary=""), Training(), away)
    assert "was not written to MLflow" in caplog.text


def test_the_sentence_has_the_numbers():
    used = Usage(seconds=2, cpu_seconds=3.25, gpu_seconds=4, peak_memory_mb=1234.4, read_bytes=1_500_000, rows=1000)
    sentence = used.sentence()
    for part in (
        "2.0 s",
        "1,000 rows (500 per second)",
        "3.2 s of CPU",
        "4.0 s of GPU time",
        "1,234 MB",
        "1.5 MB",
        "0.0 MB",
    ):
        assert part in sentence
