"""A client for the parts of Airflow's public REST API that the demo uses."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlencode

FINISHED = ("success", "failed")


class AirflowApi:
    """A client of one Airflow instance, logged in as its only user."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._token = ""

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Call ``/api/v2{path}`` and return the decoded response; ``None`` for a 404.

        :raises RuntimeError: Airflow responds with another error
        """
        address = f"{self.url}/api/v2{path}" + (f"?{urlencode(query)}" if query else "")
        for attempt in range(5):
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            data = json.dumps(body).encode() if body is not None else None
            request = urllib.request.Request(address, data=data, headers=headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    text = response.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code == 401 and attempt == 0:
                    self._sign_in()
                elif error.code == 404:
                    return None
                elif error.code < 500 or attempt == 4:
                    raise RuntimeError(f"{method} {address}: {error.code} {error.read().decode()[:500]}") from error
                else:
                    time.sleep(2)
            except (TimeoutError, urllib.error.URLError):
                # A busy machine may respond late.
                if attempt == 4:
                    raise
                time.sleep(2)
        raise RuntimeError(f"{method} {address}: the login was refused.")

    def _sign_in(self) -> None:
        with urllib.request.urlopen(f"{self.url}/auth/token", timeout=60) as response:
            self._token = json.loads(response.read())["access_token"]

    def run(self, dag_id: str, run_id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.call("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id)}")
        return found

    def runs(self, dag_id: str, partition_key: str) -> list[dict[str, Any]]:
        """The runs of a DAG for one partition key, newest first."""
        answer = self.call("GET", f"/dags/{dag_id}/dagRuns", limit=100, order_by="-id") or {"dag_runs": []}
        return [run for run in answer["dag_runs"] if run["partition_key"] == partition_key]

    def trigger(self, dag_id: str, run_id: str, partition_key: str) -> dict[str, Any]:
        body = {"dag_run_id": run_id, "partition_key": partition_key, "logical_date": None}
        run: dict[str, Any] = self.call("POST", f"/dags/{dag_id}/dagRuns", body)
        return run

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear the failed tasks of a run, so that they run again."""
        self.call("POST", f"/dags/{dag_id}/dagRuns/{quote(run_id)}/clear", {"dry_run": False, "only_failed": True})

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        answer = self.call("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances", limit=100)
        return list(answer["task_instances"])

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """The value that a task returned; ``None`` without one."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        entry = self.call("GET", path, deserialize="true")
        return entry["value"] if entry else None

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int) -> list[str]:
        """The lines of a task's log."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/logs/{try_number}"
        answer = self.call("GET", path, map_index=map_index, full_content="true") or {"content": []}
        lines = []
        for line in answer["content"]:
            lines.append(line["event"] if isinstance(line, dict) else str(line))
            for error in line.get("error_detail") or [] if isinstance(line, dict) else []:
                lines.append(f"{error['exc_type']}: {error['exc_value']}")
        return [line for line in lines if not line.startswith("::")]
