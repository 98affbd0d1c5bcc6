"""What all operators share: results are references, retries do not repeat finished work, and errors are clear."""

from __future__ import annotations

import shutil
import sys

import pytest

# A step that counts its runs. It can fail once or always.
STEP = """
import os
from pathlib import Path
from airflow_mlops.core.errors import SourceError, SpecError
from airflow_mlops.core.calls import Result, Spec

class CountSpec(Spec):
    file: str
    fail: str = ""

class CountResult(Result):
    runs: int

def run(spec: CountSpec, context) -> CountResult:
    file = Path(spec.file)
    runs = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(runs))
    context.progress(f"counting {runs}, cache {os.environ['MLOPS_CACHE_SIZE']}")
    if spec.fail == "once" and runs == 1:
        raise SourceError("The counter was not ready: try again.")
    if spec.fail == "always":
        raise SpecError("The counter cannot count: give it fingers.")
    return CountResult(runs=runs, summary=f"Counted {runs} run.")
"""

DAG = """
import sys
from datetime import timedelta
from airflow.sdk import DAG
from airflow_mlops.compute import Process, Worker
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.count_for_test.step import CountSpec

class CountOperator(StepOperator):
    step = "count_for_test"
    spec = CountSpec
    def __init__(self, *, file, fail="", lose_result=False, **kwargs):
        super().__init__(**kwargs)
        self.assign_parameters(locals())
    def finish(self, result, context):
        if self.lose_result and context["ti"].try_number == 1:
            raise ConnectionError("the worker lost its XCom")

with DAG("count_{name}", default_args={{"retries": 2, "retry_delay": timedelta(0)}}):
    CountOperator(task_id="count", file="{{{{ dag_run.conf['file'] }}}}", {arguments})
"""


@pytest.fixture
def count_step():
    """Add the module of the step to those of the package, where another Python interpreter also finds it."""
    from pathlib import Path

    import airflow_mlops.stages

    folder = Path(airflow_mlops.stages.__file__).parent / "count_for_test"
    folder.mkdir()
    (folder / "step.py").write_text(STEP)
    yield
    shutil.rmtree(folder)
    for name in ("airflow_mlops.stages.count_for_test", "airflow_mlops.stages.count_for_test.step"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("place", ["Worker()", "Process(python=sys.executable)"])
def test_result_is_returned_and_its_summary_logged(place, count_step, run_dag, tmp_path, capfd, caplog, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MLOPS__CACHE_SIZE", "7GB")
    # If Airflow was imported while pytest collected the tests, it would log to the standard output of that phase.
    caplog.set_level("INFO", logger="airflow_mlops.stages")
    name = place.split("(")[0].lower()
    run = run_dag(DAG.format(name=name, arguments=f"run_on={place}"), conf={"file": str(tmp_path / "n")})
    assert run.states() == {"count": "success"}
    result = run.xcom("count")
    assert {name: result[name] for name in ("runs", "summary")} == {"runs": 1, "summary": "Counted 1 run."}
    assert result["usage"]["seconds"] >= 0
    logged = capfd.readouterr().out + caplog.text
    assert "counting 1, cache 7GB" in logged
    assert "Counted 1 run." in logged
    assert "The step took " in logged


@pytest.mark.parametrize("place", ["Worker()", "Process(python=sys.executable)"])
def test_retry_returns_the_stored_result_without_running_again(place, count_step, run_dag, tmp_path):
    name = "lost_" + place.split("(")[0].lower()
    run = run_dag(
        DAG.format(name=name, arguments=f"run_on={place}, lose_result=True"), conf={"file": str(tmp_path / "n")}
    )
    assert run.states() == {"count": "success"}
    assert (tmp_path / "n").read_text() == "1"


@pytest.mark.parametrize("place", ["Worker()", "Process(python=sys.executable)"])
def test_retryable_error_is_retried(place, count_step, run_dag, tmp_path):
    name = "once_" + place.split("(")[0].lower()
    run = run_dag(DAG.format(name=name, arguments=f"run_on={place}, fail='once'"), conf={"file": str(tmp_path / "n")})
    assert run.states() == {"count": "success"}
    assert run.xcom("count")["runs"] == 2


@pytest.mark.parametrize("place", ["Worker()", "Process(python=sys.executable)"])
def test_final_error_is_not_retried_and_is_shown(place, count_step, run_dag, tmp_path, capfd):
    name = "always_" + place.split("(")[0].lower()
    run = run_dag(DAG.format(name=name, arguments=f"run_on={place}, fail='always'"), conf={"file": str(tmp_path / "n")})
    assert run.states() == {"count": "failed"}
    assert (tmp_path / "n").read_text() == "1"
    assert "SpecError: The counter cannot count: give it fingers." in capfd.readouterr().out


VAULT = """
from pathlib import Path
from airflow.sdk.bases.secrets_backend import BaseSecretsBackend

class Vault(BaseSecretsBackend):
    def __init__(self, folder):
        self.folder = Path(folder)
    def get_conn_value(self, conn_id, team_name=None):
        with (self.folder / "asked").open("a") as file:
            file.write(conn_id + "\\n")
        if (self.folder / "away").exists():
            raise TimeoutError("vault.example does not answer")
        file = self.folder / conn_id
        return file.read_text() if file.exists() else None
    def get_variable(self, key, team_name=None):
        return None
"""
READ = """
import sys
from datetime import timedelta
from pathlib import Path
from airflow.sdk import DAG
from airflow_mlops.compute import Process, Worker
from airflow_mlops.operators import IngestOperator

class MendedIngestOperator(IngestOperator):
    def pre_execute(self, context):
        if context["ti"].try_number == 2:
            Path({away!r}).unlink()

with DAG("read_{name}"):
    MendedIngestOperator(
        task_id="read", name="read", conn_id="{conn_id}", sql="SELECT 1 AS a", run_on={place},
        retries=1, retry_delay=timedelta(0),
    )
"""


@pytest.fixture
def vault(tmp_path, monkeypatch):
    """A secrets backend that has the connection ``vaulted``, and does not respond while the file ``away`` exists."""
    import json
    import sqlite3

    from airflow.sdk.configuration import clear_secrets_backends_cache

    (tmp_path / "vault_for_test.py").write_text(VAULT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "vault_for_test.Vault")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps({"folder": str(tmp_path)}))
    clear_secrets_backends_cache()
    sqlite3.connect(tmp_path / "shop.db").close()
    (tmp_path / "shop.db").touch()
    (tmp_path / "vaulted").write_text(f"sqlite:///{tmp_path}/shop.db")
    yield tmp_path
    clear_secrets_backends_cache()


@pytest.mark.parametrize("place", ["Worker()", "Process(python=sys.executable)"])
def test_unavailable_secrets_backend_is_retried(place, run_dag, vault, capfd):
    (vault / "away").touch()
    name = "away_" + place.split("(")[0].lower()
    run = run_dag(READ.format(name=name, place=place, conn_id="vaulted", away=str(vault / "away")))
    assert run.states() == {"read": "success"}
    logged = capfd.readouterr().out
    assert "ConnectionUnavailableError" in logged
    assert "vault.example does not answer" in logged


@pytest.mark.parametrize("place", ["Worker()", "Process(python=sys.executable)"])
def test_connection_that_no_backend_has_is_not_retried(place, run_dag, vault, capfd):
    name = "nowhere_" + place.split("(")[0].lower()
    run = run_dag(READ.format(name=name, place=place, conn_id="nowhere", away=str(vault / "away")))
    assert run.states() == {"read": "failed"}
    logged = capfd.readouterr().out
    assert "ConnectionNotFoundError" in logged
    # There was no second try, which would not find the file.
    assert "FileNotFoundError" not in logged


def test_missing_interpreter_is_named(count_step, run_dag, tmp_path, capfd):
    source = DAG.format(name="nowhere", arguments="run_on=Process(python='/nowhere/python')")
    assert run_dag(source, conf={"file": str(tmp_path / "n")}).states() == {"count": "failed"}
    logged = capfd.readouterr().out
    assert "SpecError: " in logged
    assert "'/nowhere/python'" in logged
    assert "No such file or directory" in logged
