"""The pages in Airflow's UI, used in a real browser: what is shown, and what users do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.findings import Bin, Drift
from airflow_mlops.overview import candidates, index
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Report, Verdict
from airflow_mlops.policy.spec import Policy
from tests.integration.live.test_live_approval import Model
from tests.support import flights_year
from tests.support.live import LiveAirflow

ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Browse = Callable[..., dict[str, Any]]
PLANTED = "<script>alert(1)</script>"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and shutil.which("node")), reason="the pages need a browser: install chromium and nodejs"
    ),
    pytest.mark.skipif(
        not (ROOT / "airflow_mlops/plugin/www/node_modules/playwright-core").is_dir(),
        reason="the pages are driven by Playwright: run npm ci in airflow_mlops/plugin/www",
    ),
]

DAGS = """
from pathlib import Path
import json
from airflow.sdk import DAG, Asset, task
from airflow_mlops.operators import Approval, PromoteOperator

with DAG("ui_promote"):
    @task
    def evaluate(dag_run=None):
        return json.loads(Path(dag_run.conf["verdict"]).read_text())
    PromoteOperator(task_id="promote", verdict=evaluate(), approval=Approval())

with DAG("ui_retrain", schedule=[Asset("mlops://{model}/retrain")]):
    @task
    def train():
        pass
    train()
"""


@pytest.fixture(scope="module")
def model(airflow: LiveAirflow, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model with a year of reports; the last one is watched."""
    from mlflow import MlflowClient

    made = Model(airflow, MlflowClient(mlflow_server, mlflow_server), tmp_path_factory.mktemp("ui"))
    store = ArtifactStore(f"file://{airflow.home}/artifacts")
    with DatasetWriter(store, f"{made.name}_training") as writer:
        writer.write(pa.table({"a": [1, 2]}))
        manifest, _ = writer.commit(window=Window.model_validate("2013-Q1"))
    asked = json.loads(made.verdict.read_text())
    made.verdict.write_text(json.dumps({**asked, "dataset_name": manifest.name, "dataset_id": manifest.id}))
    for month in range(1, 13):
        publish(store, made.versions[0], month)
    # Update the index as the step does. Only the first reader of a store computes the index, and other tests have read it.
    index.update(store, made.name, "monitoring")
    (airflow.dags / "ui.py").write_text(DAGS.format(model=made.name))
    airflow.parsed("ui_promote")
    airflow.parsed("ui_retrain")
    return made


def publish(store: ArtifactStore, version: ModelVersionRef, month: int) -> None:
    value = 0.7 + 0.01 * (month % 3)
    level = Performance(metric="roc_auc", value=value, low=value - 0.01, high=value + 0.01, reference=0.71, labels=100)
    drift = Drift(
        column=PLANTED, kind="categorical", effect=0.3, drifted=True, importance=0.5,
        bins=[Bin(label=PLANTED, reference=0.4, current=0.7), Bin(label="b", reference=0.6, current=0.3)],
    )  # fmt: skip
    decision = "watch" if month == 12 else "healthy"
    report = Report(
        model=version.model,
        window=Window.model_validate(f"2013-{month:02d}"),
        created=Window.model_validate(f"2013-{month:02d}").end,
        policy=Policy(),
        scored_by=version,
        rows=1000,
        labelled=900,
        coverage=0.9,
        performance=level,
        features=[drift],
        verdict=Verdict(decision=decision, headline=f"{PLANTED} drifted", details=[PLANTED], reason=PLANTED),
    )
    store.write_json(archive.key(store, version.model, report.window), report.model_dump(mode="json"))


@pytest.fixture(scope="module")
def year(airflow: LiveAirflow, mlflow_server: str) -> str:
    """The name of a model with the history of the flights' year, and that of a model that was only trained: NAME_new."""
    from mlflow import MlflowClient

    client, name = MlflowClient(mlflow_server, mlflow_server), f"flights_{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    run = client.create_run("0").info
    for _ in range(flights_year.VERSIONS):
        client.create_model_version(name, f"{run.artifact_uri}/model", run.run_id)
    store = ArtifactStore(f"file://{airflow.home}/artifacts")
    flights_year.write(store, name, run.run_id)
    candidates.trained(store, ModelVersionRef(model=f"{name}_new", version=1, run_id=run.run_id), f"{name}_train")
    return name


@pytest.fixture(scope="module")
def browse(airflow: LiveAirflow) -> Iterator[Browse]:
    """Runs one command of ``tests/browser/ui.mjs``; no script in the data may run, and no request may go to another host."""
    with subprocess.Popen(
        ["node", str(ROOT / "tests/browser/ui.mjs"), airflow.url, airflow.token()],
        env={**os.environ, "CHROMIUM": str(CHROMIUM)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as browser:  # fmt: skip
        assert browser.stdin is not None
        assert browser.stdout is not None

        def run(command: str, *arguments: Any) -> dict[str, Any]:
            limit = Timer(900, browser.kill)
            limit.start()
            print(json.dumps([command, *arguments]), file=browser.stdin, flush=True)
            answer: dict[str, Any] = json.loads(browser.stdout.readline())
            limit.cancel()
            assert "error" not in answer, answer["error"]
            assert answer["problems"] == []
            assert answer["hosts"] == [airflow.url.removeprefix("http://")]
            return answer

        yield run
        # The browser ends when its standard input is closed.
        browser.stdin.close()


def page(model: str, tab: str) -> str:
    return f"/plugin/mlops/{quote(model)}?tab={tab}"


def test_pages_can_be_used_with_the_keyboard_alone(browse: Browse, model: Model) -> None:
    browse("keyboard", model.name, "2013-02")


def test_actions_of_users_are_in_the_ledger(airflow: LiveAirflow, browse: Browse, model: Model) -> None:
    def start() -> str:
        run_id = airflow.trigger("ui_promote", {"verdict": str(model.verdict)})
        airflow.request_for_approval("ui_promote", run_id)
        return run_id

    run_id = start()
    browse("act", model.name, [("Approve", "Approve", PLANTED)])
    airflow.wait_for_success("ui_promote", run_id)
    assert model.champion() == 2
    acknowledge = ("Acknowledge", "Acknowledge", "It snowed.")
    retrain = ("Request retraining", "Request retraining", "Snow.")
    roll_back = ("Roll back", "Roll back to version 1", "It was better.")
    said = browse("act", model.name, [acknowledge, retrain, roll_back])["said"]
    assert "2013-12" in said[0]
    assert "ui_retrain" in said[1]
    assert model.champion() == 1
    run_id = start()
    browse("act", model.name, [("Reject", "Reject", "Too slow.")])
    airflow.wait_for_success("ui_promote", run_id)

    found = model.entries()
    assert [entry.decision for entry in found] == ["promoted", "acknowledged", "requested", "rolled_back", "refused"]
    assert [found[0].approval.by, found[0].approval.note, found[4].approval.note] == ["admin", PLANTED, "Too slow."]
    assert [entry.reason for entry in found[1:4:2]] == ["It snowed.", "It was better."]
    assert {entry.provenance.user for entry in found[1:4]} == {"admin"}


def test_pages_are_readable_in_both_colour_modes_on_wide_and_narrow_screens(
    airflow: LiveAirflow, browse: Browse, model: Model, year: str
) -> None:
    run_id = quote(airflow.runs("ui_promote")[0]["dag_run_id"])
    task = f"/dags/ui_promote/runs/{run_id}/tasks"
    # Each page, with the texts that it must show. Planted markup is shown as text.
    pages = [
        (f"/plugin/mlops?q={model.name}", model.name, PLANTED),
        (page(model.name, "timeline"), "Report of 2013-12", PLANTED),
        (page(model.name, "drift"), "drifted", PLANTED),
        (page(model.name, "decisions"), "Rollback", PLANTED),
        (page(model.name, "versions"), "passed", model.name),
        (page(model.name, "data"), "2013-Q1: 2 rows", f"{model.name}_training"),
        ("/dags/ui_promote/plugin/mlops-models", "Trains", model.name),
        (f"{task}/promote/plugin/mlops-result", "Promoted", PLANTED),
        (f"{task}/evaluate/plugin/mlops-result", "no machine-learning result"),
        (f"/plugin/mlops?q={year}", year, f"{year}_new", "fell significantly"),
        (page(year, "timeline"), "Report of 2013-12", "Retraining was requested", "Version 5 was trained"),
        (page(year, "drift"), "weather_hourly__wind_speed", "broken"),
        (page(year, "decisions"), "Refusal", "The chain of hashes is intact", "failed 1"),
        (page(year, "versions"), "champion", "max_single_feature_score", "failed"),
        (page(year, "data"), f"{year}_flights", f"{year}_predictions", "From raw data to predictions"),
        (page(f"{year}_new", "timeline"), "There is no champion", "Version 1 was trained"),
    ]
    browse("pages", pages)
