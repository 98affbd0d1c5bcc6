"""A challenger scores in the shadow of a real server. Its crash does not affect answers, and its predictions are evidence."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import psutil
import pytest
import requests

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from tests.integration.serving.test_server import served
from tests.support.candidates import held_out, register, training_set


@pytest.fixture
def model(client, store, tmp_path, mlflow_server):
    """A model whose champion is its first version and whose challenger, the second, is better."""
    name = f"delays_{uuid.uuid4().hex[:8]}"
    dataset = training_set(store, name=f"{name}_training")
    versions = [
        register(client, tmp_path / f"v{number}", dataset, weights, model=name)
        for number, weights in enumerate([(1, 2), (2, 0)])
    ]
    for alias, ref in zip(("champion", "challenger"), versions, strict=True):
        client.set_registered_model_alias(name, alias, str(ref.version))
    return SimpleNamespace(model=name, url=store.url, mlflow=mlflow_server, versions=versions)


def metric(server, name: str) -> float:
    lines = requests.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.split()[0] == name)


def wait_for(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


def rows(number: int):
    data = held_out(rows=number, seed=7).to_pylist()
    return [{**row, "flight": 10_000 + row["flight"]} for row in data]


def test_the_shadow_is_logged_apart_and_decides_with_the_labels(client, store, model, tmp_path):
    data = rows(600)
    with served(model, tmp_path / "spool", "--shadow", "challenger") as server:
        wait_for(lambda: metric(server, "mlops_serve_shadow_version") == 2)
        for start in range(0, 600, 20):
            some = [{name: value for name, value in row.items() if name != "label"} for row in data[start : start + 20]]
            answer = requests.post(server.predict, json={"rows": some}, timeout=20)
            assert (answer.status_code, answer.json()["version"]) == (200, 1)
        wait_for(lambda: metric(server, "mlops_serve_shadow_rows_total") == 600)
        assert metric(server, "mlops_serve_shadow_dropped_rows_total") == 0
        assert metric(server, "mlops_serve_shadow_failed_rows_total") == 0
    # All predictions were written before the server ended.
    later = datetime.now(timezone.utc) + timedelta(days=1)
    merge(store, model.model, f"{model.model}_predictions", later)
    merge(store, model.model, f"{model.model}_shadow_predictions", later, apart="shadow")
    evidence = []
    for kind, version in (("", 1), ("_shadow", 2)):
        found = PredictionLog(store, model.model, f"{model.model}{kind}_predictions").present()
        assert {item.manifest.details["model_version"] for item in found} == {version}
        assert sum(item.rows for item in found) == 600
        labels = write_labels(store, model, data, found)
        for item in found:
            spec = JoinLabelsSpec(
                predictions=item.ref, labels=labels, on=["flight"], label="label", name=f"{model.model}{kind}_outcomes"
            )
            evidence.append(join_labels.run(spec, StepContext(store=store)).dataset)
    spec = EvaluateSpec(candidates=[model.versions[1]], evidence=evidence)
    verdict = evaluate.run(spec, StepContext(store=store)).verdict
    assert (verdict.champion, verdict.winner) == tuple(model.versions)
    assert verdict.live.model_dump() == {"rows": 600, "unpaired": 0, "repeated": 0, "unlabelled": 0}


def write_labels(store, model, data, predictions):
    import pyarrow as pa

    windows = [item.window for item in predictions]
    with DatasetWriter(store, f"{model.model}_arrivals") as writer:
        writer.write(pa.table({name: [row[name] for row in data] for name in ("flight", "label")}))
        window = Window(start=min(item.start for item in windows), end=max(item.end for item in windows))
        return writer.commit(window=window)[0].ref


def test_a_crashed_shadow_affects_no_answer_and_starts_again(client, model, tmp_path):
    row = {"distance": 1.0, "wind": 0.0}
    with served(model, tmp_path / "spool", "--shadow", "challenger") as server:
        wait_for(lambda: metric(server, "mlops_serve_shadow_version") == 2)
        (shadow,) = [
            item
            for item in psutil.Process(server.process.pid).children()
            if "airflow_mlops.serving.processes.shadow" in item.cmdline()
        ]
        # Where all cores are busy, the shadow waits for the server.
        assert shadow.nice() > psutil.Process(server.process.pid).nice()
        statuses = []
        for number in range(100):
            if number == 30:
                shadow.suspend()
            if number == 60:
                shadow.kill()
            statuses.append(requests.post(server.predict, json={"rows": [row]}, timeout=20).status_code)
        assert statuses == [200] * 100
        # All rows are counted, also those that were sent to the process and never read.
        counts = [f"mlops_serve_shadow_{name}_total" for name in ("rows", "dropped_rows", "failed_rows")]
        wait_for(lambda: sum(metric(server, name) for name in counts) == 100)
        assert metric(server, counts[1]) >= 30
        wait_for(lambda: metric(server, "mlops_serve_shadow_version") == 2)
        (ended,) = [line for line in server.lines if "ended (exit status -9)" in line]
        assert ended.rstrip().endswith("It starts again in 2 seconds.")
        # Without the alias, nothing is scored in the shadow.
        client.delete_registered_model_alias(model.model, "challenger")
        wait_for(lambda: metric(server, "mlops_serve_shadow_version") == 0)
        assert requests.post(server.predict, json={"rows": [row]}, timeout=20).status_code == 200
