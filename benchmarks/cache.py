"""The cost of an unchanged rerun of the flights' month with ``cache=True``, relative to the first run.

``python -m benchmarks.cache [--fresh] [--sqlite]``. The steps of the example run for January 2013: ingestion of flights, weather and planes,
validation with quarantine, materialization of features, the training set with its point-in-time join, a training, and an
evaluation without a champion. Then they run again in another DAG run, and every result is taken from the cache.

By default, all steps run in one process that has run February before, as tasks do whose worker has preloaded the modules
(``[mlops] preload``). With ``--fresh``, each step starts its own Python, and its imports count. MLflow is a server, whose own cost
does not count. With ``--sqlite``, the steps open MLflow's database themselves, and then have to import MLflow. The figures are
seconds and CPU seconds; the last line is JSON. The target of 10% is for all steps, in CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from airflow_mlops import __version__
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.data.results import read_result, result_key
from airflow_mlops.data.store import ArtifactStore

DAGS = Path(__file__).parents[1] / "dags"
TARGET = 0.1
SECONDS_TO_START = 120
Costs = dict[str, tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="run each step in a Python of its own")
    parser.add_argument("--sqlite", action="store_true", help="use MLflow's database without a server")
    arguments = parser.parse_args()
    print(__doc__)
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder, ExitStack() as stack:
        database = f"sqlite:///{folder}/mlflow.db"
        host = database if arguments.sqlite else stack.enter_context(server(folder, database))
        os.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"] = json.dumps({"conn_type": "mlflow", "host": host})
        os.environ["FLIGHTS_FEATURES_HOME"] = f"{folder}/features"
        os.chdir(folder)
        sys.path.insert(0, str(DAGS))
        url = f"file://{folder}/store"
        if not arguments.fresh:
            month(url, "2013-02", "warm-up", arguments.fresh)
        first = month(url, "2013-01", "first", arguments.fresh)
        again = month(url, "2013-01", "again", arguments.fresh)
    print(f"\n{'seconds (CPU seconds)':24}{'first':>18}{'again':>18}")
    for name, (seconds, cpu) in first.items():
        print(f"  {name:22}{seconds:9.2f} ({cpu:6.2f}){again[name][0]:9.2f} ({again[name][1]:6.2f})")
    whole = share(first, again)
    print(f"\nThe rerun costs {whole:.1%} of the first run.")
    figures = {name: {"first": first[name], "again": again[name]} for name in first}
    print(json.dumps({"all": round(whole, 4), "met": whole <= TARGET, "steps": figures}))


@contextmanager
def server(folder: str, database: str) -> Iterator[str]:
    """Start an MLflow server with its files in ``folder``, and return its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = "127.0.0.1", free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        address[0],
        "--port",
        str(address[1]),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", database, "--artifacts-destination", f"{folder}/artifacts"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(f"{folder}/server.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(SECONDS_TO_START):
            if process.poll() is not None:
                break
            try:
                socket.create_connection(address, timeout=1).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://{address[0]}:{address[1]}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def share(first: Costs, again: Costs) -> float:
    return sum(cpu for _, cpu in again.values()) / sum(cpu for _, cpu in first.values())


def month(url: str, window: str, run_id: str, fresh: bool) -> Costs:
    """Run the steps of the example for one month, and return the seconds and CPU seconds of each."""
    import flights  # type: ignore[import-not-found]

    costs: Costs = {}

    def step(name: str, spec: dict[str, Any], task_id: str = "") -> dict[str, Any]:
        started, before = time.perf_counter(), cpu_seconds()
        result = run(url, name, spec, run_id, task_id or name, fresh)
        seconds, cpu = costs.get(name, (0.0, 0.0))
        costs[name] = (seconds + time.perf_counter() - started, cpu + cpu_seconds() - before)
        return result

    data = {"null_values": ["NA"]}
    timed = {"time_column": "time_hour", "window": window, **data}
    raw = step("ingest", {"name": "flights", "files": [f"zip://flights.csv::{flights.DATA}/flights.csv.zip"], **timed})
    weather = step("ingest", {"name": "weather", "files": [f"{flights.DATA}/weather.csv"], **timed}, "weather")
    planes = step("ingest", {"name": "planes", "files": [f"{flights.DATA}/planes.csv"], **data}, "planes")
    valid = step("validate", {"dataset": raw, "suite": flights.SUITE, "on_failure": "quarantine"})
    sources = {"weather": weather, "planes": {"dataset": planes, "valid_from": "2013-01-01"}}
    features = step("materialize_features", {"repo": flights.FEATURES, "window": window, "sources": sources})
    rows = step(
        "training_set", {"name": "rows", "entities": valid, "label": flights.LABEL, "split": "time", **flights.JOIN}
    )
    trainer = {
        "kind": "sklearn",
        "estimator": "sklearn.ensemble.HistGradientBoostingClassifier",
        "params": {"max_iter": 80, "learning_rate": 0.05, "max_leaf_nodes": 15},
    }
    fitted = step("train", {"dataset": rows, "model": flights.MODEL, "trainer": trainer})
    verdict = step("evaluate", {"candidates": [fitted]})
    made_by = [
        (result["cached"] or {}).get("run_id") for result in (raw, weather, valid, features, rows, fitted, verdict)
    ]
    assert made_by == ["first" if run_id == "again" else None] * 7, made_by
    return costs


def run(url: str, step: str, spec: dict[str, Any], run_id: str, task_id: str, fresh: bool) -> dict[str, Any]:
    from importlib import import_module

    module = import_module(f"airflow_mlops.stages.{step}.spec")
    kind = getattr(module, f"{step.title().replace('_', '')}Spec")
    content = parse(kind, spec, step).model_dump(mode="json")
    provenance = Provenance(dag_id="flights", run_id=run_id, task_id=task_id)
    call = StepCall(
        step=step,
        spec=content,
        store=url,
        key=result_key(step, content, provenance),
        version=__version__,
        provenance=provenance,
        cache="use",
    )
    if not fresh:
        from airflow_mlops.stages.runner import run_call

        return run_call(call)
    subprocess.run([sys.executable, "-m", "airflow_mlops.stages"], input=call.model_dump_json(), text=True, check=True)
    result = read_result(ArtifactStore(url), call.key)
    assert result is not None
    return result


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
