"""The JSON API in Airflow's API server, with the roles of SimpleAuthManager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.integration.plugin.conftest import client
from tests.support import reports
from tests.support.models import promote, score, version

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from airflow_mlops.data.store import ArtifactStore

SCRIPT = "<script>alert(1)</script>"


READS = ("models", "models/delays", "dags/train")


@pytest.mark.parametrize("path", READS)
def test_without_a_login_the_answer_is_401(app: Any, store: ArtifactStore, path: str) -> None:
    promote(store, 1)
    assert client(app, None).get(f"/mlops/api/{path}").status_code == 401


@pytest.mark.parametrize(("role", "acts"), [("viewer", False), ("user", True), ("op", True), ("admin", True)])
def test_every_role_sees_a_model_and_those_who_edit_its_dag_act(
    app: Any, store: ArtifactStore, role: str, acts: bool
) -> None:
    promote(store, 1, reason=SCRIPT)
    score(store, "2013-01")
    reports.publish(store, "2013-01", "watch")
    as_role = client(app, role)
    listed = as_role.get("/mlops/api/models").json()
    assert listed["problems"] == []
    [found] = listed["models"]
    assert (found["name"], found["can_act"]) == ("delays", acts)
    assert (found["owner"], found["tags"]) == ("team-score, team-train", ["tag-score", "tag-train"])
    assert found["champion"]["reason"] == SCRIPT
    response = as_role.get("/mlops/api/models/delays")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    whole = response.json()
    assert {name: whole[name] for name in found} == found
    assert [point["window"]["label"] for point in whole["windows"]] == ["2013-01"]
    assert whole["chain"] == {"intact": True, "problem": None}
    assert as_role.get("/mlops/api/dags/score").json()["models"] == [found]


def test_a_model_that_the_user_may_not_see_is_like_one_that_does_not_exist(
    app: Any, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    promote(store, 1)
    reports.publish(store, "2013-01", model="without_dag")
    allowed = SimpleAuthManager.is_authorized_dag

    def only_score(self: Any, *, details: Any = None, **rest: Any) -> bool:
        return details is not None and details.id == "score" and allowed(self, details=details, **rest)

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", only_score)
    user = client(app, "user")
    assert user.get("/mlops/api/models").json()["models"] == []
    answers = [user.get(f"/mlops/api/models/{name}") for name in ("delays", "without_dag", "nothing")]
    assert {(answer.status_code, answer.text) for answer in answers} == {(404, answers[-1].text)}
    assert user.get("/mlops/api/dags/train").status_code == 404
    score(store, "2013-01")
    from airflow_mlops.overview import candidates, index

    index.update(store, "delays", "scoring")
    assert [item["name"] for item in user.get("/mlops/api/models").json()["models"]] == ["delays"]
    assert user.get("/mlops/api/models/delays").status_code == 200
    for trained, dag_id in (("trained", "score"), ("trained_elsewhere", "train"), ("trained_by_hand", "")):
        candidates.trained(store, version(1, trained), dag_id)
    assert [item["name"] for item in user.get("/mlops/api/models").json()["models"]] == ["delays", "trained"]
    for page in ("", "/drift", "/versions", "/data"):
        assert user.get(f"/mlops/api/models/trained{page}").status_code == 200
        assert user.get(f"/mlops/api/models/trained_elsewhere{page}").status_code == 404
    listed = user.get("/mlops/api/dags/score").json()["models"]
    assert [(item["name"], item["candidate"]["version"]) for item in listed if item["candidate"]] == [("trained", 1)]


def test_a_store_that_cannot_be_read_is_a_problem(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACTS", "file:///proc/version/mlops")
    found = client(app, "viewer").get("/mlops/api/models")
    assert found.status_code == 200
    assert found.json()["models"] == []
    assert "/proc/version" in found.json()["problems"][0]


def test_the_description_names_every_route(app: Any) -> None:
    paths = client(app, "viewer").get("/mlops/api/openapi.json").json()["paths"]
    assert {"/models", "/models/{name}", "/dags/{dag_id}"} <= set(paths)


def test_drift_is_ranked_and_shows_the_distributions_of_a_cell(app: Any, store: ArtifactStore) -> None:
    from airflow_mlops.drift.findings import Bin, Drift

    def drift(column: str, effect: float, importance: float, drifted: bool = True) -> Drift:
        bins = [Bin(label=SCRIPT, reference=0.4, current=0.6)]
        return Drift(column=column, kind="numeric", effect=effect, importance=importance, drifted=drifted, bins=bins)

    promote(store, 1)
    for month, features in {
        "2013-01": [drift("small", 0.9, 0.01), drift("large", 0.5, 0.5)],
        "2013-02": [drift("large", 0.4, 0.5), drift("calm/x", 0.3, 0.9, drifted=False)],
    }.items():
        key = reports.publish(store, month)
        content = store.read_json(key)
        content["features"] = [item.model_dump(mode="json") for item in features]
        store.write_json(key, content)
    viewer = client(app, "viewer")
    found = viewer.get("/mlops/api/models/delays/drift").json()
    assert [item["column"] for item in found["features"]] == ["large", "small", "calm/x"]
    assert [window["label"] for window in found["windows"]] == ["2013-01", "2013-02"]
    assert [[cell and cell["effect"] for cell in row] for row in found["cells"]] == [
        [0.5, 0.4],
        [0.9, None],
        [None, 0.3],
    ]
    first = viewer.get("/mlops/api/models/delays/drift?features=1&windows=1").json()
    assert (len(first["features"]), len(first["windows"])) == (1, 1)
    ends = {"start": found["windows"][1]["start"], "end": found["windows"][1]["end"]}
    cell = viewer.get("/mlops/api/models/delays/drift/calm%2Fx", params=ends).json()
    assert (cell["column"], cell["bins"]) == ("calm/x", [{"label": SCRIPT, "reference": 0.4, "current": 0.6}])
    assert viewer.get("/mlops/api/models/delays/drift/none", params=ends).status_code == 404
    wrong = viewer.get("/mlops/api/models/delays/drift/large", params={"start": ends["end"], "end": ends["start"]})
    assert wrong.status_code == 422


def test_versions_without_mlflow_are_those_of_the_ledger(app: Any, store: ArtifactStore) -> None:
    from airflow_mlops.registry.records.verdict import CandidateVerdict, GateResult, Refit

    gates = [
        GateResult(
            gate="roc_auc at least 0.6",
            measured=0.7,
            asked=0.6,
            passed=True,
            explanation="",
            low=0.65,
            high=0.75,
            confidence=0.975,
        )
    ]
    metrics = {"roc_auc": 0.7, "log_loss": 0.5}
    interval = {"log_loss": (0.4, float("inf"))}
    verdict = CandidateVerdict(candidate=version(1), metrics=metrics, gates=gates, passed=True, intervals=interval)
    refit = Refit(judged=version(1), version=version(2), rows=5, checks=[], passed=True, reason="")
    promote(store, 2, candidates=[verdict], refit=refit, replaced=None)
    found = client(app, "viewer").get("/mlops/api/models/delays/versions").json()
    two, one = found["versions"]
    assert (one["version"], one["champion"], one["judged"]) == (1, False, None)
    # The interval of a verdict of an earlier release is that of a gate on the metric.
    assert one["metrics"]["roc_auc"] == {"value": 0.7, "low": 0.65, "high": 0.75}
    assert one["metrics"]["log_loss"] == {"value": 0.5, "low": 0.4, "high": None}
    assert (two["version"], two["champion"], two["judged"], two["metrics"]) == (2, True, 1, one["metrics"])
    assert len(found["problems"]) == 1


def test_a_model_that_was_deleted_in_mlflow_is_shown_from_the_ledger(
    app: Any, store: ArtifactStore, mlflow_connection: str
) -> None:
    from mlflow import MlflowClient

    mlflow = MlflowClient(mlflow_connection, mlflow_connection)
    name = f"deleted-{store.url.rpartition('/')[2]}"
    mlflow.create_registered_model(name)
    used = {"seconds": 4, "cpu_seconds": 3, "peak_memory_mb": 300, "read_bytes": 10, "written_bytes": 1, "rows": 50}
    usage = {f"mlops.usage.{step}.{key}": str(value) for step in ("train", "evaluate") for key, value in used.items()}
    run = mlflow.create_run("0", tags={"mlops.verdict": "won", **usage}).info.run_id
    mlflow.create_model_version(name, f"runs:/{run}/model", run)
    promote(store, 1, model=name)
    score(store, "2013-01", name=f"{name}_predictions", model=name)
    viewer = client(app, "viewer")
    before = viewer.get(f"/mlops/api/models/{name}/versions").json()
    assert ([one["version"] for one in before["versions"]], before["problems"]) == ([1], [])
    assert before["versions"][0]["card"].endswith(f"/#/experiments/0/runs/{run}/artifacts/evaluation/model_card.html")
    assert before["versions"][0]["steps"] == ["evaluate", "train"]
    # The resources that the steps used are added up, except the peak memory.
    total = {key: value if key == "peak_memory_mb" else 2 * value for key, value in used.items()}
    assert before["versions"][0]["usage"] == {**total, "gpu_seconds": None, "rows": None}
    mlflow.delete_registered_model(name)
    found = viewer.get(f"/mlops/api/models/{name}/versions").json()
    [one] = found["versions"]
    assert (one["version"], one["champion"]) == (1, True)
    assert len(found["problems"]) == 1
    whole = viewer.get(f"/mlops/api/models/{name}").json()
    assert (whole["champion"]["version"], whole["scoring"]["version"]) == (1, 1)


def test_the_result_of_a_task_is_for_those_who_read_its_dag(app: Any, store: ArtifactStore) -> None:
    page = store.url_of("reports/delays/2013-01.html")
    store.write_json("results/train/run%2E1/check/-1/a-1.json", {"summary": "Old.", "promoted": False, "winner": None})
    store.write_json(
        "results/train/run%2E1/check/-1/b-1.json",
        {"summary": "Healthy.", "decision": "healthy", "report_url": page, "superseded": False, "model": "delays"},
    )
    import os
    from pathlib import Path

    os.utime(Path(store.path("results/train/run%2E1/check/-1/a-1.json")), (1, 1))
    viewer = client(app, "viewer")
    found = viewer.get("/mlops/api/tasks/train/run.1/check/-1").json()
    assert (found["kind"], found["model"], found["summary"]) == ("monitor", "delays", "Healthy.")
    assert found["result"]["report_url"].endswith("/mlops/artifacts/reports/delays/2013-01.html")
    assert viewer.get("/mlops/api/tasks/train/run.1/other/-1").status_code == 404
    store.write_json("results/hidden/r/check/-1/a-1.json", {"summary": "Private."})
    assert viewer.get("/mlops/api/tasks/hidden/r/check/-1").status_code == 404


def test_a_failed_validation_shows_its_outcomes_until_a_newer_result(app: Any, store: ArtifactStore) -> None:
    import os
    from pathlib import Path

    from airflow_mlops.stages.validate.outcomes import write_outcomes
    from airflow_mlops.stages.validate.spec import ExpectationOutcome

    key, viewer = "results/train/r/broken/-1/a-1.json", client(app, "viewer")
    given = [("is_set", True, "critical"), ("is_short", False, "critical"), ("is_new", False, "info")]
    outcomes = [ExpectationOutcome(expectation=name, success=met, severity=level) for name, met, level in given]
    write_outcomes(store, key, outcomes)
    found = viewer.get("/mlops/api/tasks/train/r/broken/-1").json()
    assert (found["kind"], found["summary"].partition(".")[0]) == ("validate", "1 of 3 expectations passed")
    assert [
        tuple(item[name] for name in ("expectation", "success", "severity")) for item in found["result"]["outcomes"]
    ] == given
    assert viewer.get("/mlops/api/tasks/train/r/broken/-1/samples").json()["rows"] == []
    # The next try writes the outcomes again, and then a result.
    store.write_json(key, {"summary": "Passed.", "success": True, "docs_url": None})
    assert viewer.get("/mlops/api/tasks/train/r/broken/-1").json()["summary"] == "Passed."
    os.utime(Path(store.path(key)), (1, 1))
    assert viewer.get("/mlops/api/tasks/train/r/broken/-1").json()["summary"] == found["summary"]


def written(store: ArtifactStore, name: str, columns: dict[str, list[Any]], **more: Any) -> Any:
    import pyarrow as pa

    from airflow_mlops.data.datasets import DatasetWriter

    with DatasetWriter(store, name) as writer:
        writer.write(pa.table(columns))
        dataset, _ = writer.commit(source={}, **more)
    return dataset.ref.model_dump(mode="json")


def test_quarantined_rows_are_for_those_who_read_assets(
    app: Any, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    rows = {
        "hour": [None] * 30,
        "note": [SCRIPT * 20, *"abc" * 9, "x", "y"],
        "failed_expectations": ["hour is set"] * 30,
    }
    ref = written(store, "flights_quarantine", rows)
    result = {"summary": "Failed.", "success": False, "docs_url": "", "quarantined": ref}
    store.write_json("results/train/r/check/-1/a.json", result)
    store.write_json("results/train/r/all_valid/-1/a.json", {**result, "quarantined": None})
    store.write_json("results/train/r/other_release/-1/a.json", {**result, "quarantined": {"rows": 3}})
    viewer = client(app, "viewer")
    unreadable = viewer.get("/mlops/api/tasks/train/r/other_release/-1/samples")
    assert unreadable.status_code >= 400
    assert "detail" in unreadable.json()
    path = "/mlops/api/tasks/train/r/check/-1/samples"
    found = viewer.get(path).json()
    assert (found["dataset"]["rows"], found["columns"]) == (30, ["failed_expectations", "hour", "note"])
    assert len(found["rows"]) == 20
    reason, hour, note = found["rows"][0]
    assert (reason, hour, len(note)) == ("hour is set", None, 200)
    assert viewer.get("/mlops/api/tasks/train/r/all_valid/-1/samples").json()["rows"] == []
    assert client(app, None).get(path).status_code == 401
    monkeypatch.setattr(SimpleAuthManager, "is_authorized_asset", lambda *_, **__: False)
    assert viewer.get(path).status_code == 403


def test_a_training_set_has_the_proof_of_its_split(app: Any, store: ArtifactStore) -> None:
    split = {"method": "time", "overlap": 0}
    result = {"summary": "Built.", "label": "late", "features": ["hour"]}
    path = "/mlops/api/tasks/train/r/set/-1"
    for ref, expected in (
        (written(store, "delays_training", {"x": [1]}, details={"split": split}), split),
        (written(store, "unsplit", {"x": [1]}), {}),
        ({"name": "gone", "id": "0" * 64, "rows": 1}, {}),
    ):
        store.write_json("results/train/r/set/-1/a.json", {**result, "dataset": ref})
        found = client(app, "viewer").get(path).json()
        assert (found["kind"], found["split"]) == ("training_set", expected)


def test_the_progress_of_a_training_is_what_its_run_has_so_far(
    app: Any, store: ArtifactStore, mlflow_connection: str
) -> None:
    from mlflow import MlflowClient

    mlflow = MlflowClient(mlflow_connection, mlflow_connection)
    experiment = mlflow.create_experiment(f"progress-{id(store)}")

    def run(task: str, index: str = "", **tags: str) -> str:
        index_tag = {"mlops.map_index": index} if index else {}
        task_tags = {"mlops.dag_id": "train", "mlops.dag_run_id": f"it's {id(store)}", "mlops.task_id": task}
        return str(mlflow.create_run(experiment, tags={**task_tags, **index_tag, **tags}).info.run_id)

    def progress(task: str, index: int = -1, dag: str = "train") -> Any:
        return client(app, "viewer").get(f"/mlops/api/tasks/{dag}/it's {id(store)}/{task}/{index}/progress")

    network, other = run("network", "1"), run("network", "0")
    for epoch, loss in enumerate((0.7, 0.5, float("nan"))):
        mlflow.log_metric(network, "train_loss", loss, step=epoch)
    mlflow.log_metric(network, "roc_auc", 0.6)
    mlflow.set_terminated(other)
    found = progress("network", 1).json()
    assert found["curves"] == [{"metric": "train_loss", "points": [[0, 0.7], [1, 0.5], [2, None]]}]
    assert (found["status"], found["run_url"]) == ("RUNNING", f"{mlflow_connection}/#/runs/{network}")
    assert (progress("network", 0).json()["status"], progress("network", 0).json()["curves"]) == ("FINISHED", [])
    # Each mapped task shows its own run, even if many newer runs exist.
    for index in range(2, 103):
        run("network", str(index))
    assert progress("network", 1).json()["run_url"].endswith(network)
    # The workers of a search share the run that the first of them has created.
    search = run("search", "0")
    for number, state in enumerate(("complete", "running")):
        tags = {"mlflow.parentRunId": search, "mlops.trial": str(number)}
        trial = mlflow.create_run(experiment, tags={**tags, **({"mlops.state": state} if state != "running" else {})})
        mlflow.log_param(trial.info.run_id, "depth", number)
    # A nested run that the user's code created is not a trial.
    mlflow.create_run(experiment, tags={"mlflow.parentRunId": search})
    mlflow.create_run(experiment, tags={"mlflow.parentRunId": other})
    assert progress("network", 0).json()["trials"] == []
    trials = progress("search", 2).json()["trials"]
    assert {(trial["number"], trial["state"], trial["params"]["depth"]) for trial in trials} == {
        (0, "complete", "0"),
        (1, "running", "1"),
    }
    assert progress("another").json()["status"] is None
    assert progress("network", 1, "hidden").status_code == 404


def test_data_has_the_windows_and_the_way_to_the_predictions(app: Any, store: ArtifactStore) -> None:
    import pyarrow as pa

    from airflow_mlops.core.windows import Window
    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.data.predictions.log import slot
    from airflow_mlops.registry.records.entry import Origin

    def write(name: str, window: str | None, rows: int, **more: Any) -> Any:
        with DatasetWriter(store, name) as writer:
            writer.write(pa.table({"x": [float(number) for number in range(rows)]}))
            span = Window.model_validate(window) if window else None
            return writer.commit(window=span, **more)[0]

    write("raw", "2013-01", 5)
    raw = write("raw", "2013-01", 3)
    write("raw", "2013-03", 4)
    write("raw_quarantine", "2013-01", 2)
    training = write("training", None, 7, parents=[raw.ref])
    span = Window.model_validate("2013-04")
    scored = write(
        "delays_predictions",
        "2013-04",
        2,
        parents=[raw.ref],
        details={"model": "delays", "model_version": 1},
        slots=[slot(version(1), span, [], None)],
    )
    promote(store, 1, dataset_name="training", dataset_id=training.id, origins=[Origin(version=1, dataset=training.id)])
    found = client(app, "viewer").get("/mlops/api/models/delays/data").json()
    edges = {tuple(edge) for edge in found["lineage"]["edges"]}
    assert edges == {
        (raw.id, training.id),
        (training.id, "delays v1"),
        ("delays v1", scored.id),
        (raw.id, scored.id),
    }
    calendar = {item["name"]: item for item in found["datasets"]}["raw"]
    days = [
        (item["window"]["label"], item["rows"], item["quarantined"], item["replaced"]) for item in calendar["windows"]
    ]
    assert days == [("2013-01", 3, 2, 1), ("2013-03", 4, 0, 0)]
    assert [item["label"] for item in calendar["missing"]] == ["2013-02"]


def test_a_page_about_a_model_is_for_those_who_may_see_the_model(
    app: Any, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    promote(store, 1)
    for key in ("reports/delays/2013-01.html", "reports/nobody/2013-01.html", "docs/index.html"):
        store.write_bytes(key, b"<html>")
    pages = {
        key: f"/mlops/artifacts/{key}"
        for key in ("reports/delays/2013-01.html", "reports/nobody/2013-01.html", "docs/index.html", "backtests")
    }

    def status() -> list[int]:
        viewer = client(app, "viewer")
        return [viewer.get(page).status_code for page in pages.values()]

    assert [client(app, None).get(page).status_code for page in pages.values()] == [401] * 4
    assert status() == [200, 200, 200, 404]
    allowed = SimpleAuthManager.is_authorized_dag

    def only(dag_id: str) -> Any:
        def is_authorized(self: Any, *, details: Any = None, **rest: Any) -> bool:
            return details is not None and details.id == dag_id and allowed(self, details=details, **rest)

        return is_authorized

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", only("train"))
    assert status() == [200, 404, 200, 404]
    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", only("score"))
    monkeypatch.setattr(SimpleAuthManager, "is_authorized_asset", lambda *_, **__: False)
    assert status() == [404, 404, 403, 404]


def test_every_route_needs_a_login_and_does_not_tell_what_exists(app: Any, store: ArtifactStore) -> None:

    promote(store, 1)
    reports.publish(store, "2013-01", "watch")
    window = {"start": "2013-01-01T00:00:00Z", "end": "2013-02-01T00:00:00Z"}
    bodies = {"retrain": {"reason": "Snow."}, "rollback": {"reason": "Snow."}, "acknowledge": {"window": window}}
    paths = client(app, "viewer").get("/mlops/api/openapi.json").json()["paths"]
    routes = [(method, path) for path, methods in paths.items() for method in methods]
    assert len(routes) == 14

    def status(user: TestClient, method: str, path: str, model: str) -> int:
        values = {
            "name": model,
            "column": "x",
            "dag_id": f"dag_of_{model}",
            "run_id": "r",
            "task_id": "t",
            "map_index": -1,
        }
        body = bodies[path.rpartition("/")[2]] if method == "post" else None
        params = window if "column" in path else None
        return user.request(method, f"/mlops/api{path.format(**values)}", json=body, params=params).status_code

    for method, path in routes:
        assert status(client(app, None), method, path, "delays") == 401, path
        if "{" in path:
            assert status(client(app, "admin"), method, path, "no_such_model") == 404, path
            if "{name}" in path:
                known = status(client(app, "viewer"), method, path, "delays")
                assert (known == 403) == (method == "post"), (path, known)
    assert client(app, None).get("/mlops/api/openapi.json").status_code == 200


def test_a_section_that_cannot_be_read_is_named_and_the_rest_is_shown(app: Any, store: ArtifactStore) -> None:
    promote(store, 1)
    for month in ("2013-01", "2013-02"):
        key = reports.publish(store, month)
    newer = store.read_json(key)
    store.write_json(key, {**newer, "format": 99, "unknown": True})
    found = client(app, "viewer").get("/mlops/api/models/delays").json()
    assert [point["window"]["label"] for point in found["windows"]] == ["2013-01"]
    assert found["champion"]["version"] == 1
    assert any("2013-02" in problem for problem in found["problems"])


def test_no_answer_may_be_kept_by_a_proxy(app: Any, store: ArtifactStore) -> None:
    promote(store, 1)
    store.write_bytes("reports/delays/2013-01.html", b"<html>")
    report = "artifacts/reports/delays/2013-01.html"
    for role, path, status, kept in (
        (None, "api/models", 401, "private, no-store"),
        (None, report, 401, "private, no-store"),
        ("viewer", "api/models", 200, "private, no-store"),
        ("viewer", "api/models/nothing", 404, "private, no-store"),
        ("viewer", report, 200, "private, no-cache"),
        ("viewer", "artifacts/reports/nobody/2013-01.html", 404, "private, no-store"),
        # The bundle contains no data, and the browser revalidates each response of the API with the server.
        (None, "static/models.js", 200, "no-cache"),
    ):
        answer = client(app, role).get(f"/mlops/{path}")
        assert (answer.status_code, answer.headers["cache-control"]) == (status, kept), path
        assert answer.headers["x-content-type-options"] == "nosniff", path


@pytest.mark.parametrize("reason", ["1e400", "NaN", '"\\ud800"', "null", "[]"])
def test_a_request_that_json_cannot_repeat_is_refused_in_words(app: Any, store: ArtifactStore, reason: str) -> None:
    promote(store, 1)
    body = f'{{"reason": {reason}}}'
    user = client(app, "user")
    found = user.post("/mlops/api/models/delays/retrain", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 422
    assert "body.reason: " in found.json()["detail"]


NAMES = ["x" * 200, "ü" * 200, "a\"b'c", "日本語", "a\nb", "\0", "a/../b", "' OR 1=1 --"]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_known_or_unknown_and_no_error(app: Any, store: ArtifactStore, name: str) -> None:
    escaped = quote(name, safe="")
    admin = client(app, "admin")
    for page in ("", "/drift", "/versions", "/data", "/rollback"):
        assert admin.get(f"/mlops/api/models/{escaped}{page}").status_code == 404
    for path in (f"api/dags/{escaped}", f"api/tasks/train/{escaped}/t/-1", f"artifacts/reports/{escaped}/x.html"):
        assert admin.get(f"/mlops/{path}").status_code == 404
    if not {"/", "\0", "\n"} & {*name} and len(escaped) < 250:
        promote(store, 1, name)
        assert admin.get(f"/mlops/api/models/{escaped}").json()["name"] == name
        assert [item["name"] for item in admin.get("/mlops/api/models").json()["models"]] == [name]


def test_an_approval_is_for_those_whom_airflow_lets_answer(
    app: Any, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_mlops import dag_facts
    from airflow_mlops.overview.facts import PendingApproval

    promote(store, 1)
    found = PendingApproval(dag_id="train", run_id="r", task_id="promote", map_index=-1, subject="Promote delays v2?")

    def answers(role: str, name: str, *assignees: str) -> bool:
        asked = found.model_copy(update={"assignees": [*assignees]})
        monkeypatch.setattr(dag_facts, "pending", lambda readable: {"delays": asked})
        user = client(app, role, name)
        [listed] = user.get("/mlops/api/models").json()["models"]
        assert user.get("/mlops/api/models/delays").json()["approval"] == listed["approval"]
        assert listed["approval"]["assignees"] == [*assignees]
        return bool(listed["approval"]["can_answer"])

    assert [answers(role, "grace") for role in ("viewer", "user", "op", "admin")] == [False, True, True, True]
    assert answers("user", "grace", "bob", "grace")
    assert not answers("user", "grace", "bob")
    assert not answers("viewer", "bob", "bob")
