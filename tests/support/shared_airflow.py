"""The live Airflow that the folders ``live`` share, because each start takes 25 s of CPU time, and waiting takes more.

The first test that needs it starts it, and tests/conftest.py ends it after the last test of these folders.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.live import STEPS, LiveAirflow

if TYPE_CHECKING:
    import pytest

# What the steps import, so that no task has to; and what test_live_airflow.py looks for.
PRELOADED = (*STEPS, "no_such_module", "preloaded_for_test", "sklearn.linear_model")
# The Kubernetes client and its operator take several seconds of CPU time.
PRELOADED_FOR_PODS = ("airflow_mlops.compute.kubernetes.operator", "airflow_mlops.compute.kubernetes.train_jobs.job")

_running: list[LiveAirflow] = []


def shared(tmp_path_factory: pytest.TempPathFactory) -> LiveAirflow:
    """Return an Airflow with users, short heartbeats and a folder for DAGs; start it if none runs."""
    if not _running:
        _running.append(_start(tmp_path_factory.mktemp("live")))
    return _running[0]


def stop() -> None:
    """End the Airflow, if one runs, and remove its files."""
    while _running:
        running = _running.pop()
        running.__exit__(None, None, None)
        shutil.rmtree(running.home.parent)


def _start(folder: Path) -> LiveAirflow:
    home, dags, modules = folder / "home", folder / "dags", folder / "modules"
    for made in (home, dags, modules):
        made.mkdir()
    (modules / "preloaded_for_test.py").write_text("")
    preloaded = PRELOADED + (PRELOADED_FOR_PODS if os.environ.get("KUBECONFIG") else ())
    env = {
        # Six tasks run at once in test_live_processes.py.
        "AIRFLOW__CORE__PARALLELISM": "7",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,ada:op,eve:op",
        "AIRFLOW__MLOPS__PRELOAD": ",".join(preloaded),
        # Events are written for the DAGs that ask for it: enable_lineage(dag).
        "AIRFLOW__OPENLINEAGE__SELECTIVE_ENABLE": "True",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": (
            f'{{"type": "file", "log_file_path": "{home / "lineage.json"}", "append": true}}'
        ),
        # A task or a triggerer without a heartbeat for this long counts as dead. With 8 s instead of 20 s, a busy
        # machine killed running tasks.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
        "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
        # Only the Airflow connection may name the cluster.
        "KUBECONFIG": "",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH")])),
    }
    return LiveAirflow(home, dags, env, all_admins=False).__enter__()
