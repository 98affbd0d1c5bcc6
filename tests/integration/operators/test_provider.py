"""The provider in a real Airflow: connection type, links, pages and preload."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

REPORT = "<html><body>drift</body></html>"


@pytest.fixture(scope="module")
def manager():
    from airflow.providers_manager import ProvidersManager

    return ProvidersManager()


def test_airflow_finds_the_provider_and_its_plugin(manager):
    from airflow import plugins_manager

    assert manager.providers["airflow-mlops"].version == "0.1.0"
    apps, _ = plugins_manager.get_fastapi_plugins()
    assert "/mlops" in [app["url_prefix"] for app in apps]
    assert not [error for name, error in plugins_manager._get_plugins()[1].items() if "mlops" in name]


def test_the_connection_form_has_the_tracking_uri_and_the_address_of_the_pages(manager):
    manager.initialize_providers_hooks()
    hook = manager.hooks["mlflow"]
    assert (hook.hook_name, hook.connection_id_attribute_name) == ("MLflow", "mlflow_conn_id")
    assert manager.connection_form_widgets["extra__mlflow__ui_url"].field["schema"]["title"].startswith("Address")
    assert manager.field_behaviours["mlflow"]["relabeling"]["host"] == "Tracking URI"


def test_airflow_knows_the_links(manager):
    from airflow_mlops.links import DataDocsLink, EndpointLink, MLflowRunLink, ReportLink

    known, links = set(manager.extra_links_class_names), (DataDocsLink, EndpointLink, MLflowRunLink, ReportLink)
    assert {f"{link.__module__}.{link.__name__}" for link in links} <= known


def test_settings_have_their_defaults(monkeypatch):
    from airflow.sdk import conf

    from airflow_mlops.settings import default_store, preload

    assert preload() == []
    monkeypatch.setenv("AIRFLOW__MLOPS__PRELOAD", " pyarrow , mlflow.sklearn,, ")
    assert preload() == ["pyarrow", "mlflow.sklearn"]
    monkeypatch.delenv("AIRFLOW__MLOPS__ARTIFACTS")
    assert default_store() == f"file://{conf.get('core', 'dags_folder').removesuffix('/dags')}/mlops"


def test_the_hook_connects_to_mlflow_and_reports_its_version(mlflow_connection):
    import mlflow

    from airflow_mlops.hooks.mlflow import MLflowHook

    ok, message = MLflowHook().test_connection()
    assert ok, message
    assert mlflow.__version__ in message
    assert mlflow_connection in message
    assert MLflowHook("mlflow_default").get_conn().search_experiments(max_results=1)


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ({"host": "http://me:secret@127.0.0.1:1"}, "does not respond: connection refused"),
        ({"host": ""}, "has no host"),
        (None, "is not defined in Airflow"),
    ],
)
def test_a_failed_connection_test_has_the_reason_and_no_secret(connection, message, monkeypatch, airflow_db):
    from airflow_mlops.hooks.mlflow import MLflowHook

    if connection is not None:
        monkeypatch.setenv("AIRFLOW_CONN_BROKEN", json.dumps({"conn_type": "mlflow", **connection}))
    ok, found = MLflowHook("broken").test_connection()
    assert not ok
    assert message in found
    assert "secret" not in found


DAG = """
from airflow.sdk import DAG, BaseOperator
from airflow_mlops.links import DataDocsLink, EndpointLink, MLflowRunLink, ReportLink

class Returns(BaseOperator):
    operator_extra_links = (DataDocsLink(), EndpointLink(), MLflowRunLink(), ReportLink())
    def __init__(self, *, result, **kwargs):
        super().__init__(**kwargs)
        self.result = result
    def execute(self, context):
        return self.result

with DAG("{dag_id}"):
    Returns(task_id="work", result={result!r})
"""


@pytest.mark.parametrize(
    ("name", "result", "connection", "expected"),
    [
        ("run", {"run_id": "abc"}, {"host": "http://mlflow:5000"}, "http://mlflow:5000/#/runs/abc"),
        ("nested", {"candidate": {"run_id": "abc"}}, {"host": "mlflow"}, "http://mlflow/#/runs/abc"),
        ("login", {"run_id": "a"}, {"host": "https://m.org", "login": "u", "password": "p"}, "https://m.org/#/runs/a"),
        ("inside", {"run_id": "a"}, {"host": "http://u:p@m.org/"}, "http://m.org/#/runs/a"),
        ("pages", {"run_id": "a"}, {"host": "http://m", "extra": {"ui_url": "https://x/y/"}}, "https://x/y/#/runs/a"),
        ("file", {"run_id": "a"}, {"host": "sqlite:////srv/mlflow.db"}, ""),
        ("without", {"rows": 3}, {"host": "http://mlflow:5000"}, ""),
        ("nothing", None, {"host": "http://mlflow:5000"}, ""),
    ],
)
def test_the_link_to_mlflow_leads_to_the_run(name, result, connection, expected, run_dag):
    source = DAG.format(dag_id=f"mlflow_link_{name}", result=result)
    run = run_dag(source, connections={"mlflow_default": json.dumps({"conn_type": "mlflow", **connection})})
    assert run.states() == {"work": "success"}
    assert (run.xcom("work", "_link_MLflowRunLink") or "") == expected


def test_the_links_to_pages_lead_to_the_api_server(run_dag, monkeypatch, tmp_path):
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.settings import default_store

    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/team/")
    store = ArtifactStore(default_store())
    result = {
        "docs_url": store.url_of("docs/a%2Fb/run 1/index.html"),
        "report_url": ArtifactStore(f"file://{tmp_path}").url_of("reports/x.html"),
        "endpoint": {"url": "http://late.serving.svc/v2/models/late"},
    }
    run = run_dag(DAG.format(dag_id="page_links", result=result))
    served = "https://airflow.example.com/team/mlops/artifacts/docs/a%252Fb/run%201/index.html"
    assert run.xcom("work", "_link_DataDocsLink") == served
    # Only the configured store is served.
    assert run.xcom("work", "_link_ReportLink") == result["report_url"]
    assert run.xcom("work", "_link_EndpointLink") == result["endpoint"]["url"]


@pytest.mark.parametrize(
    ("result", "address"),
    [
        ({"endpoint": {"url": "https://late.example.org/v2/models/late"}}, "https://late.example.org/v2/models/late"),
        # A browser would run it.
        ({"endpoint": {"url": "javascript:alert(1)"}}, ""),
        ({"endpoint": {}}, ""),
        # The deployment has failed.
        ({"endpoint": None}, ""),
        ({}, ""),
    ],
)
def test_the_link_to_an_endpoint_is_an_address_of_http(result, address):
    from airflow_mlops.links import EndpointLink

    assert EndpointLink().address(None, result) == address


VALIDATION = """
from airflow.sdk import DAG
from airflow_mlops.operators import IngestOperator, ValidateOperator

SUITE = {{"name": "s", "expectations": [
    {{"type": "expect_column_values_to_be_between", "kwargs": {{"column": "n", "max_value": {limit}}}}}
]}}
with DAG("docs_link_{limit}"):
    rows = IngestOperator(task_id="ingest", name="link_numbers", files={file!r})
    ValidateOperator(task_id="validate", dataset=rows.output, suite=SUITE)
"""


@pytest.mark.parametrize(("limit", "state", "page"), [(9, "success", "/validations/"), (1, "failed", "/index.html")])
def test_a_validation_links_to_its_data_docs_even_if_it_fails(limit, state, page, run_dag, tmp_path, monkeypatch):
    from urllib.parse import unquote

    from airflow_mlops.plugin.pages import artifact

    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com")
    (tmp_path / "rows.csv").write_text("n\n1\n2\n")
    run = run_dag(VALIDATION.format(limit=limit, file=str(tmp_path / "rows.csv")))
    assert run.states()["validate"] == state
    link = run.xcom("validate", "_link_DataDocsLink")
    assert page in link
    served = artifact(unquote(link.removeprefix("https://airflow.example.com/mlops/artifacts/")))
    assert b"Data Docs" in served.body or b"Great Expectations" in served.body


@pytest.fixture(scope="module")
def store():
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    store.write_bytes("reports/flights/april.html", REPORT.encode())
    store.write_bytes("reports/.hidden.html", b"still being written")
    store.write_bytes("docs/static/plot.png", b"\x89PNG")
    store.write_bytes("docs/notes.unknown", b"?")
    store.write_bytes("datasets/people.html", b"private")
    return store


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("reports/flights/april.html", "text/html; charset=utf-8"),
        ("docs/static/plot.png", "image/png"),
        ("docs/notes.unknown", "application/octet-stream"),
    ],
)
def test_a_page_has_its_content_type_and_a_restrictive_policy(key, kind, store):
    from airflow_mlops.plugin import pages

    async def respond(_):
        return pages.artifact(key)

    response = asyncio.run(pages._headers(None, respond))
    assert response.body == store.read_bytes(key)
    assert response.headers["content-type"] == kind
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    # Scripts run only in Data Docs, which are sandboxed, so they have no origin and cannot send requests.
    assert ("script-src" in policy) == key.startswith("docs/") == ("sandbox allow-scripts" in policy)
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy


KEYS = st.lists(
    st.sampled_from(["reports", "docs", "datasets", "people.html", "flights", "..", ".", "", ".hidden.html", "\0"])
    | st.text(string.printable, max_size=4),
    max_size=6,
).map("/".join)


@given(key=KEYS)
def test_no_key_reaches_other_folders(store, key):
    from fastapi import HTTPException

    from airflow_mlops.plugin.pages import artifact

    if key in ("reports/flights/april.html", "docs/static/plot.png", "docs/notes.unknown"):
        return
    with pytest.raises(HTTPException) as refused:
        artifact(key)
    assert refused.value.status_code == 404


@pytest.fixture
def linked(tmp_path, monkeypatch):
    """A store that is reached through a symbolic link, with links that a task has planted, and a file outside."""
    from airflow_mlops.data.store import ArtifactStore

    (tmp_path / "airflow.cfg").write_text("the key of all secrets")
    (tmp_path / "real").mkdir()
    (tmp_path / "store").symlink_to("real")
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACTS", f"file://{tmp_path}/store")
    store = ArtifactStore(f"file://{tmp_path}/store")
    store.write_bytes("reports/page.html", REPORT.encode())
    store.write_bytes("datasets/people.html", b"private")
    reports = tmp_path / "real" / "reports"
    (reports / "file.html").symlink_to(tmp_path / "airflow.cfg")
    (reports / "again.html").symlink_to("file.html")
    (reports / "folder").symlink_to(tmp_path)
    (reports / "environ").symlink_to("/proc/self/environ")
    (reports / "inside.html").symlink_to("../datasets/people.html")
    (tmp_path / "real" / "docs").symlink_to("datasets")
    os.mkfifo(reports / "pipe.html")
    return store


@pytest.mark.parametrize(
    "key",
    [
        "reports/file.html",
        "reports/again.html",
        "reports/folder/airflow.cfg",
        "reports/environ",
        "reports/inside.html",
        "reports/pipe.html",
        "docs/people.html",
    ],
)
def test_planted_links_and_pipes_are_not_served(linked, key):
    from fastapi import HTTPException

    from airflow_mlops.plugin.pages import artifact

    with pytest.raises(HTTPException) as refused:
        artifact(key)
    assert refused.value.status_code == 404


def test_the_folder_of_the_store_may_be_a_link(linked):
    from airflow_mlops.plugin.pages import artifact

    assert artifact("reports/page.html").body == REPORT.encode()


def test_preload_imports_modules_and_warns_of_failures(caplog, monkeypatch, tmp_path):
    from airflow_mlops.plugin.preload import import_all

    (tmp_path / "preloaded_here.py").write_text("import logging; logging.getLogger('noisy').info('I am imported')")
    (tmp_path / "preloaded_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.INFO):
        import_all(["preloaded_broken", "preloaded_missing", "preloaded_here"])
    assert sys.modules.pop("preloaded_here")
    assert "preloaded_broken cannot be imported (ZeroDivisionError: division by zero)" in caplog.text
    assert "preloaded_missing cannot be imported (ModuleNotFoundError" in caplog.text
    assert "I am imported" not in caplog.text


@pytest.mark.parametrize(
    ("argv", "is_job", "expected"),
    [
        (["airflow", "scheduler"], True, True),
        (["airflow", "triggerer"], True, False),
        (["airflow", "dag-processor"], True, False),
        # A task process is forked from the scheduler and has the same arguments.
        (["airflow", "scheduler"], False, False),
    ],
)
def test_only_the_scheduler_preloads(argv, is_job, expected, monkeypatch):
    from airflow.jobs.job import Job
    from airflow.sdk.execution_time.task_runner import TaskRunnerMarker

    from airflow_mlops.plugin import preload

    done: list[str] = []
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(preload, "import_all", done.extend)
    monkeypatch.setenv("AIRFLOW__MLOPS__PRELOAD", "pyarrow")
    component = Job.__new__(Job) if is_job else TaskRunnerMarker()
    preload.on_starting(component)
    assert done == (["pyarrow"] if expected else [])
