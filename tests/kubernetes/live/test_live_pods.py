"""Pods with a real scheduler, triggerer and workers, which the tests kill."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator

import pytest

from tests.kubernetes.conftest import Cluster, ProbeDag, advertised
from tests.support.live import LiveAirflow

GPU = "mlops.test/gpu"
GPUS = 2


@pytest.fixture
def start(airflow: LiveAirflow, probe_dag: ProbeDag, cluster: Cluster):
    """Start a run of a DAG with one probe; returns the ids of the DAG and the run."""

    def go(pod: str, options: dict, arguments: str = "", **further) -> tuple[str, str]:
        source = probe_dag(pod, options, arguments, **further)
        dag_id = source.split("with DAG('")[1].split("'")[0]
        (airflow.dags / f"{dag_id}.py").write_text(textwrap.dedent(source))
        return dag_id, airflow.trigger(dag_id)

    yield go
    for pod in cluster.pods():
        cluster.core.delete_namespaced_pod(pod.metadata.name, cluster.namespace, grace_period_seconds=0)


def test_retry_finds_the_pod_of_a_worker_that_died(airflow, cluster, start, counter):
    dag_id, run_id = start(cluster.pod(deferrable=False), {"counter": str(counter), "seconds": 40}, "retries=1")
    pod = cluster.wait_for_pod()
    airflow.until(counter.exists, "the step runs")
    assert airflow.kill_tasks() >= 2
    airflow.wait_for_success(dag_id, run_id)
    assert airflow.task_instances(dag_id, run_id)[0]["try_number"] == 2
    assert airflow.xcom(dag_id, run_id, "probe")["runs"] == 1
    assert counter.read_text() == f"{pod.metadata.name}\n"
    assert "Reconnecting to pod" in airflow.logs(dag_id, run_id, "probe", 2)
    cluster.wait_until_empty()


def test_next_triggerer_waits_for_the_pod_of_one_that_died(airflow, cluster, start, counter):
    dag_id, run_id = start(cluster.pod(deferrable=True), {"counter": str(counter), "seconds": 20}, "retries=0")
    airflow.until(counter.exists, "the step runs")
    airflow.kill("triggerer")
    airflow.start("triggerer")
    airflow.wait_for_success(dag_id, run_id, timeout=180)
    assert len(counter.read_text().splitlines()) == 1
    cluster.wait_until_empty()


@pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
def test_pod_is_deleted_when_the_task_is_marked_failed(airflow, cluster, start, counter, deferrable):
    dag_id, run_id = start(cluster.pod(deferrable=deferrable), {"counter": str(counter), "seconds": 600})
    airflow.until(counter.exists, "the step runs")
    if deferrable:
        airflow.until_deferred(dag_id, run_id, "probe")
    airflow.fail(dag_id, run_id, "probe")
    # Without the kill, the step would run for ten minutes.
    cluster.wait_until_empty()
    assert airflow.task_instances(dag_id, run_id)[0]["state"] == "failed"


def test_cleared_task_gets_a_new_pod(airflow, cluster, start, counter):
    # The second pod must not end before the scheduler has read that its task is deferred: Airflow would fail the task.
    options = {"counter": str(counter), "first_seconds": 600, "seconds": 15}
    dag_id, run_id = start(cluster.pod(deferrable=True), options)
    airflow.until(counter.exists, "the step runs")
    first = cluster.wait_for_pod().metadata.name
    airflow.until_deferred(dag_id, run_id, "probe")
    airflow.clear(dag_id, run_id, "probe")
    # The first step itself would run for ten minutes.
    airflow.until(lambda: first not in [pod.metadata.name for pod in cluster.pods()], "the first pod is gone")
    airflow.wait_for_success(dag_id, run_id)
    names = counter.read_text().splitlines()
    assert len(names) == 2
    assert names[0] == first != names[1]
    cluster.wait_until_empty()


@pytest.fixture
def gpus(cluster: Cluster) -> Iterator[None]:
    with advertised(cluster, GPU, GPUS):
        yield


def test_twelve_mapped_tasks_share_two_gpus_and_wait_without_worker_slots(airflow, cluster, start, counter, gpus):
    pod = cluster.pod(deferrable=True, gpus=1, gpu_resource=GPU, schedule_timeout=300)
    counters = [str(counter) + f"-{n}" for n in range(12)]
    tasks = (
        f"ProbeOperator.partial(task_id='probe', run_on={pod})"
        f".expand(options=[{{'counter': c, 'seconds': 4}} for c in {counters!r}])"
    )
    dag_id, run_id = start(pod, {}, tasks=tasks)
    most_running = most_deferred = 0
    while not (runs := airflow.runs(dag_id)) or runs[0]["state"] in ("queued", "running"):
        running = sum(
            any(status.state.running for status in pod.status.container_statuses or []) for pod in cluster.pods()
        )
        states = [task["state"] for task in airflow.task_instances(dag_id, run_id)]
        most_running, most_deferred = max(most_running, running), max(most_deferred, states.count("deferred"))
        time.sleep(0.5)
    assert runs[0]["state"] == "success"
    assert most_running == GPUS
    # There are fewer worker slots.
    assert most_deferred > int(airflow.env["AIRFLOW__CORE__PARALLELISM"])
    assert all(os.path.exists(name) for name in counters)
    cluster.wait_until_empty()
