"""The JSON API in Airflow's API server, with the roles of SimpleAuthManager."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import reports
from tests.unit.overview.test_index import promote, score

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from airflow_mlops.data.store import ArtifactStore

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def app(airflow_db: None) -> Iterator[Any]:
    from airflow.api_fastapi.app import create_app, purge_cached_app
    from airflow.models.dag import DagModel, DagTag
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    with pytest.MonkeyPatch.context() as patch, create_session() as session:
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "False")
        session.add(DagBundleModel(name="api-tests"))
        session.flush()
        for dag_id in ("train", "score"):
            session.add(DagModel(dag_id=dag_id, bundle_name="api-tests", fileloc="x.py", owners=f"team-{dag_id}"))
            session.flush()
            session.add(DagTag(name=f"tag-{dag_id}", dag_id=dag_id))
        session.commit()
        purge_cached_app()
        yield create_app(apps="core")
        purge_cached_app()
        for dag_id in ("train", "score"):
            session.delete(session.get(DagModel, dag_id))
        session.flush()
        session.delete(session.get(DagBundleModel, "api-tests"))


@pytest.fixture
def store(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    from airflow_mlops.data.store import ArtifactStore

    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACTS", tmp_path.as_uri())
    return ArtifactStore(tmp_path.as_uri())


def client(app: Any, role: str | None, name: str = "grace") -> TestClient:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    found = TestClient(app, base_url="http://localhost")
    if role is not None:
        token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=name, role=role))
        found.headers["Authorization"] = f"Bearer {token}"
    return found


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
    from airflow_mlops.overview import index

    index.update(store, "delays", "scoring")
    assert [item["name"] for item in user.get("/mlops/api/models").json()["models"]] == ["delays"]
    assert user.get("/mlops/api/models/delays").status_code == 200


def test_a_store_that_cannot_be_read_is_a_problem(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACTS", "file:///proc/version/mlops")
    found = client(app, "viewer").get("/mlops/api/models")
    assert found.status_code == 200
    assert found.json()["models"] == []
    assert "/proc/version" in found.json()["problems"][0]


def test_the_description_names_every_route(app: Any) -> None:
    paths = client(app, "viewer").get("/mlops/api/openapi.json").json()["paths"]
    assert {"/models", "/models/{name}", "/dags/{dag_id}"} <= set(paths)
