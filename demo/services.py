"""Starting, finding and stopping the processes of the demo."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Any

import psutil

from demo.request import MODEL
from demo.settings import Settings

# The API server reads the logs from the folder. Airflow's log servers would listen on all addresses of the machine.
COMPONENTS = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "api-server": ("api-server",),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


class Services:
    """The processes of the demo. Their ids are stored in ``services.json``, so that later commands find them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._file = settings.home / "services.json"
        self._logs = settings.home / "logs"

    def start(self) -> bool:
        """Start the services that are not running.

        :return: whether any service was started
        """
        commands = self._commands()
        running = self._running()
        missing = [name for name in commands if name not in running]
        if not missing:
            return False
        self._refuse_busy_ports(missing)
        self._logs.mkdir(parents=True, exist_ok=True)
        if len(missing) == len(commands):
            self._migrate()
        for name in missing:
            self._spawn(name, commands[name], running)
        self._wait_until_healthy(running)
        return True

    def serving(self, timeout: float = 60) -> str | None:
        """Wait until the server answers requests with the present champion.

        :return: URL of the server; ``None`` if it did not answer in time
        """
        url, deadline = self.settings.serving_url, time.monotonic() + timeout
        alias = f"{self.settings.mlflow_url}/api/2.0/mlflow/registered-models/alias?name={MODEL}&alias=champion"
        while "serving" in self._running() and time.monotonic() < deadline:
            champion, served = _get(alias), _get(f"{url}/v2/models/{MODEL}")
            # The first of the loaded versions is the champion of the server.
            if (
                champion
                and served
                and json.loads(served)["versions"][0] == json.loads(champion)["model_version"]["version"]
            ):
                return url
            time.sleep(0.2)
        return None

    def stop(self) -> int:
        """Stop all processes of the demo.

        :return: how many were running
        """
        running = self._running()
        for process in running.values():
            _signal_group(process, signal.SIGTERM)
        _, alive = psutil.wait_procs(list(running.values()), timeout=20)
        for process in alive:
            _signal_group(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=5)
        self._file.unlink(missing_ok=True)
        return len(running)

    def _commands(self) -> dict[str, list[str]]:
        store = self.settings.home / "mlflow"
        store.mkdir(parents=True, exist_ok=True)
        mlflow = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self.settings.mlflow_port), "--workers", "1"),
            *(
                "--backend-store-uri",
                f"sqlite:///{store}/mlflow.db",
                "--artifacts-destination",
                str(store / "artifacts"),
            ),
        ]
        # It is ready after the first promotion. Its predictions of today are logged beside those of the replayed months.
        serving = [
            *(sys.executable, "-m", "airflow_mlops.serving", MODEL, "--store", self.settings.artifacts),
            *("--spool", str(self.settings.home / "spool"), "--port", str(self.settings.serving_port)),
        ]
        airflow = {name: [sys.executable, "-m", "airflow", *arguments] for name, arguments in COMPONENTS.items()}
        return {"mlflow": mlflow, "serving": serving, **airflow}

    def _spawn(self, name: str, command: list[str], running: dict[str, psutil.Process]) -> None:
        """Start a service, and add it to ``running`` and to the stored ids."""
        with (self._logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                env=self.settings.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.settings.home,
                start_new_session=True,
            )
        running[name] = psutil.Process(child.pid)
        self._remember(running)

    def _running(self) -> dict[str, psutil.Process]:
        try:
            known: dict[str, Any] = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        found = {}
        for name, entry in known.items():
            try:
                process = psutil.Process(entry["pid"])
                # Process ids are reused, so the start time must match too.
                if abs(process.create_time() - entry["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE:
                    found[name] = process
            except psutil.NoSuchProcess:
                continue
        return found

    def _remember(self, running: dict[str, psutil.Process]) -> None:
        entries = {name: {"pid": each.pid, "started": each.create_time()} for name, each in running.items()}
        self._file.write_text(json.dumps(entries, indent=1))

    def _refuse_busy_ports(self, missing: list[str]) -> None:
        ports = {
            "api-server": ("AIRFLOW_PORT", self.settings.airflow_port),
            "mlflow": ("MLFLOW_PORT", self.settings.mlflow_port),
            "serving": ("SERVING_PORT", self.settings.serving_port),
        }
        for name, (variable, port) in ports.items():
            if name in missing and _listening(port):
                sys.exit(
                    f"Port {port} is in use by another program. Stop that program, or choose another port with "
                    f"`make demo {variable}={port + 1}`."
                )

    def _migrate(self) -> None:
        log = self._logs / "migrate.log"
        with log.open("wb") as file:
            done = subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                env=self.settings.environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode != 0:
            sys.exit(f"Airflow's database could not be created. See {log}.")

    def _wait_until_healthy(self, running: dict[str, psutil.Process], timeout: float = 180) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for name, process in running.items():
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    self._give_up(name, "stopped unexpectedly")
            if self._mlflow_is_healthy() and self._airflow_is_healthy():
                return
            time.sleep(0.5)
        self._give_up("api-server", f"did not become healthy in {timeout:.0f} s")

    def _give_up(self, name: str, what: str) -> None:
        log = self._logs / f"{name}.log"
        tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        self.stop()
        sys.exit(f"{tail}\n{name} {what}. The last lines of {log} are above.")

    def _mlflow_is_healthy(self) -> bool:
        return _get(f"{self.settings.mlflow_url}/health") is not None

    def _airflow_is_healthy(self) -> bool:
        body = _get(f"{self.settings.airflow_url}/api/v2/monitor/health")
        if body is None:
            return False
        health = json.loads(body)
        return all(
            (health.get(part) or {}).get("status") == "healthy" for part in ("scheduler", "dag_processor", "triggerer")
        )


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bytes(response.read())
    except OSError:
        return None


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _signal_group(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
