"""The JSON API with the roles of the FAB auth manager, where its provider is installed."""

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
    from tests.support import reports
    from tests.unit.overview.test_index import promote
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    promote(store, 1)
    reports.publish(store, "2013-01", "watch")
    reports.publish(store, "2013-01", model="without_dag")
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
    window = {"start": "2013-01-01T00:00:00Z", "end": "2013-02-01T00:00:00Z"}
    for role in (None, *roles):
        client = TestClient(app, base_url="http://localhost")
        if role is not None:
            answer = client.post("/auth/token", json={"username": role, "password": "secret"})
            assert answer.status_code == 201, answer.text
            client.headers["Authorization"] = "Bearer " + answer.json()["access_token"]
        listed = client.get("/mlops/api/models")
        names = [item["name"] for item in listed.json()["models"]] if listed.status_code == 200 else listed.status_code
        one = client.get("/mlops/api/models/delays")
        act = client.post("/mlops/api/models/delays/acknowledge", json={"window": window, "note": str(role)})
        page = client.get("/mlops/artifacts/reports/delays/none.html")
        found[str(role)] = [names, one.status_code, act.status_code, page.status_code]
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

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
        return done.stdout

    run("-m", "airflow", "db", "migrate")
    output = run("-c", textwrap.dedent(_PROBE))
    found = json.loads(next(line for line in output.splitlines() if line.startswith("FOUND")).removeprefix("FOUND "))
    everything = ["delays", "without_dag"]
    assert found == {
        "None": [401, 401, 401, 401],
        "Public": [[], 404, 404, 404],
        "Viewer": [everything, 200, 403, 404],
        "User": [everything, 200, 200, 404],
        "Op": [everything, 200, 200, 404],
        "Admin": [everything, 200, 200, 404],
        "Reads train": [["delays"], 200, 403, 404],
        "Reads other": [[], 404, 404, 404],
    }
