"""Run a real Airflow (scheduler, API server, DAG processor, triggerer) on the loopback interface inside a block."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from tests.support.airflow_db import create_database

COMPONENTS = {
    "api-server": ("api-server", "--workers", "1", "--host", "127.0.0.1"),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
FINISHED = {"success", "failed"}
# What the steps import, for ``[mlops] preload``. Otherwise, each task spends seconds of CPU time on it.
STEPS = (
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.execution_time.task_runner",
    "airflow_mlops.observability.export",
    "airflow_mlops.operators.evaluate",
    "airflow_mlops.operators.ingest",
    "airflow_mlops.operators.monitor",
    "airflow_mlops.operators.profile",
    "airflow_mlops.operators.promote",
    "airflow_mlops.operators.retraining",
    "airflow_mlops.operators.score",
    "airflow_mlops.operators.train",
    "airflow_mlops.operators.training_set",
    "airflow_mlops.operators.validate",
    "airflow_mlops.stages.runner",
    "airflow_mlops.stages.evaluate.step",
    "airflow_mlops.stages.ingest.step",
    "airflow_mlops.stages.monitor.step",
    "airflow_mlops.stages.profile.step",
    "airflow_mlops.stages.promote.step",
    "airflow_mlops.stages.score.step",
    "airflow_mlops.stages.train.step",
    "airflow_mlops.stages.training_set.step",
    "airflow_mlops.stages.validate.step",
    "pyarrow.dataset",
    "pandas",
    "duckdb",
    "mlflow",
    "skops.io",
)


class LiveAirflow:
    """Airflow with LocalExecutor on SQLite. The context manager starts it, and at the end kills all of its processes.

    :param home: an empty folder for AIRFLOW_HOME
    :param dags: the folder with the DAG files
    :param env: further environment variables, which override the variables that this class sets
    :param python: the interpreter of the environment in which Airflow is installed; by default this interpreter
    :param all_admins: whether every request is one of an admin, without a login. Otherwise, requests have the token of
        a user, by default ``admin``
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        env: Mapping[str, str] | None = None,
        *,
        python: Path | str = sys.executable,
        all_admins: bool = True,
    ) -> None:
        self.home = home
        self.dags = dags
        self.python = str(python)
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__FERNET_KEY": "",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": str(all_admins),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            # On a busy machine a writer waits longer than the usual 5 s for the lock.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__PORT": self.url.rpartition(":")[2],
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            # On a busy machine, the API server answers late. A task that gets no answer fails before it begins.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            # Airflow notices the end of a process up to this many seconds late (5 by default). Meanwhile, a trigger may
            # have fired, and the scheduler then marks the deferred task as failed.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
            # By default, an idle scheduler looks for work every second, which takes a seventh of a core.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "2",
            "AIRFLOW__MLOPS__ARTIFACTS": f"file://{home}/artifacts",
            "AIRFLOW__MLOPS__PRELOAD": ",".join(STEPS),
            **(env or {}),
        }
        self._all_admins = all_admins
        self._tokens: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> LiveAirflow:
        try:
            self._create_database()
            for name in COMPONENTS:
                self.start(name)
            self.until(self._healthy, "Airflow is healthy", timeout=180)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _create_database(self) -> None:
        installed = f"lib/python*/site-packages/apache_airflow_core-{version('apache-airflow-core')}.dist-info"
        if self.python == sys.executable or any(Path(self.python).parents[1].glob(installed)):
            create_database(self.home / "airflow.db")
            return
        # The other environment has another version of Airflow.
        command = [self.python, "-m", "airflow", "db", "migrate"]
        subprocess.run(command, env=self.env, check=True, capture_output=True, timeout=300)

    def start(self, component: str) -> None:
        """Start a component, or start it again."""
        with (self.home / f"{component}.log").open("ab") as log:
            self._processes[component] = subprocess.Popen(
                [self.python, "-m", "airflow", *COMPONENTS[component]],
                env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self, component: str) -> None:
        """Kill a component and all processes that it started, with SIGKILL."""
        process = self._processes[component]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_tasks(self) -> int:
        """Kill the processes that run tasks, and those that supervise them, with SIGKILL."""
        import psutil

        killed = 0
        for worker in psutil.Process(self._processes["scheduler"].pid).children():
            if tasks := worker.children(recursive=True):
                for process in (worker, *tasks):
                    process.kill()
                    killed += 1
        return killed

    def _stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            # Tasks run in sessions of their own and end with their supervisor. This ends the other processes of the
            # session.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _healthy(self) -> bool:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with status {process.returncode}:\n{self.output(name)[-3000:]}")
        try:
            health = self.get("/api/v2/monitor/health", token=False)
        except OSError:
            return False
        return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor", "triggerer"))

    def cli(self, *arguments: str) -> str:
        """Run a command of ``airflow``, and return what it prints.

        :raises subprocess.CalledProcessError: the command fails
        """
        command = [self.python, "-m", "airflow", *arguments]
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True, timeout=180).stdout

    def output(self, component: str) -> str:
        """Return what a component has logged so far."""
        return (self.home / f"{component}.log").read_text(errors="replace")

    def problems(self) -> str:
        """Return the last errors and tracebacks in each log of the components and tasks."""
        found = []
        for path in sorted(self.home.rglob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            bad = [
                line[:1000] for line in lines if re.search(r'"level":"(error|critic)|\[(error|critic)|^Traceback', line)
            ]
            if bad:
                found += [f"--- {path.relative_to(self.home)}", *bad[-8:]]
        return "\n".join(found)

    def until(self, condition: Callable[[], Any], what: str, timeout: float = 180) -> Any:
        """Wait until ``condition`` returns a true value, and return this value.

        :param what: description of the condition, for the error
        :raises TimeoutError: the condition is still false after ``timeout`` seconds
        """
        started = time.monotonic()
        while (waited := time.monotonic() - started) < timeout:
            if found := condition():
                return found
            # Most conditions send requests. Their CPU time slows down the processes that the test waits for.
            time.sleep(min(0.5, 0.25 + waited / 20))
        raise TimeoutError(f"Waited {timeout:.0f} s in vain until {what}.\n{self.output('scheduler')[-3000:]}")

    def request(
        self, method: str, path: str, body: Any = None, *, token: bool = True, user: str = "admin"
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send an HTTP request. A response with an error status is returned as well."""
        headers = {"Content-Type": "application/json"}
        if token and not self._all_admins:
            headers["Authorization"] = f"Bearer {self._login(user)}"
        request = urllib.request.Request(
            self.url + path, None if body is None else json.dumps(body).encode(), headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def token(self, user: str = "admin") -> str:
        """The token of a user, as Airflow's pages have it in a cookie."""
        return self._login(user)

    def _login(self, user: str) -> str:
        if user not in self._tokens:
            passwords = json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text())
            credentials = {"username": user, "password": passwords[user]}
            status, _, body = self.request("POST", "/auth/token", credentials, token=False)
            assert status == 201, body
            self._tokens[user] = json.loads(body)["access_token"]
        return self._tokens[user]

    def call(self, method: str, path: str, body: Any = None, *, token: bool = True) -> Any:
        """Send a request to the API, and return the JSON of the response.

        :raises RuntimeError: the response is an error
        """
        for _ in range(5):
            status, _, content = self.request(method, path, body, token=token)
            # If a transaction began with a read and another transaction has written since, SQLite refuses the lock
            # immediately. Airflow therefore recommends a database server. The refused transaction has changed nothing.
            if status != 500 or b'"Database error"' not in content:
                break
            time.sleep(1)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {content.decode(errors='replace')[:1000]}")
        return json.loads(content) if content else None

    def get(self, path: str, *, token: bool = True) -> Any:
        return self.call("GET", path, token=token)

    def connect(self, conn_id: str, **fields: Any) -> None:
        """Add a connection; ``extra`` may be a dictionary."""
        if "extra" in fields:
            fields["extra"] = json.dumps(fields["extra"])
        self.call("POST", "/api/v2/connections", {"connection_id": conn_id, **fields})

    def parsed(self, dag_id: str) -> None:
        """Wait until Airflow knows the DAG."""

        def known() -> bool:
            if errors := self.get("/api/v2/importErrors")["import_errors"]:
                raise RuntimeError(errors[0]["stack_trace"])
            return self.request("GET", f"/api/v2/dags/{dag_id}")[0] == 200

        self.until(known, f"DAG {dag_id} is parsed", timeout=600)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, partition_key: str | None = None) -> str:
        """Trigger a run and return its id."""
        self.parsed(dag_id)
        body = {"logical_date": None, "conf": conf or {}, "partition_key": partition_key}
        return str(self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def stored(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        """Return rows of Airflow's database.

        Tests that wait for a state use this method, because a request to the API takes ten times the CPU time.
        """
        with closing(sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=60)) as database:
            return database.execute(sql, values).fetchall()

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return list(self.get(f"/api/v2/dags/{dag_id}/dagRuns?order_by=id")["dag_runs"])

    def wait(self, dag_id: str, run_id: str, timeout: float = 300) -> str:
        """Wait for a run to end, and return its state."""

        def ended() -> str | None:
            ((state,),) = self.stored("SELECT state FROM dag_run WHERE dag_id = ? AND run_id = ?", dag_id, run_id)
            return str(state) if state in FINISHED else None

        return str(self.until(ended, f"{dag_id} {run_id} ends", timeout))

    def wait_for_success(self, dag_id: str, run_id: str, timeout: float = 300) -> None:
        """Wait for a run to end, and fail with the last lines of the tasks that failed if the run did."""
        if self.wait(dag_id, run_id, timeout) != "success":
            ends = {
                (task["task_id"], task["map_index"], task["try_number"]): self.logs(
                    dag_id, run_id, task["task_id"], task["try_number"], task["map_index"]
                )[-2000:]
                for task in self.task_instances(dag_id, run_id)
                if task["state"] == "failed"
            }
            raise AssertionError(f"{dag_id} {run_id} failed: {ends}")

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return list(self.get(f"{self._run(dag_id, run_id)}/taskInstances")["task_instances"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return the XCom of a task, or of one instance of a mapped task."""
        path = f"{self._run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}?stringify=false&map_index={map_index}"
        return self.get(path)["value"]

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Return the extra links of a task, by name."""
        return dict(self.get(f"{self._run(dag_id, run_id)}/taskInstances/{task_id}/links")["extra_links"])

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        """Clear tasks of a run, as a user does to run them again."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, "task_ids": list(task_ids)}
        self.call("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", body)

    def fail(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Mark a task failed, as a user does to end it."""
        self.call("PATCH", f"{self._run(dag_id, run_id)}/taskInstances/{task_id}", {"new_state": "failed"})

    def asset_events(self, query: str) -> list[dict[str, Any]]:
        """The asset events that a query finds.

        While a run that an event has started is queued, Airflow 3.3 answers with status 500: the run has no start date yet,
        and the model of the answer requires one.
        """

        def answer() -> Any:
            status, _, content = self.request("GET", f"/api/v2/assets/events?{query}")
            assert status in (200, 500), content
            return json.loads(content) if status == 200 else None

        return list(self.until(answer, "the asset events can be listed")["asset_events"])

    def until_deferred(self, dag_id: str, run_id: str, *task_ids: str, state: str = "deferred") -> None:
        """Wait until tasks that are not mapped are deferred, their processes have ended and their triggers run.

        If the trigger of a task fires before the scheduler has recorded the end of the process, Airflow 3.3 treats this
        end as the end of the resumed task, and fails the task. A trigger that does not run yet is not notified that its
        task was killed."""
        logs = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"

        def is_deferred(task_id: str, try_number: int) -> bool:
            key = f"(dag_id='{dag_id}', task_id='{task_id}', run_id='{run_id}', try_number={try_number}"
            if f"event with state success for task instance TaskInstanceKey{key}" not in self.output("scheduler"):
                return False
            log = f"task_id={task_id}/attempt={try_number}.log.trigger.*.log"
            return state != "deferred" or any("starting" in file.read_text() for file in logs.glob(log))

        def all_are() -> bool:
            sql = "SELECT task_id, try_number FROM task_instance WHERE dag_id = ? AND run_id = ? AND state = ?"
            found = dict(self.stored(sql, dag_id, run_id, state))
            return all(task_id in found and is_deferred(task_id, found[task_id]) for task_id in task_ids)

        self.until(all_are, f"{', '.join(task_ids)} of {dag_id} are {state}")

    def request_for_approval(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Wait until a run asks for approval and can be answered, and return what it asks."""
        path = f"{self._run(dag_id, run_id)}/hitlDetails?response_received=false&state=awaiting_input"
        waiting = "SELECT 1 FROM task_instance WHERE dag_id = ? AND run_id = ? AND state = 'awaiting_input'"

        def asked() -> dict[str, Any] | None:
            found = self.stored(waiting, dag_id, run_id) and self.get(path)["hitl_details"]
            return dict(found[0]) if found else None

        found = dict(self.until(asked, f"{dag_id} {run_id} asks for approval"))
        self.until_deferred(dag_id, run_id, found["task_instance"]["task_id"], state="awaiting_input")
        return found

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str, note: str = "", user: str = "admin") -> int:
        """Answer a request for approval; the status of Airflow's answer."""
        body = {"chosen_options": [option], "params_input": {"note": note}}
        path = f"{self._run(dag_id, run_id)}/taskInstances/{task_id}/-1/hitlDetails"
        return self.request("PATCH", path, body, user=user)[0]

    def logs(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """The lines of one try of a task, or of one of its instances if it is mapped."""
        path = f"{self._run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}"
        path += f"?full_content=true&map_index={map_index}"
        return "\n".join(str(line["event"]) for line in self.get(path)["content"])

    @staticmethod
    def _run(dag_id: str, run_id: str) -> str:
        return f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
