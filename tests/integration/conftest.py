"""Real services, started once for the whole session: Airflow's metadata database and an MLflow server.

Airflow reads its configuration when it is first imported, so its home is set up here, before any test module.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import mlflow_db, plots
from tests.support.airflow_db import create_database
from tests.support.pickles import unpickled

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.data.store import ArtifactStore

HOME = Path(tempfile.mkdtemp(prefix="airflow-mlops-tests-"))
BUNDLE = HOME / "dags"
BUNDLE.mkdir()
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(BUNDLE),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{HOME}/airflow.db",
    AIRFLOW__MLOPS__ARTIFACTS=f"file://{HOME}/artifacts",
    AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(HOME / "logs"),
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    FEAST_USAGE="False",
    GX_ANALYTICS_ENABLED="false",
    # Threads that wait in a busy loop slow each other down if tests share few cores.
    OMP_WAIT_POLICY="PASSIVE",
)

# For each request, MLflow's client tries to import these 16 times, to find out whether it runs on Databricks. If they are not
# installed, each attempt searches the whole path: a third of the client's CPU time.
for _name in ("dbruntime", "IPython", "pyspark"):
    if find_spec(_name) is None:
        sys.modules[_name] = None  # type: ignore[assignment]


@pytest.fixture(scope="session", autouse=True)
def _remove_home() -> Iterator[None]:
    yield
    import shutil

    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Airflow's metadata database."""
    # The tests on the cluster use this fixture, too. If one process runs both kinds of tests, it must not replace a
    # database that is in use.
    if not (file := HOME / "airflow.db").exists():
        create_database(file)
    from airflow.models import import_all_models
    from sqlalchemy.orm import configure_mappers

    # Import these modules while there is only one thread. In dag.test(), two threads would wait for each other's
    # imports.
    import_all_models()
    configure_mappers()


@dataclass
class DagRunOutcome:
    """A finished DAG run."""

    dag_id: str
    run_id: str
    state: str

    def states(self) -> dict[str, str]:
        """State of every task; mapped ones as ``task_id[map_index]``."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            found = session.scalars(
                select(TaskInstance).where(TaskInstance.dag_id == self.dag_id, TaskInstance.run_id == self.run_id)
            )
            return {f"{ti.task_id}[{ti.map_index}]" if ti.map_index >= 0 else ti.task_id: str(ti.state) for ti in found}

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task returned or pushed."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            row = session.scalars(
                XComModel.get_many(
                    run_id=self.run_id, key=key, task_ids=task_id, dag_ids=self.dag_id, map_indexes=map_index
                )
            ).first()
            return XComModel.deserialize_value(row) if row is not None else None

    def shown(self, task_id: str, map_index: int = -1) -> str | None:
        """What Airflow's UI shows in the column *Map Index* of a task."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            found = session.scalars(
                select(TaskInstance).where(
                    TaskInstance.dag_id == self.dag_id,
                    TaskInstance.run_id == self.run_id,
                    TaskInstance.task_id == task_id,
                    TaskInstance.map_index == map_index,
                )
            ).one()
            return found.rendered_map_index

    def rendered(self, task_id: str) -> dict[str, Any]:
        """The rendered template fields of a task, as Airflow's UI shows them."""
        from airflow.models.renderedtifields import RenderedTaskInstanceFields
        from airflow.utils.session import create_session
        from sqlalchemy import select

        fields = RenderedTaskInstanceFields
        with create_session() as session:
            found = session.scalars(
                select(fields).where(
                    fields.dag_id == self.dag_id, fields.run_id == self.run_id, fields.task_id == task_id
                )
            ).one()
            return dict(found.rendered_fields)

    def asset_events(self) -> list[tuple[str, dict[str, Any]]]:
        """URI and extra of every asset event the run emitted, oldest first."""
        from airflow.models.asset import AssetEvent
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            events = session.scalars(
                select(AssetEvent)
                .where(AssetEvent.source_dag_id == self.dag_id, AssetEvent.source_run_id == self.run_id)
                .order_by(AssetEvent.id)
            )
            return [(event.asset.uri, dict(event.extra)) for event in events]


RunDag = Callable[..., DagRunOutcome]


@pytest.fixture
def run_dag(airflow_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDag]:
    """``run_dag(source, conf=None, connections=None)``: put ``source`` into the DAG bundle, run it, and return the outcome.

    ``source`` is the text of a DAG file that defines exactly one DAG. ``connections`` maps ids to URIs or JSON.
    Tasks run in this process, through the same code as in a worker.
    """
    written: list[Path] = []

    def run(
        source: str, conf: dict[str, Any] | None = None, connections: dict[str, str] | None = None
    ) -> DagRunOutcome:
        from airflow.dag_processing.dagbag import DagBag

        for conn_id, value in (connections or {}).items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", value)
        file = BUNDLE / f"dag_{len(list(BUNDLE.iterdir()))}_{time.monotonic_ns()}.py"
        file.write_text(textwrap.dedent(source))
        written.append(file)
        bag = DagBag(file, bundle_path=BUNDLE, bundle_name="dags-folder")
        assert not bag.import_errors, bag.import_errors
        (dag,) = bag.dags.values()
        outcome = dag.test(run_conf=conf)
        return DagRunOutcome(dag.dag_id, outcome.run_id, str(outcome.state))

    yield run
    for file in written:
        file.unlink()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_group(server: subprocess.Popen[bytes]) -> None:
    """End a server and all its child processes. MLflow waits for its workers, which wait for their clients."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=5)


@contextlib.contextmanager
def run_mlflow(folder: Path, host: str, **environment: str) -> Iterator[str]:
    """The address of a real MLflow tracking server on SQLite, with its files in ``folder``.

    :param environment: further environment variables of the server
    """
    # gunicorn needs two thirds of uvicorn's CPU time. If a request directly follows the end of an upload, gunicorn 26.2
    # may read both and never answer the request. The client repeats the request when the connection is closed.
    options = ("--gunicorn-opts", "--threads 8 --keep-alive 10")
    folder.mkdir(exist_ok=True)
    is_new = not (database := folder / "mlflow.db").exists()
    if is_new:
        mlflow_db.create_database(database)
    address = f"http://{host}:{(port := free_port())}"
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow_in_one_process", "server", "--host", host, "--port", str(port),
                "--workers", "1", *options, "--backend-store-uri", f"sqlite:///{database}",
                "--artifacts-destination", f"{folder}/artifacts",
            ],
            # Job execution would start nine processes that no test needs.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment},
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(600):
                if server.poll() is not None:
                    break
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=1).read()
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail(f"MLflow did not start: {(folder / 'server.log').read_text()[-2000:]}")
            assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
            if is_new:
                mlflow_db.keep(database)
            yield address
        finally:
            end_group(server)


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[str]:
    """The address of a real MLflow tracking server."""
    with run_mlflow(HOME / "mlflow", "127.0.0.1") as address:
        yield address


@pytest.fixture(scope="module")
def files_in_a_folder(mlflow_server: str) -> Iterator[None]:
    """MLflow experiments that this process creates keep their files in a folder of this machine, and not on the server.

    No request is then sent for a file. Tests need more CPU time for these requests than for all others.
    """
    from mlflow import MlflowClient

    from tests.support import candidates

    create = MlflowClient.create_experiment

    def create_with_folder(
        client: MlflowClient, name: str, artifact_location: str | None = None, tags: dict[str, Any] | None = None
    ) -> str:
        return create(client, name, artifact_location or (HOME / "mlflow" / uuid.uuid4().hex).as_uri(), tags)

    @cache
    def default(uri: str) -> str:
        return create_with_folder(MlflowClient(uri, uri), f"default {uuid.uuid4().hex}")

    create_run = MlflowClient.create_run

    def create_run_in_folder(client: MlflowClient, experiment_id: str, *args: Any, **options: Any) -> Any:
        # The server has created the experiment 0, which keeps its files there.
        return create_run(
            client, default(client.tracking_uri) if experiment_id == "0" else experiment_id, *args, **options
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "create_experiment", create_with_folder)
        patch.setattr(MlflowClient, "create_run", create_run_in_folder)
        # A module whose files are on the server may have created the experiment.
        patch.setattr(candidates, "EXPERIMENT", f"tests {uuid.uuid4().hex}")
        yield


@pytest.fixture
def mlflow_connection(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The connection ``mlflow_default``, pointing at the real server."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow_server}))
    return mlflow_server


@pytest.fixture
def no_pickles() -> Iterator[None]:
    """The test loads no pickle in this process."""
    with unpickled() as found:
        yield
    assert found == []


@pytest.fixture(autouse=True)
def empty_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests with the mark ``plots`` render the plots of an evaluation."""
    if "mlflow_server" in request.fixturenames and not request.node.get_closest_marker("plots"):
        plots.leave_empty(monkeypatch)


@pytest.fixture
def client(mlflow_connection: str) -> MlflowClient:
    """A client of the real server."""
    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.core.references import MLflowTarget
    from airflow_mlops.registry.client import connect

    return connect(MLflowTarget(), from_environment)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """An artifact store of this test alone."""
    from airflow_mlops.data.store import ArtifactStore

    return ArtifactStore(f"file://{tmp_path}/store")
