"""Train and search on a real cluster of Ray: the same results as on the worker, killed tasks, and errors as one sentence."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_mlops import __version__
from airflow_mlops.compute import Ray
from airflow_mlops.compute.ray import job as ray_job
from airflow_mlops.compute.ray.cluster import connected
from airflow_mlops.compute.ray.runner import RayRunner
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import ComputeError, NoCapacityError, SpecError, TrainingError
from airflow_mlops.data.results import read_result, write_result
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.search.spec import SearchSpec
from airflow_mlops.trainers import FunctionTrainer, Int, Search
from tests.integration.conftest import BUNDLE, end_group, free_port
from tests.support.training import training_set

pytestmark = pytest.mark.slow

TOKEN, SECRET = "0123456789abcdef0123456789abcdef", "RaYsEcReT0123456789"
STARTED = 120.0

DAG = """
from airflow.sdk import DAG
from airflow_mlops.compute import Ray
from airflow_mlops.operators import SearchOperator, TrainOperator
from airflow_mlops.trainers import FunctionTrainer, Int, Search

options = {{"dataset": {dataset!r}, "trainer": FunctionTrainer("trained_on_ray:train", {{"depth": 3}})}}
with DAG("ray_{model}", default_args={{"model": "{model}"}}):
    here = TrainOperator(task_id="here", **options)
    there = TrainOperator(task_id="there", run_on=Ray(num_cpus=2, memory="200Mi", env={{"ON_RAY": "1"}}), **options)
    here >> there
    searched = {{
        "dataset": {dataset!r},
        "search": Search(FunctionTrainer("trained_on_ray:train"), {{"depth": Int(1, 9)}}, trials=4, folds=2),
        "seed": 5,
    }}
    SearchOperator(task_id="search_here", **searched)
    SearchOperator(task_id="search_there", run_on=Ray(), **searched)
"""
# In the folder of the DAG file, which the node has at the same path.
MODULE = """
import os, pathlib, time
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

def wait_for_another(folder):
    # A trial in another process, which waits for this one.
    folder = pathlib.Path(folder)
    folder.joinpath(str(os.getpid())).touch()
    end = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.1)

def train(X, y, *, params, seed):
    if "MEET_IN" in os.environ:
        wait_for_another(os.environ["MEET_IN"])
    if "ON_RAY" in os.environ:
        print("threads", os.environ["OMP_NUM_THREADS"], os.environ["AWS_SECRET_ACCESS_KEY"])
    numbers = make_column_transformer((SimpleImputer(), list(X.select_dtypes("number").columns)))
    return make_pipeline(numbers, DecisionTreeClassifier(max_depth=params["depth"], random_state=seed)).fit(X, y)
"""
# Stands in for this package in tests that do not run a step.
STAND_IN = """
import json, os, pathlib, signal, sys, time

def run_reported(call):
    spec = json.loads(call)["spec"]
    folder = pathlib.Path(spec["folder"])
    if spec["does"] == "dies":
        folder.joinpath(f"died_{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if spec["does"] == "fails":
        return json.dumps({"error": "TrainingError", "message": "too few rows", "traceback": ""})
    if spec["does"] == "trains":
        ended = []
        signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
        folder.joinpath("started").touch()
        while not ended:
            time.sleep(0.05)
        # A second SIGTERM would end a training before its checkpoint is complete.
        time.sleep(1.5)
        folder.joinpath("checkpoint").write_text(str(len(ended)))
        sys.exit(143)
    return "{}"
"""


class Cluster:
    """A head node with two CPUs, a client server and a token."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        options = {
            "port": free_port(),
            "ray-client-server-port": self.port,
            "include-dashboard": "false",
            "num-cpus": 2,
            "object-store-memory": 100_000_000,
            # The paths of Unix sockets must be short.
            "temp-dir": folder,
            # By default, other components may listen on ports that are taken above.
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))}
        # Ray sets this variable to the number of CPUs of the task.
        env.pop("OMP_NUM_THREADS", None)
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        self.head = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "start",
                "--head",
                "--block",
                "--disable-usage-stats",
                *arguments,
            ],
            env=env,
            cwd=folder,
            stdout=(folder / "head.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        end = time.monotonic() + STARTED
        while not self._answers():
            assert self.head.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        self._warm_up()

    def _warm_up(self) -> None:
        """Connect once. On a loaded machine, the parts of a new cluster may wait too long for each other."""
        for tries_left in (2, 1, 0):
            try:
                with connected(ConnectionInfo.of("ray_default", **json.loads(self.connection)), {}, {}):
                    return
            except ComputeError:
                if not tries_left:
                    raise

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return "Ray runtime started" in (self.folder / "head.log").read_text()

    @property
    def connection(self) -> str:
        return json.dumps({"conn_type": "ray", "host": "ray://127.0.0.1", "port": self.port, "password": TOKEN})

    def logs(self) -> str:
        return "".join(
            file.read_text(errors="replace") for file in self.folder.glob("session_2*/logs/*") if file.is_file()
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install airflow-mlops[ray]")
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="mlr-", dir="/tmp"))
    found = Cluster(folder)
    yield found
    end_group(found.head)
    shutil.rmtree(folder, ignore_errors=True)


def packed(code: str) -> bytes:
    """An archive with a package that has only the function ``run_reported``."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("airflow_mlops/__init__.py", "")
        archive.writestr("airflow_mlops/stages/__init__.py", "")
        archive.writestr("airflow_mlops/stages/reported.py", code)
    return content.getvalue()


@pytest.fixture
def run(cluster, monkeypatch, tmp_path, store):
    """``run(does, place)`` runs the function of STAND_IN that ``does`` names on the cluster."""
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", cluster.connection)

    def run(does: str, place: Ray | None = None, started=lambda runner: None):
        code = "import a_package_that_no_node_has" if does == "lacks" else STAND_IN
        monkeypatch.setattr(ray_job, "package", lambda: packed(code))
        spec = {"does": does, "folder": str(tmp_path)}
        call = StepCall(step="train", spec=spec, store=store.url, key=f"results/{does}.json", version=__version__)
        runner = RayRunner(place or Ray(), logging.getLogger(__name__))
        started(runner)
        return runner.run(call, set(), {})

    return run


def test_the_candidate_is_the_same_as_on_the_worker(cluster, run_dag, client, monkeypatch, capfd):
    from airflow_mlops.settings import default_store

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    dataset = training_set(ArtifactStore(default_store())).model_dump(mode="json")
    model, module = f"late_{uuid.uuid4().hex[:8]}", BUNDLE / "trained_on_ray.py"
    module.write_text(MODULE)
    try:
        done = run_dag(DAG.format(model=model, dataset=dataset), connections={"ray_default": cluster.connection})
    finally:
        module.unlink()
    assert done.states() == dict.fromkeys(("here", "there", "search_here", "search_there"), "success")
    here, there = done.xcom("here"), done.xcom("there")
    # The version of an earlier training is returned only if its export, data, parameters, code and packages are the same.
    assert there["candidate"] == here["candidate"]
    assert there["run_id"] != here["run_id"]
    assert (there["metrics"], there["dataset"]) == (here["metrics"], here["dataset"])
    # A search by one worker has the same trials.
    here, there = done.xcom("search_here"), done.xcom("search_there")
    assert there["run_id"] != here["run_id"]
    for name in ("params", "value", "trials", "trainer"):
        assert there[name] == here[name]
    # The step got the requested CPUs and the credentials.
    assert "threads 2 ***" in cluster.logs()
    output = "".join(capfd.readouterr()) + cluster.logs()
    assert SECRET not in output
    assert TOKEN not in output


def test_the_workers_of_a_search_run_trials_at_once_on_the_cluster(
    cluster, store, client, mlflow_connection, tmp_path, monkeypatch
):
    folder, model = tmp_path / "running", f"late_{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    (tmp_path / "trained_on_ray.py").write_text(MODULE)
    search = Search(FunctionTrainer("trained_on_ray:train"), {"depth": Int(1, 9)}, trials=4, folds=2, pruner=None)
    dataset = training_set(store)
    env = {"MEET_IN": str(folder), "AIRFLOW_CONN_MLFLOW_DEFAULT": os.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"]}

    def work(number: int) -> dict[str, object]:
        """One instance of a mapped task."""
        spec = SearchSpec(dataset=dataset, model=model, search=search, worker=number)
        about = Provenance(dag_id="d", run_id="r", task_id="search", map_index=number)
        call = StepCall(
            step="search",
            spec=spec.model_dump(mode="json"),
            store=store.url,
            key=f"results/d/r/search/{number}/0-0123456789abcdef.json",
            version=__version__,
            provenance=about,
        )
        report = ray_job.RayJob(f"search {number}", {"CPU": 1}, 60).run(env, [str(tmp_path)], call.model_dump_json())
        assert not report, report
        return read_result(store, call.key)

    with connected(ConnectionInfo.of("ray_default", **json.loads(cluster.connection)), {}, {}):
        results = list(ThreadPoolExecutor(2).map(work, range(2)))
    # The first trial of each worker waited for that of the other.
    assert len(list(folder.iterdir())) == 2
    assert len({(result["study"], result["run_id"]) for result in results}) == 1
    assert max(sum(result["trials"].values()) for result in results) >= 4
    run = client.get_run(results[0]["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["trials_complete"] >= 4


def test_a_killed_task_lets_the_step_write_a_checkpoint(run, tmp_path):
    def kill_once_started(runner):
        signal.signal(signal.SIGUSR1, lambda *_: runner.on_kill())

        def kill():
            while not (tmp_path / "started").exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGUSR1)

        threading.Thread(target=kill, daemon=True).start()

    with pytest.raises(ComputeError, match="cancelled"):
        run("trains", started=kill_once_started)
    assert (tmp_path / "checkpoint").read_text() == "1"


def test_airflow_and_not_ray_repeats_a_step_that_the_system_kills(run, tmp_path):
    with pytest.raises(ComputeError, match="WorkerCrashedError") as raised:
        run("dies")
    assert raised.value.retryable
    assert len(list(tmp_path.glob("died_*"))) == 1


def test_errors_of_the_step_keep_their_type(run):
    with pytest.raises(TrainingError, match="too few rows"):
        run("fails")
    with pytest.raises(SpecError, match="a_package_that_no_node_has"):
        run("lacks")


def test_a_result_that_the_worker_does_not_see(run, store):
    with pytest.raises(ComputeError, match="reach this store"):
        run("nothing")


def test_resources_that_the_cluster_never_has(run):
    with pytest.raises(NoCapacityError, match="1 CPU, 1 GPU"):
        run("nothing", Ray(num_gpus=1, schedule_timeout=0))


def test_a_runtime_environment_with_a_misspelled_field(run):
    with pytest.raises(SpecError, match="'pipp'"):
        run("nothing", Ray(runtime_env={"pipp": ["x"]}))


def test_a_local_ray_ends_with_the_step(run, monkeypatch):
    import ray

    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", "ray://local")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingError, match="too few rows"):
        run("fails")
    # Airflow's own handler of SIGTERM, which ends a task, is in place again.
    assert signal.getsignal(signal.SIGTERM) is before
    assert not ray.is_initialized()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_retry_returns_the_stored_result_without_ray(store, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", f"ray://127.0.0.1:{free_port()}")
    call = StepCall(step="train", spec={}, store=store.url, key="results/a.json", version=__version__)
    runner = RayRunner(Ray(), logging.getLogger(__name__))
    with pytest.raises(ComputeError, match="cannot be reached"):
        runner.run(call, set(), {})
    write_result(store, call.key, {"summary": "done"})
    assert runner.run(call, set(), {}) == {"summary": "done"}
