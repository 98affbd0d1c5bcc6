"""Writes ``f9fd193.zip``: a store, an MLflow and the calls that filled them, by the code of commit f9fd193.

Run it in a checkout of that commit, with the locked dependencies: ``python write.py FOLDER``. The archive is checked in
and is not written again; this file documents how it was made.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(sys.argv[1])
PORT = 18765
os.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"] = json.dumps({"conn_type": "mlflow", "host": f"http://127.0.0.1:{PORT}"})
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def flights(month: int, rows: int = 700) -> pa.Table:
    random = np.random.default_rng(month)
    hour, distance = random.integers(5, 23, rows), random.gamma(2, 500, rows)
    carrier = random.choice(["AA", "DL", "UA"], rows)
    humid = random.uniform(20, 100, rows) + (30 if month == 3 else 0)
    sign = -1 if month == 3 else 1
    logit = -3 + sign * 0.25 * (hour - 10) + 0.03 * humid + (carrier == "UA")
    late = random.random(rows) < 1 / (1 + np.exp(-logit))
    start = np.datetime64(f"2013-{month:02d}-01T00:00:00", "us")
    times = start + np.sort(random.integers(0, 27 * 86_400, rows)).astype("timedelta64[s]")
    return pa.table(
        {
            "flight": pa.array([f"{month}-{number}" for number in range(rows)]),
            "time": pa.array(times, pa.timestamp("us", "UTC")),
            "hour": hour,
            "distance": distance,
            "carrier": carrier,
            "humid": humid,
            "arr_delay": np.where(late, 40.0, 3.0),
        }
    )


def main() -> None:
    from airflow_mlops.artifacts.results import result_key
    from airflow_mlops.artifacts.store import ArtifactStore
    from airflow_mlops.specs.base import Provenance, StepCall
    from airflow_mlops.steps.runner import run_call

    from airflow_mlops import __version__

    store = ArtifactStore(f"file://{FOLDER}/store")
    calls = []

    def call(step: str, run: str, **fields):
        import importlib
        from typing import get_type_hints

        from airflow_mlops.specs.base import parse

        module = importlib.import_module(f"airflow_mlops.steps.{step}")
        spec = parse(get_type_hints(module.run)["spec"], fields, step).model_dump(mode="json")
        provenance = Provenance(dag_id="flights", run_id=run, task_id=step, user="ada", partition_key=run)
        key = result_key(step, spec, provenance, 0)
        made = StepCall(step=step, spec=spec, store=store.url, key=key, version=__version__, provenance=provenance)
        result = run_call(made)
        calls.append(
            {"step": step, "spec": spec, "key": key, "result": result, "provenance": provenance.model_dump(mode="json")}
        )
        print(step, run, result["summary"])
        return result

    def train(run: str, entities: list[str]):
        data = call(
            "training_set",
            run,
            name="delays_training",
            entities={"name": "flights", "window": "/".join(entities)},
            timestamp="time",
            columns=["hour", "distance", "carrier", "humid"],
            keys=["flight"],
            label={"name": "late", "expression": "arr_delay > 15"},
            split="random",
        )
        fits = [
            call("train", run, dataset=data["dataset"], model="delays", trainer=trainer)
            for trainer in (
                {"kind": "sklearn", "estimator": "sklearn.linear_model.LogisticRegression"},
                {
                    "kind": "sklearn",
                    "estimator": "sklearn.ensemble.HistGradientBoostingClassifier",
                    "params": {"max_iter": 10},
                },
            )
        ]
        verdict = call("evaluate", run, candidates=[fit["candidate"] for fit in fits])
        return call("promote", run, verdict=verdict["verdict"])

    for month in (1, 2, 3, 4):
        file = FOLDER / f"flights_{month}.parquet"
        pq.write_table(flights(month), file)
        call(
            "ingest",
            f"2013-{month:02d}",
            name="flights",
            window=f"2013-{month:02d}",
            files=[f"file://{file}"],
            time_column="time",
        )
        if month == 1:
            train("2013-01", ["2013-01", "2013-02"])
            continue
        features = call(
            "training_set",
            f"score-{month}",
            name="delays_features",
            entities={"name": "flights", "window": f"2013-{month:02d}"},
            timestamp="time",
            columns=["hour", "distance", "carrier", "humid"],
            keys=["flight"],
            split=None,
        )
        scored = call(
            "score", f"2013-{month:02d}", model="delays", dataset=features["dataset"], window=f"2013-{month:02d}"
        )
        joined = call(
            "join_labels",
            f"2013-{month:02d}",
            predictions=scored["dataset"],
            labels={"name": "flights", "window": f"2013-{month:02d}"},
            on=["flight", "time"],
            label={"name": "late", "expression": "arr_delay > 15"},
            name="delays_labelled",
        )
        call("monitor", f"2013-{month:02d}", model="delays", dataset=joined["dataset"], policy={"metric": "roc_auc"})
        if month == 3:
            train("2013-03", ["2013-03", "2013-04"])
    call("rollback", "back", model="delays", reason="the new version is too slow")
    (FOLDER / "calls.json").write_text(json.dumps(calls, indent=1))


if __name__ == "__main__":
    FOLDER.mkdir(parents=True)
    (FOLDER / "mlflow").mkdir()
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(PORT),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{FOLDER}/mlflow/mlflow.db",
            "--artifacts-destination",
            f"{FOLDER}/mlflow/artifacts",
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
    )
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=1).read()
                break
            except OSError:
                time.sleep(0.5)
        main()
    finally:
        import signal

        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)
