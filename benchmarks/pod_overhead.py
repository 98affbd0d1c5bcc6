"""The overhead of a step in a Kubernetes pod and in another Python, compared with the same step in the Airflow worker.

``python -m benchmarks.pod_overhead [--repeat N] [--rows N]``. The step ingests a small CSV file, so nearly all of the time is
overhead. A live Airflow (scheduler, LocalExecutor, API server, triggerer) runs in turn:

- ``worker``: the operator in the worker;
- ``process``: the operator with ``run_on=Process(...)``, in another Python on the worker;
- ``pod``, ``pod_deferrable``: the operator with ``run_on=Pod(...)``; the task waits in the worker or in the triggerer;
- ``bare``: for comparison, a plain KubernetesPodOperator that runs ``true`` in the same image, and no step.

The time of a task is that from its start to its end as Airflow records them. It is the sum of these parts:

- ``asking``: Airflow starts the task, which requests the pod (or starts the process);
- ``scheduling``: the cluster chooses a node;
- ``start``: the node creates the container, until Python runs its first line;
- ``imports`` and ``step``: all imports of the step's Python, and the rest of its work;
- ``ending``: from the end of Python until the cluster reports the end of the container (the kubelet checks once a second);
- ``result``: the task notices the end, reads log and result, deletes the pod, and ends.

The cluster's own timestamps have a resolution of 1 s. So the benchmark reads the clock when a watch reports a change, and in
Python where the step runs. The cluster must therefore run on this machine. KUBECONFIG names it, and MLOPS_TEST_IMAGE an image
that its node has. With MLOPS_TEST_SOURCE=1 pods run the checkout instead of the package in the image. The first round is not
counted. The figures are medians of the other rounds, for each part on its own.

Airflow's scheduler may fail a deferred task that resumes before the scheduler has seen the end of its first process, which
happens with pods that run for a few seconds. The benchmark names such tasks and leaves them out. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.live import LiveAirflow

ROOT = Path(__file__).parents[1]
IMAGE = os.environ.get("MLOPS_TEST_IMAGE", "localhost/airflow-mlops-runner:test")
TASKS = ("worker", "process", "pod", "pod_deferrable", "bare")
PARTS = ("asking", "scheduling", "start", "imports", "step", "ending", "result")
NUMBER = "{{ params.number }}"

# A ``sitecustomize`` module, which Python runs before anything else.
CLOCK = """
import atexit, builtins, json, os, threading, time

marks = {"python": time.time(), "imports": 0.0}
plain, main, depth = builtins.__import__, threading.get_ident(), 0

def timed(*args, **kwargs):
    global depth
    if depth or threading.get_ident() != main:
        return plain(*args, **kwargs)
    depth, begun = 1, time.perf_counter()
    try:
        return plain(*args, **kwargs)
    finally:
        depth = 0
        marks["imports"] += time.perf_counter() - begun

def tell():
    with open(os.environ["BENCHMARK_MARKS"], "w") as file:
        json.dump({**marks, "end": time.time()}, file)

if "BENCHMARK_MARKS" in os.environ:
    builtins.__import__ = timed
    atexit.register(tell)
"""


class Cluster(NamedTuple):
    """A namespace of the cluster in a kubeconfig."""

    core: Any
    namespace: str
    kubeconfig: str

    @property
    def connection(self) -> str:
        """Airflow's connection to the cluster."""
        extra = {"kube_config_path": self.kubeconfig, "namespace": self.namespace}
        return json.dumps({"conn_type": "kubernetes", "extra": extra})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000)
    arguments = parser.parse_args()
    print(__doc__)
    with shared_folder(arguments.rows) as folder, namespace() as cluster:
        medians = measure(folder, cluster, arguments.repeat)
    show(medians)
    figures = {
        "worker_seconds": medians["worker"].get("total"),
        **flat("process", medians, ("asking", "imports", "step", "result")),
        **flat("pod", medians, PARTS),
        **flat("pod_deferrable", medians, PARTS),
        "bare_kubernetes_pod_operator_seconds": medians["bare"].get("total"),
    }
    described = {"rows": arguments.rows, "repeat": arguments.repeat, "image": IMAGE}
    print(json.dumps({"benchmark": "pod_overhead", **described, **figures}))


@contextmanager
def shared_folder(rows: int) -> Iterator[Path]:
    """A folder of this machine with the CSV file, which pods mount."""
    folder = Path(tempfile.mkdtemp(prefix="mlops-bench-"))
    # Pods do not run as root, but this process may.
    old = os.umask(0)
    try:
        folder.chmod(0o777)
        (folder / "rows.csv").write_text("n,x,s\n" + "".join(f"{n},{n / 7},text {n % 100}\n" for n in range(rows)))
        for name in ("clock", "marks", "artifacts"):
            (folder / name).mkdir()
        (folder / "clock" / "sitecustomize.py").write_text(CLOCK)
        yield folder
    finally:
        os.umask(old)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def namespace() -> Iterator[Cluster | None]:
    """Create a namespace in the cluster and delete it at the end. Without a cluster, print a notice and yield ``None``."""
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    kubeconfig = os.environ.get("KUBECONFIG")
    if not kubeconfig:
        print("NO CLUSTER: KUBECONFIG is not set. Only worker and process are measured, NO PODS.\n")
        yield None
        return
    core = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    try:
        core.list_node()
    except HTTPError as error:
        print(f"NO CLUSTER: {kubeconfig} cannot be reached ({error}). Only worker and process are measured, NO PODS.\n")
        yield None
        return
    name = f"mlops-bench-{uuid.uuid4().hex[:6]}"
    core.create_namespace({"metadata": {"name": name}})
    try:
        yield Cluster(core, name, kubeconfig)
    finally:
        core.delete_namespace(name, grace_period_seconds=0)


def measure(folder: Path, cluster: Cluster | None, repeat: int) -> dict[str, dict[str, float]]:
    """Run all tasks in turn; return the median time of each, and the medians of its parts."""
    seconds: dict[str, dict[str, list[float]]] = {task: defaultdict(list) for task in TASKS}
    env = {"AIRFLOW__MLOPS__ARTIFACTS": f"file://{folder}/artifacts"}
    if cluster:
        # Only the Airflow connection may name the cluster.
        env |= {"AIRFLOW_CONN_KUBERNETES_DEFAULT": cluster.connection, "KUBECONFIG": ""}
    moments = watch(cluster) if cluster else {}
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as home:
        dag_ids = write_dags(Path(home) / "dags", folder, cluster)
        with LiveAirflow(Path(home), Path(home) / "dags", env) as airflow:
            for number in range(repeat + 1):
                for task in [task for dag_id in dag_ids for task in run(airflow, dag_id, number)]:
                    name = task["task_id"]
                    if task["state"] != "success":
                        print(f"Round {number}: Airflow's scheduler failed {name}, which had been deferred.")
                        continue
                    mark = f"{name}-{number}"
                    file = folder / "marks" / mark
                    marks = json.loads(file.read_text()) if file.exists() else {}
                    found = {"total": task["duration"], **parts(task, marks, moments.get(mark, {}))}
                    for part, value in found.items() if number else ():
                        seconds[name][part].append(value)
    return {
        name: {part: round(statistics.median(values), 3) for part, values in found.items()}
        for name, found in seconds.items()
    }


def write_dags(dags: Path, folder: Path, cluster: Cluster | None) -> list[str]:
    """Write the DAG files and return the ids of their DAGs."""
    env = {"PYTHONPATH": f"{folder}/clock", "BENCHMARK_MARKS": f"{folder}/marks/process-{NUMBER}"}
    places = {"worker": "Worker()", "process": f"Process(sys.executable, {env})"}
    if cluster:
        places |= {task: pod_text(task, folder, cluster) for task in ("pod", "pod_deferrable")}
    ingest = "IngestOperator(task_id={0!r}, name='{0}_{1}', files={2!r}, run_on={3})"
    tasks = [ingest.format(task, NUMBER, str(folder / "rows.csv"), place) for task, place in places.items()]
    imports = "from airflow_mlops.compute import *\nfrom airflow_mlops.operators import IngestOperator"
    dags.mkdir()
    write_dag(dags / "steps.py", imports, tasks)
    if cluster is None:
        return ["steps"]
    # The DAG is in a separate file, because every task pays for the imports of its file.
    options = {"image": IMAGE, "image_pull_policy": "IfNotPresent", "namespace": cluster.namespace, "cmds": ["true"]}
    imports = "from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator"
    write_dag(dags / "bare.py", imports, [f"KubernetesPodOperator(task_id='bare', **{options})"])
    return ["steps", "bare"]


def pod_text(task: str, folder: Path, cluster: Cluster) -> str:
    """The source code of the ``Pod(...)`` of a task."""
    mark = f"{task}-{NUMBER}"
    mounted = {"shared": folder, **({"source": ROOT} if os.environ.get("MLOPS_TEST_SOURCE") else {})}
    options = {
        "image": IMAGE,
        "image_pull_policy": "IfNotPresent",
        "namespace": cluster.namespace,
        "deferrable": task == "pod_deferrable",
        "labels": {"mark": mark},
        "env": {"PYTHONPATH": f"{folder}/clock:{ROOT}", "BENCHMARK_MARKS": f"{folder}/marks/{mark}"},
        "volumes": [{"name": name, "hostPath": {"path": str(path)}} for name, path in mounted.items()],
        "volume_mounts": [{"name": name, "mountPath": str(path)} for name, path in mounted.items()],
    }
    return f"Pod(**{options})"


def write_dag(file: Path, imports: str, tasks: list[str]) -> None:
    lines = ",\n        ".join(tasks)
    file.write_text(
        f"import sys\nfrom airflow.sdk import DAG, chain\n{imports}\n\n"
        f"with DAG({file.stem!r}, schedule=None, params={{'number': 0}}):\n    chain(\n        {lines}\n    )\n"
    )


def run(airflow: LiveAirflow, dag_id: str, number: int) -> list[dict[str, Any]]:
    """Run a DAG once and return its task instances."""
    run_id = airflow.trigger(dag_id, {"number": number})
    state = airflow.wait(dag_id, run_id, timeout=600)
    tasks = airflow.task_instances(dag_id, run_id)
    failed = [task["task_id"] for task in tasks if task["state"] == "failed"]
    log = "\n".join(airflow.logs(dag_id, run_id, name) for name in failed)
    # The log of a task that the scheduler failed contains no error.
    if state != "success" and (failed != ["pod_deferrable"] or "Task failed with exception" in log):
        sys.exit(f"The run of {dag_id} ended as {state}:\n{log[-5000:]}")
    return tasks


def watch(cluster: Cluster) -> dict[str, dict[str, float]]:
    """Watch the pods with a mark in the background; return the times of their changes, which are filled in later."""
    from kubernetes.watch import Watch

    moments: dict[str, dict[str, float]] = defaultdict(dict)

    def follow() -> None:
        for event in Watch().stream(cluster.core.list_namespaced_pod, cluster.namespace):
            now, pod = time.time(), event["raw_object"]
            noted = moments[pod["metadata"].get("labels", {}).get("mark", "")]
            noted.setdefault("created", now)
            if any(item["type"] == "PodScheduled" for item in pod["status"].get("conditions", [])):
                noted.setdefault("scheduled", now)
            if any("terminated" in item["state"] for item in pod["status"].get("containerStatuses", [])):
                noted.setdefault("ended", now)

    threading.Thread(target=follow, daemon=True).start()
    return moments


def parts(task: dict[str, Any], marks: dict[str, float], moments: dict[str, float]) -> dict[str, float]:
    """The parts of a task's time: none for the worker, and only some for a process."""
    if not marks:
        return {}
    started, ended = (datetime.fromisoformat(task[name]).timestamp() for name in ("start_date", "end_date"))
    inside = {"imports": marks["imports"], "step": marks["end"] - marks["python"] - marks["imports"]}
    if not moments:
        return {"asking": marks["python"] - started, **inside, "result": ended - marks["end"]}
    return {
        "asking": moments["created"] - started,
        "scheduling": moments["scheduled"] - moments["created"],
        "start": marks["python"] - moments["scheduled"],
        **inside,
        "ending": moments["ended"] - marks["end"],
        "result": ended - moments["ended"],
    }


def flat(name: str, medians: dict[str, dict[str, float]], parts: tuple[str, ...]) -> dict[str, float | None]:
    """The figures of one task with its name as prefix."""
    found = medians[name]
    return {f"{name}_seconds": found.get("total"), **{f"{name}_{part}_seconds": found.get(part) for part in parts}}


def show(medians: dict[str, dict[str, float]]) -> None:
    print(f"{'median, in seconds':20}{'total':>8}{'over worker':>13}" + "".join(f"{part:>12}" for part in PARTS))
    for name, found in medians.items():
        if not found:
            print(f"  {name:18}{'not measured':>12}")
            continue
        over = "" if name == "worker" else f"{found['total'] - medians['worker']['total']:.2f}"
        row = "".join(f"{found[part]:12.2f}" if part in found else f"{'':12}" for part in PARTS)
        print(f"  {name:18}{found['total']:8.2f}{over:>13}{row}".rstrip())
    print()


if __name__ == "__main__":
    main()
