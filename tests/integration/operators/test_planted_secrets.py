"""Secrets planted in connections, URLs and names of files do not appear in what a chain of tasks leaves."""

from __future__ import annotations

import json
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import HOME

DAG = """
import sys

from airflow.sdk import DAG
from airflow_mlops.compute import Process
from airflow_mlops.operators import BuildTrainingSetOperator, IngestOperator, TrainOperator

def url(name):
    return "http://{{{{ conn.web.login }}}}:{{{{ conn.web.password }}}}@{address}/" + name + "?sig={{{{ conn.web.schema }}}}"

with DAG("planted"):
    IngestOperator(task_id="absent", name="absent", files=url("absent.csv"), format="csv")
    IngestOperator(task_id="empty", name="empty", files=url("empty.csv"), format="csv", run_on=Process(sys.executable))
    IngestOperator(task_id="broken", name="broken", conn_id="db", sql="SELECT '{{{{ conn.db.password }}}}' FROM nowhere")
    rows = IngestOperator(task_id="rows", name="rows", files=url("rows.csv"), format="csv")
    same = IngestOperator(task_id="database", name="database", conn_id="db", sql="SELECT * FROM rows")
    training = BuildTrainingSetOperator(
        task_id="training", name="training", entities=rows.output, columns=["x"], label="y", timestamp="t",
        split={{"method": "time", "test_size": "5D"}},
    )
    TrainOperator(task_id="train", dataset=training.output, model="planted", trainer={trainer!r})
    TrainOperator(
        task_id="away", dataset=training.output, model="planted", trainer={trainer!r}, mlflow_conn_id="away"
    )
"""
TRAINER = {"estimator": "sklearn.linear_model.LogisticRegression"}
SECRETS = {
    name: f"s3cr-{name}-4711"
    for name in ("web", "signature", "db", "db-extra", "db-nested", "mlflow-host", "mlflow", "away-host", "away-query")
}


@pytest.fixture
def address(tmp_path):
    """The address of a web server with the files."""
    random = np.random.default_rng(0)
    rows = [
        f"2013-04-{day:02}T0{hour}:00:00Z,{random.normal()},{random.choice(['yes', 'no'])}\n"
        for day in range(1, 31)
        for hour in range(9)
    ]
    files = {"/rows.csv": f"t,x,y\n{''.join(rows)}", "/empty.csv": "t,x,y\n"}

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body=True):
            content = files.get(self.path.partition("?")[0])
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content or "")))
            self.end_headers()
            if body and content:
                self.wfile.write(content.encode())

        do_GET = answer  # noqa: N815

        def do_HEAD(self):
            self.answer(body=False)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def connections(tmp_path, mlflow_server):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE rows (x REAL)")
        database.execute("INSERT INTO rows VALUES (1.5)")
    found = {
        "web": {"conn_type": "http", "login": "ada", "password": SECRETS["web"], "schema": SECRETS["signature"]},
        "db": {
            "conn_type": "sqlite",
            "host": str(tmp_path / "shop.db"),
            "login": "ada",
            "password": SECRETS["db"],
            "extra": {"api_key": SECRETS["db-extra"], "options": {"client_secret": SECRETS["db-nested"]}},
        },
        "mlflow_default": {
            "conn_type": "mlflow",
            "host": mlflow_server.replace("//", f"//ada:{SECRETS['mlflow-host']}@"),
            "password": SECRETS["mlflow"],
        },
        "away": {
            "conn_type": "mlflow",
            "host": f"http://ada:{SECRETS['away-host']}@127.0.0.1:1/?token={SECRETS['away-query']}",
        },
    }
    return {conn_id: json.dumps(connection) for conn_id, connection in found.items()}


def leaks(text):
    return [name for name, secret in SECRETS.items() if secret in text]


def test_a_chain_leaves_no_secret(address, connections, run_dag, store, monkeypatch, capfd, mlflow_server):
    from airflow._shared.secrets_masker import secrets_masker as of_core
    from airflow.sdk._shared.secrets_masker import secrets_masker as of_tasks

    # Without Airflow's own masking, which does not know the secrets in URLs and does not reach the store, MLflow and pods.
    for module in (of_core, of_tasks):
        monkeypatch.setattr(module.SecretsMasker, "add_mask", lambda *args, **kwargs: None)
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACTS", store.url)
    run = run_dag(DAG.format(address=address, trainer=TRAINER), connections=connections)
    states = run.states()
    failed = {task for task, state in states.items() if state == "failed"}
    assert failed == {"absent", "empty", "broken", "away"}, states
    printed = capfd.readouterr()
    logs = printed.out + printed.err
    assert "empty.csv" in logs
    assert leaks(logs) == []
    for task in ("rows", "database", "training", "train"):
        assert leaks(json.dumps(run.xcom(task))) == []
    written = [path for path in Path(store.root).rglob("*") if path.is_file()]
    assert written
    assert [str(path) for path in written if leaks(path.read_bytes().decode(errors="replace"))] == []
    in_mlflow = [path for path in (HOME / "mlflow").rglob("*") if path.is_file()]
    assert [str(path) for path in in_mlflow if leaks(path.read_bytes().decode(errors="replace"))] == []


RENDERED = """
from airflow.sdk import DAG
from airflow_mlops.operators import IngestOperator

with DAG("rendered", params={{"signature": "s3cr-signature-4711", "password": "s3cr-web-4711"}}):
    IngestOperator(
        task_id="rows", name="rows", format="csv",
        files=[
            "http://ada:{{{{ params.password }}}}@{address}/rows.csv?sig={{{{ params.signature }}}}",
            "http://{{{{ params.password }}}}@{address}/rows.csv",
        ],
    )
"""


def test_rendered_fields_show_no_credentials_of_urls(address, run_dag):
    """Airflow masks the passwords of connections, but does not recognise a secret in a URL."""
    run = run_dag(RENDERED.format(address=address))
    assert run.states() == {"rows": "success"}
    shown = run.rendered("rows")
    assert len(shown["files"]) == 2
    assert leaks(json.dumps(shown)) == []
