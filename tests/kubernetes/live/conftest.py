"""The live Airflow that the files of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.conftest import Cluster
from tests.support.live import LiveAirflow

# A task need not import the Kubernetes client and its operator, which takes several seconds of CPU time.
PRELOADED = (
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.execution_time.task_runner",
    "airflow_mlops.observability.export",
    "airflow_mlops.operators.train",
    "airflow_mlops.compute.kubernetes.operator",
    "airflow_mlops.compute.kubernetes.train_jobs.job",
)


@pytest.fixture(scope="package")
def airflow(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveAirflow]:
    """A scheduler, a triggerer and workers with short heartbeats, so that a dead one is noticed soon.

    With 8 s instead of 20 s, a busy machine killed tasks that were alive.
    """
    home = tmp_path_factory.mktemp("live") / "home"
    (home / "dags").mkdir(parents=True)
    env = {
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": cluster.connection,
        "AIRFLOW__MLOPS__PRELOAD": ",".join(PRELOADED),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        "KUBECONFIG": "",
    }
    with LiveAirflow(home, home / "dags", env) as running:
        yield running
