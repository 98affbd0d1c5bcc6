"""Every step of the lifecycle is killed at random times, on a local folder, S3 and Azure, and its next try completes it.

``MLOPS_TORTURE_KILLS`` is the number of kills of each step (`make torture` sets 100).
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.utils import requirements_utils

from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.isolation import without
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import find_datasets, in_slots
from airflow_mlops.data.datasets.catalog import read_manifests
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy import archive
from airflow_mlops.registry.aliases import verify
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import champion
from airflow_mlops.stages.runner import run_call
from tests.integration.conftest import run_mlflow
from tests.support import object_stores, plots
from tests.support.lifecycle import MODEL, MONTHS, STEPS, Lifecycle

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MLOPS_TORTURE_KILLS", "1"))
ROWS = 600
STORES = {"file": object_stores.folder, "s3": object_stores.s3, "azure": object_stores.azure}
# The first month has no champion and no earlier reports.
PASSED_MONTHS = MONTHS[:2]
IMPORTED = (
    "duckdb", "great_expectations", "mlflow.pyfunc", "mlflow.sklearn", "mlflow.tracing.fluent", "onnxruntime", "pyarrow.parquet",
    "scipy.stats", "skl2onnx", "sklearn.inspection", "sklearn.linear_model",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _imported() -> Iterator[None]:
    """Import what the steps import, so that no process has to. A kill hits a write rather than the rendering of a plot."""
    for name in (*(f"airflow_mlops.stages.{step}.step" for step in STEPS), *IMPORTED):
        importlib.import_module(name)
    # skops imports torch through scikit-learn, and a plugin of MLflow imports Feast. No step here needs them.
    with without("torch", "feast"):
        importlib.import_module("skops.io")
        importlib.import_module("mlflow.tracking.request_header.registry")
    # MLflow searches all installed packages once per process. Otherwise, each process that trains would do so.
    requirements_utils._init_packages_to_modules_map()
    # A search for garbage in a child process would copy the memory that it shares with this process.
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        plots.leave_empty(patch)
        yield


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectionInfo]:
    with run_mlflow(tmp_path_factory.mktemp("mlflow"), "127.0.0.1") as address:
        yield ConnectionInfo(conn_id="mlflow_default", conn_type="mlflow", host=address)


@pytest.fixture(scope="module", params=STORES)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with STORES[request.param]() as found:
        yield found


class Killer:
    """Runs step calls in processes, and kills each step a number of times before it may complete.

    :param kills: number of kills of each step
    :param seed: seed of the times of the kills
    """

    def __init__(self, connection: ConnectionInfo, kills: int, seed: int) -> None:
        self.connection = connection
        self.kills = kills
        self.killed: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self._random = random.Random(seed)

    def run(self, call: StepCall) -> dict[str, Any]:
        """Kill the step at random times until it completes. A step that completed early is started as another task.

        The task that was killed last is tried again, so that nothing is left half-done.
        """
        task, tasks = call, 0
        while call.step in self.seconds and self.killed[call.step] < self.kills:
            # Half of the kills hit the second half of the step, where it writes.
            share = self._random.choice([self._random.random(), self._random.uniform(0.5, 1)])
            if self._start(task, share * self.seconds[call.step]):
                tasks += 1
                assert tasks < 100 * self.kills, f"{call.step} cannot be killed within {self.seconds[call.step]:.2f} s"
                task = call.model_copy(update={"key": call.key.replace("/0.json", f"/{tasks}.json")})
            else:
                self.killed[call.step] += 1
        assert self._start(task, None), f"{call.step} failed"
        return run_call(call, lambda _: self.connection)

    def _start(self, call: StepCall, seconds: float | None) -> bool:
        """Run a step in a process. Return whether it completed before it was killed.

        :param seconds: time until the process is killed; ``None`` if it is not
        """
        began = time.monotonic()
        child = os.fork()
        if not child:
            status = 1
            try:
                run_call(call, lambda _: self.connection)
                status = 0
            except BaseException:  # noqa: BLE001 - the process ends here in any case
                traceback.print_exc()
            finally:
                os._exit(status)
        while time.monotonic() - began < (300 if seconds is None else seconds):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert os.waitstatus_to_exitcode(status) == 0, f"{call.step} failed"
                self.seconds[call.step] = time.monotonic() - began
                return True
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False


def test_steps_that_are_killed_are_completed_by_their_next_try(
    url: str, mlflow: ConnectionInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    model = f"{MODEL}-{url.partition(':')[0]}"
    killer = Killer(mlflow, KILLS, seed=int(os.environ.get("MLOPS_TORTURE_SEED", "20130401")))
    lifecycle = Lifecycle(url, tmp_path, killer.run, model=model, rows=ROWS)
    for month in PASSED_MONTHS:
        lifecycle.month(month)
    assert dict(killer.killed) == dict.fromkeys(STEPS, KILLS)
    # The try that completed has deleted what the killed ones left behind.
    assert list((tmp_path / "temporary").glob("mlops-*")) == []
    store = ArtifactStore(url)
    require_whole(store, model)
    client = connect(MLflowTarget(), lambda _: mlflow)
    # One run and one version for each task, and one decision.
    runs = client.search_runs([client.get_experiment_by_name(model).experiment_id], max_results=5000)
    keys = Counter(run.data.tags.get("mlops.key") or run.info.run_id for run in runs)
    assert {key: count for key, count in keys.items() if count > 1} == {}
    versions = client.search_model_versions(f"name = '{model}'", max_results=5000)
    assert len({version.run_id for version in versions}) == len(versions)
    entries = verify(client, Ledger(store, model))
    assert len({entry.id for entry in entries}) == len(entries)
    assert champion(client, model) == [entry for entry in entries if entry.moves][-1].champion


def require_whole(store: ArtifactStore, model: str) -> None:
    """Check that every dataset is complete, and that each window has its rows once."""
    for name in ("orders", "late_training", f"{model}_predictions", "outcomes"):
        for manifest in read_manifests(store, name):
            for dataset in find_datasets(store, name, manifest.window):
                dataset.verify()
    for month in PASSED_MONTHS:
        window = Window.model_validate(month)
        orders, predicted, outcomes = (
            find_datasets(store, name, window)[0] for name in ("orders", f"{model}_predictions", "outcomes")
        )
        assert orders.rows == predicted.rows == outcomes.rows == ROWS
        assert predicted.manifest.id in {item.id for item in in_slots(store, f"{model}_predictions", window).values()}
        assert predicted.table()["order"].to_pylist() == orders.table()["order"].to_pylist()
        key = archive.key(store, model, window)
        assert archive.read(store, key)
        assert store.exists(archive.page(key))
