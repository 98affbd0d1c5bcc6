"""Every route of the JSON API with the roles of the FAB auth manager."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("airflow.providers.fab", reason="apache-airflow-providers-fab is not installed")
pytestmark = pytest.mark.slow

# The auth manager of a process cannot be changed, so the API server runs in a process of its own.
_PROBE = """
    import json
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session
    from fastapi.testclient import TestClient
    from airflow.utils.db import upgradedb
    from tests.support import reports
    from tests.support.models import promote, publish_drift, version
    from airflow_mlops.overview import candidates
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.settings import default_store
    from airflow_mlops.plugin.api.app import app as app_of_api

    upgradedb()
    store = ArtifactStore(default_store())
    promote(store, 1)
    promote(store, 2)
    publish_drift(store, "2013-01", 0.3)
    key = reports.publish(store, "2013-02", "watch")
    reports.publish(store, "2013-01", model="without_dag")
    candidates.trained(store, version(1, "trained"), "train")
    result = {"summary": "Valid.", "success": True, "docs_url": "", "quarantined": None}
    store.write_json("results/train/r/check/-1/a.json", result)
    with create_session() as session:
        session.add(DagBundleModel(name="tests"))
        session.flush()
        for dag_id in ("train", "other"):
            session.add(DagModel(dag_id=dag_id, bundle_name="tests", fileloc="x.py", is_paused=False, is_stale=False))
    app = create_app(apps="all")
    from airflow.providers.fab.www.app import create_app as create_flask_app

    with create_flask_app(enable_plugins=False).app_context():
        security = get_auth_manager().security_manager
        # A role that reads one DAG only, and one that reads another only.
        for dag_id in ("train", "other"):
            role = security.add_role(f"Reads {dag_id}")
            security.add_permission_to_role(role, security.create_permission("can_read", f"DAG:{dag_id}"))
        roles = ("Public", "Viewer", "User", "Op", "Admin", "Reads train", "Reads other")
        for role in roles:
            made = security.add_user(role, role, role, f"{role}@example.com", security.find_role(role), password="secret")
            assert made, role
    found = {}
    january = {"start": "2013-01-01T00:00:00Z", "end": "2013-02-01T00:00:00Z"}
    february = {"start": "2013-02-01T00:00:00Z", "end": "2013-03-01T00:00:00Z"}
    values = {"name": "delays", "column": "wind", "dag_id": "train", "run_id": "r", "task_id": "check", "map_index": -1}
    paths = app_of_api.openapi()["paths"]
    # A rollback that worked would change what the other roles find.
    bodies = {"retrain": {"reason": "Snow."}, "rollback": {"reason": "Snow.", "champion": 7}}
    for role in (None, *roles):
        client = TestClient(app, base_url="http://localhost")
        if role is not None:
            answer = client.post("/auth/token", json={"username": role, "password": "secret"})
            assert answer.status_code == 201, answer.text
            client.headers["Authorization"] = "Bearer " + answer.json()["access_token"]
        status = {}
        for path, methods in paths.items():
            for method in methods:
                action = path.rpartition("/")[2]
                body = bodies.get(action, {"window": february, "note": str(role)}) if method == "post" else None
                params = january if "column" in path else None
                address = "/mlops/api" + path.format(**values)
                answer = client.request(method, address, json=body, params=params)
                status[f"{method} {path}"] = answer.status_code
        listed = client.get("/mlops/api/models")
        names = [item["name"] for item in listed.json()["models"]] if listed.status_code == 200 else []
        unknown = client.get("/mlops/api/models/no_such_model").status_code
        page = client.get("/mlops/artifacts/" + key).status_code
        found[str(role)] = [names, status, unknown, page]
    print("FOUND", json.dumps(found))
"""


def test_each_role_sees_and_does_what_it_may(tmp_path: Path) -> None:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW__MLOPS__ARTIFACTS": f"{tmp_path.as_uri()}/artifacts",
        "AIRFLOW__API_AUTH__JWT_SECRET": "secret" * 12,
    }

    command = [sys.executable, "-c", textwrap.dedent(_PROBE)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    found = json.loads(line.removeprefix("FOUND "))
    everything = ["delays", "trained", "without_dag"]
    routes = found["None"][1]
    assert len(routes) == 14
    samples = "get /tasks/{dag_id}/{run_id}/{task_id}/{map_index}/samples"

    def statuses(role: str) -> set[tuple[str, int]]:
        return {(route.partition(" ")[0], code) for route, code in found[role][1].items() if route != samples}

    assert {code for _, code in statuses("None")} == {401}
    for role in ("Public", "Reads other"):
        assert found[role][0] == []
        assert found[role][1].pop("get /models") == 200
        assert {code for _, code in statuses(role)} == {404}, (role, found[role])
    assert found["Viewer"][0] == everything
    assert found["Reads train"][0] == ["delays", "trained"]
    for role in ("Viewer", "Reads train"):
        assert statuses(role) == {("get", 200), ("post", 403)}, (role, found[role])
    for role in ("User", "Op", "Admin"):
        names, status, *_ = found[role]
        assert names == everything
        # 409: no DAG is scheduled on requests for retraining, and the rollback names another champion.
        assert statuses(role) == {("get", 200), ("post", 200), ("post", 409)}, (role, found[role])
        assert status["post /models/{name}/acknowledge"] == 200
    # Only roles that may read assets can read rows.
    rows = {role: status.get(samples) for role, (_, status, *_) in found.items()}
    readers = dict.fromkeys(("Viewer", "User", "Op", "Admin"), 200)
    assert rows == {"None": 401, "Public": 403, "Reads train": 403, "Reads other": 403, **readers}
    assert {role: unknown for role, (*_, unknown, _) in found.items()} == {"None": 401} | dict.fromkeys(
        ("Public", "Viewer", "User", "Op", "Admin", "Reads train", "Reads other"), 404
    )
    pages = {role: page for role, (*_, page) in found.items()}
    assert pages == {"None": 401, "Public": 404, "Reads other": 404, "Reads train": 200, **readers}
