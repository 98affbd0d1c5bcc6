"""``run_on=Spark(...)`` without Spark: connections, the code that executors receive, and killed tasks."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from airflow_mlops.compute import Spark, from_text
from airflow_mlops.compute.package import write_package
from airflow_mlops.compute.spark.executors import SparkExecutors
from airflow_mlops.compute.spark.failures import failure
from airflow_mlops.compute.spark.runner import SparkRunner
from airflow_mlops.compute.spark.session import connect_url, master_of
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import ComputeError, SpecError


def connection(**parts: object) -> ConnectionInfo:
    return ConnectionInfo.of("spark", **{"conn_type": "spark", **parts})


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        ({"host": "sc://s"}, "sc://s"),
        ({"host": "s", "port": 15002}, "sc://s:15002"),
        ({"host": "sc://s/", "login": "me", "password": "a;b=c"}, "sc://s/;user_id=me;token=a%3Bb%3Dc"),
        ({"host": "sc://s", "port": 443, "extra": {"use_ssl": True}}, "sc://s:443/;use_ssl=true"),
    ],
)
def test_a_server_of_spark_connect(parts, url):
    assert connect_url(connection(**parts)) == url


@pytest.mark.parametrize("host", [None, "sc://s/path"])
def test_a_connection_that_names_no_server(host):
    with pytest.raises(SpecError, match="'spark'"):
        connect_url(connection(host=host))


@pytest.mark.parametrize(
    ("parts", "master"),
    [
        ({"host": "spark://s", "port": 7077}, "spark://s:7077"),
        ({"host": "s", "port": 7077}, "spark://s:7077"),
        ({"host": "yarn", "extra": {"queue": "q"}}, "yarn"),
        ({"host": "local[2]"}, "local[2]"),
        ({"host": "k8s://https://s", "port": 443}, "k8s://https://s:443"),
        ({"host": "localhost", "port": 7077}, "spark://localhost:7077"),
    ],
)
def test_a_master(parts, master):
    assert master_of(connection(**parts)) == master


JAVA = """An error occurred while calling o52.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:2856)
Caused by: java.io.IOException: Cannot run program "python3": error=2, No such file or directory
\tat java.base/java.lang.ProcessBuilder.start(ProcessBuilder.java:1143)
\t... 28 more
"""


def test_an_error_of_spark_is_one_sentence_without_a_traceback_of_java():
    found = failure(RuntimeError(JAVA), "The job")
    assert isinstance(found, SpecError)
    assert 'Cannot run program "python3": error=2' in str(found)
    assert "spark.pyspark.python" in str(found)
    assert not [word for word in ("DAGScheduler", "Caused by", "java.io", "\n") if word in str(found)]
    lost = failure(RuntimeError("\n".join(JAVA.splitlines()[:3])), "The job")
    assert isinstance(lost, ComputeError)
    assert lost.retryable
    assert "Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times" in str(lost)
    assert "DAGScheduler" not in str(lost)


def test_an_exception_of_python_is_the_reason():
    text = 'An exception was thrown from the Python worker.\nTraceback (most recent call last):\n  File "x", line 1\nOSError: no'
    assert "failed (OSError: no)" in str(failure(RuntimeError(text), "The job"))


def test_a_package_that_executors_lack_is_named():
    text = "Traceback (most recent call last):\n  ...\nModuleNotFoundError: No module named 'onnxruntime'\n"
    found = failure(RuntimeError(text), "The job")
    assert isinstance(found, SpecError)
    assert "'onnxruntime'" in str(found)


def test_executors_need_neither_airflow_nor_an_installed_package(tmp_path):
    with zipfile.ZipFile(write_package()) as archive:
        assert "airflow_mlops/stages/score/on_executors.py" in archive.namelist()
        archive.extractall(tmp_path)
    code = """
import sys
for name in ("airflow", "mlflow", "duckdb", "pandas", "scipy", "sklearn", "sqlalchemy", "jinja2"):
    sys.modules[name] = None
import airflow_mlops.stages.executors, airflow_mlops.stages.score.on_executors, airflow_mlops.stages.profile.on_executors
import airflow_mlops.stages.join_labels.on_executors
print(airflow_mlops.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


def test_only_variables_of_the_store_and_named_connections_are_sent(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "f")
    place = Spark(env={"AWS_REGION": "us-east-1", "X": "y"})
    executors = SparkExecutors(place, "memory://x", lambda conn_id: connection(password="p"), "name")
    found = executors._environment(["hashes"])
    assert (found["AWS_REGION"], found["X"]) == ("us-east-1", "y")
    assert '"p"' in found["AIRFLOW_CONN_HASHES"]
    assert not [name for name in found if "FERNET" in name]
    # Airflow's UI shows the description of run_on.
    assert "us-east-1" not in repr(place)


def test_spark_is_parsed_from_text():
    place = from_text('{"Spark": {"conn_id": "big", "conf": {"spark.executor.memory": "4g"}}}')
    assert isinstance(place, Spark)
    assert (place.conn_id, place.conf) == ("big", {"spark.executor.memory": "4g"})


def test_a_killed_task_ends_its_parts_before_the_step():
    runner = SparkRunner(Spark(), None)
    call = StepCall(step="score", spec={}, store="memory://x", key="k", version="v")
    with runner.executors(call) as executors:
        closed = []
        executors.close = lambda: closed.append(runner._running)
        runner._running = True
        with pytest.raises(SystemExit):
            runner.on_kill()
    assert closed[0] is True
