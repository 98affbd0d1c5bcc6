"""The live Airflow that the files of this folder share, because each start takes half a minute of CPU time.

Each file writes its DAGs into ``airflow.dags``, and its ids of DAGs and names of datasets are its own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support.live import STEPS, LiveAirflow

# What the steps of these files import, so that no task has to; and what test_live_airflow.py looks for.
PRELOADED = (*STEPS, "no_such_module", "preloaded_for_test", "sklearn.linear_model")


@pytest.fixture(scope="package")
def airflow(tmp_path_factory: pytest.TempPathFactory, mlflow_server: str) -> Iterator[LiveAirflow]:
    """A whole Airflow with users, short heartbeats and an empty DAGs folder."""
    folder = tmp_path_factory.mktemp("live")
    home, dags, modules = folder / "home", folder / "dags", folder / "modules"
    for made in (home, dags, modules):
        made.mkdir()
    (modules / "preloaded_for_test.py").write_text("")
    env = {
        "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": mlflow_server}),
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,ada:op,eve:op",
        "AIRFLOW__MLOPS__PRELOAD": ",".join(PRELOADED),
        # Events are written for the DAGs that ask for it: enable_lineage(dag).
        "AIRFLOW__OPENLINEAGE__SELECTIVE_ENABLE": "True",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
            {"type": "file", "log_file_path": str(home / "lineage.json"), "append": True}
        ),
        # A task or a triggerer that gives no sign of life for this long is dead.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
        "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH")])),
    }
    with LiveAirflow(home, dags, env, all_admins=False) as running:
        yield running
    shutil.rmtree(folder)
