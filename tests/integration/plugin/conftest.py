"""Airflow's API server in this process, with the users of SimpleAuthManager and two DAGs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from airflow_mlops.data.store import ArtifactStore


@pytest.fixture(scope="package")
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
            session.add(
                DagModel(
                    dag_id=dag_id,
                    bundle_name="api-tests",
                    fileloc="x.py",
                    owners=f"team-{dag_id}",
                    is_paused=False,
                    is_stale=False,
                )
            )
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
