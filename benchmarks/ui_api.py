"""The data of the pages of models: how long it takes, and how many requests to the artifact store.

``python -m benchmarks.ui_api [--models 500] [--windows 1000] [--stores file s3] [--skip-mlflow]``. The reports, ledgers and
predictions of all models are written into the layout of the store. A process that has read nothing yet (*cold*), and one that
has read the list before (*warm*), answer ``GET /mlops/api/models``, ``GET /mlops/api/models/MODEL`` and the drift of the model,
from Airflow's API server, as a user who may read all DAGs. Each model has two DAGs. On S3 (moto), a proxy counts the requests
and delays each by 50 ms. For comparison, MLflow's REST API lists the same number of registered models. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
import urllib.request
import warnings
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.findings import Drift
from airflow_mlops.overview import index
from airflow_mlops.overview import models as models_of
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Report, Verdict
from airflow_mlops.policy.spec import Policy
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.store import Meter

REPEATS = 5
DECISIONS = 20
FEATURES = 20
_START = datetime(2013, 1, 1, tzinfo=timezone.utc)


def fill(store: ArtifactStore, models: int, windows: int) -> list[str]:
    """Write the reports and the ledgers of all models. The reports differ only in the name of the model."""
    names = [f"model_{number:03}" for number in range(models)]
    spans = [Window(start=_START + timedelta(days=day), end=_START + timedelta(days=day + 1)) for day in range(windows)]
    contents = [
        (span, json.dumps(_report("NAME", span, number).model_dump(mode="json"))) for number, span in enumerate(spans)
    ]
    for name in names:
        for span, content in contents:
            path = store.local_path(archive.key(store, name, span))
            assert path is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content.replace('"NAME"', f'"{name}"'))
            path.with_suffix(".html").touch()
        _decide(store, name)
    return names


def _report(model: str, span: Window, number: int) -> Report:
    value = 0.7 + 0.05 * ((number * 37) % 11) / 11
    measured = Performance(
        metric="roc_auc", value=value, low=value - 0.02, high=value + 0.02, reference=0.74, labels=900
    )
    headline = "Realised ROC AUC is not worse than the limit allows"
    return Report(
        model=model,
        window=span,
        created=span.end,
        policy=Policy(),
        scored_by=ModelVersionRef(model=model, version=1 + number // 100, run_id=""),
        rows=1000,
        labelled=900,
        coverage=0.9,
        performance=measured,
        features=[
            Drift(column=f"feature_{item}", kind="numeric", effect=0.01 * item, drifted=item > FEATURES // 2)
            for item in range(FEATURES)
        ],
        verdict=Verdict(decision="healthy", headline=headline, reason=headline),
        provenance=Provenance(dag_id=f"{model}_monitor", run_id=span.key, task_id="monitor"),
    )


def _decide(store: ArtifactStore, model: str) -> None:
    ledger = Ledger(store, model)
    for number in range(1, DECISIONS + 1):
        decision = Decision(
            decision="promoted",
            replaced=ModelVersionRef(model=model, version=number - 1, run_id="") if number > 1 else None,
            champion=ModelVersionRef(model=model, version=number, run_id=""),
            provenance=Provenance(dag_id=f"{model}_train", run_id=str(number), task_id="promote"),
            reason="It is better than the champion.",
        )
        ledger.record(f"promotion-{number}", lambda _, decision=decision: decision)


def _add_dags(names: list[str]) -> None:
    """Add the DAGs that train and monitor the models to Airflow's database."""
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(DagBundleModel(name="bench"))
        session.flush()
        for dag_id in (f"{name}_{work}" for name in names for work in ("train", "monitor")):
            facts = {"fileloc": "x.py", "owners": "team", "is_paused": False, "is_stale": False}
            session.add(DagModel(dag_id=dag_id, bundle_name="bench", **facts))


@contextmanager
def api(home: Path, names: list[str]) -> Iterator[Callable[[str], Any]]:
    """Start Airflow's API server in this process. Yield a function that gets a path and returns what the API answers."""
    os.environ.update(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="True",
    )
    from airflow.api_fastapi.app import create_app
    from airflow.utils.db import initdb
    from fastapi.testclient import TestClient

    initdb()
    _add_dags(names)
    client = TestClient(create_app(apps="core"), base_url="http://localhost")
    client.get("/mlops/api/openapi.json").raise_for_status()

    def get(path: str) -> Any:
        answer = client.get(f"/mlops/api/{path}")
        answer.raise_for_status()
        return answer.json()

    yield get


def measured(
    get: Callable[[str], Any], path: str, meter: Meter | None, delay: float, *, cold: bool
) -> dict[str, float]:
    """Return the median seconds in ms, and the largest number of requests, of several answers."""
    times, requests = [], [0]
    for _ in range(REPEATS):
        if cold:
            index.forget()
        began = time.perf_counter()
        if meter is None:
            get(path)
        else:
            with meter.measured(delay) as figures:
                get(path)
            requests.append(figures["requests"])
        times.append(1000 * (time.perf_counter() - began))
    return {"ms": round(statistics.median(times), 1), "requests": max(requests)}


def pages(
    get: Callable[[str], Any], names: list[str], meter: Meter | None, delay: float
) -> dict[str, dict[str, float]]:
    """Measure both pages, from cold and warm processes."""
    found = get("models")["models"]
    assert [item["name"] for item in found] == names
    whole = get(f"models/{names[0]}")
    assert whole["problems"] == []
    assert len(get(f"models/{names[0]}/drift")["features"]) == FEATURES
    print(
        f"  {len(found)} models; {len(whole['windows'])} windows and {len(whole['decisions'])} decisions of the first"
    )
    return {
        "models, cold": measured(get, "models", meter, delay, cold=True),
        "models, warm": measured(get, "models", meter, delay, cold=False),
        "a model, cold": measured(get, f"models/{names[0]}", meter, delay, cold=True),
        "a model, warm": measured(get, f"models/{names[0]}", meter, delay, cold=False),
        "its drift": measured(get, f"models/{names[0]}/drift", meter, delay, cold=True),
    }


def mlflow_list(names: list[str], work: Path) -> float:
    """Return the milliseconds that MLflow takes to list as many registered models, from its REST API."""
    import mlflow

    from tests.integration.conftest import run_mlflow

    with run_mlflow(work / "mlflow", "127.0.0.1") as address:
        client = mlflow.MlflowClient(address, address)
        run = client.create_run("0")
        for name in names:
            client.create_registered_model(name)
            client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
            client.set_registered_model_alias(name, "champion", "1")
        times = []
        for _ in range(REPEATS):
            began, token, count = time.perf_counter(), "", 0
            while True:
                # The same request as from the pages, with the largest number of models in one response.
                query = f"max_results=1000&page_token={token}"
                with urllib.request.urlopen(f"{address}/api/2.0/mlflow/registered-models/search?{query}") as answer:
                    found = json.load(answer)
                count += len(found["registered_models"])
                token = found.get("next_page_token")
                if not token:
                    break
            assert count == len(names)
            times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 1)


def printed(title: str, found: dict[str, dict[str, float]]) -> None:
    print(f"\n{title:30}{'ms':>10}{'requests':>10}")
    for name, figures in found.items():
        print(f"{name:30}{figures['ms']:>10.1f}{figures['requests']:>10}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--stores", nargs="+", choices=("file", "s3"), default=["file", "s3"])
    parser.add_argument("--skip-mlflow", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    figures: dict[str, Any] = {}
    work = Path(tempfile.mkdtemp(prefix="mlops-bench-"))
    try:
        local = ArtifactStore((work / "store").as_uri())
        began = time.perf_counter()
        names = fill(local, arguments.models, arguments.windows)
        print(f"Written in {time.perf_counter() - began:.0f} s.", flush=True)
        began = time.perf_counter()
        assert index.rebuild(local) == names
        print(f"The index was built in {time.perf_counter() - began:.0f} s.", flush=True)
        with api(work / "airflow", names) as get:
            if "file" in arguments.stores:
                os.environ["AIRFLOW__MLOPS__ARTIFACTS"] = local.url
                found = pages(get, names, None, 0.0)
                printed("Local folder", found)
                figures["models_cold_ms"] = found["models, cold"]["ms"]
                figures["models_ms"] = found["models, warm"]["ms"]
                figures["drift_ms"] = found["its drift"]["ms"]
                figures["model_ms"] = max(found["a model, cold"]["ms"], found["a model, warm"]["ms"])
            if "s3" in arguments.stores:
                figures |= _on_s3(get, local, names)
        if not arguments.skip_mlflow:
            figures["mlflow_ms"] = mlflow_list(names, work)
            print(f"\nMLflow lists {len(names)} registered models in {figures['mlflow_ms']} ms.")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(figures))


def _on_s3(get: Callable[[str], Any], local: ArtifactStore, names: list[str]) -> dict[str, Any]:
    from benchmarks import store as stores

    meter = stores.Meter()
    with stores.s3(meter, None) as url:
        remote = ArtifactStore(f"{url}/ui")
        # moto would take an hour for the reports of all models. The pages read those of one model only.
        first = names[0]
        for folder in (f"reports/{first}", f"ledger/{first}"):
            remote.fs.put(f"{local.path(folder)}/", f"{remote.path(folder)}/", recursive=True)
        remote.fs.put(f"{local.path('indexes/models')}/", f"{remote.path('indexes/models')}/", recursive=True)
        index.update(remote, first, "monitoring")
        os.environ["AIRFLOW__MLOPS__ARTIFACTS"] = remote.url
        models_of.model(remote, first)
        index.read(remote)
        found = pages(get, names, meter, stores.DELAY)
        printed("S3, 50 ms for each request", found)
    return {
        "models_s3_ms": found["models, warm"]["ms"],
        "model_s3_ms": max(found["a model, cold"]["ms"], found["a model, warm"]["ms"]),
        "requests": max(int(item["requests"]) for item in found.values()),
    }


if __name__ == "__main__":
    main()
