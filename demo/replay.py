"""Replays months of flights through the example DAGs and summarises each month."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from demo.api import FINISHED, AirflowApi

Log = Callable[[str], None]


class ReplayError(Exception):
    """A month could not be replayed. The message names the DAG or task, and a page in Airflow's UI."""


@dataclass
class Month:
    """The results of one month. Values that could not be measured are ``None``.

    :param key: the month as a partition key
    :param rows: ingested rows
    :param drift: the most drifted feature and the size of its drift
    :param coverage: share of predictions with a label
    :param champion: the model version that scored the month
    :param auc: realised ROC AUC
    :param decision: the decision of monitoring, and of promotion if a model was trained
    """

    key: str
    rows: int | None = None
    drift: str = "-"
    coverage: float | None = None
    champion: int | None = None
    auc: float | None = None
    decision: str = ""


class Replay:
    """Runs the DAGs of each month in the order of production: ingest, score, monitor, train.

    Only ``flights_ingest`` and ``flights_monitor`` are triggered, in place of their schedules. Asset events start scoring
    and training. Finished runs are not repeated.
    """

    def __init__(self, api: AirflowApi, log: Log, timeout: float = 900) -> None:
        self.api = api
        self.log = log
        self.timeout = timeout

    def month(self, key: str) -> Month:
        """Run the DAGs that have not run yet for this month, and return its results.

        :raises ReplayError: a task failed, or a run did not start or finish in time
        """
        self.log(f"{key}  Ingesting, validating, materializing features ...")
        ingest = self._run("flights_ingest", key)
        score = self._started_by_asset("flights_score", key)
        self.log(f"{key}  Joining labels and monitoring ...")
        monitor = self._run("flights_monitor", key)
        verdict = self.api.result("flights_monitor", monitor, "monitor")
        if verdict["decision"] == "retrain":
            self.log(f"{key}  {verdict['headline']}. Training challengers ...")
            train = self._started_by_asset("flights_train", key)
        else:
            train = None
        month = self._read(key, ingest, score, monitor, train)
        self.log(f"{key}  {month.decision}")
        return month

    def _run(self, dag_id: str, key: str) -> str:
        run_id = f"replay__{key}"
        run = self.api.run(dag_id, run_id)
        if run is None:
            self.api.trigger(dag_id, run_id, key)
        elif run["state"] == "failed":
            self.api.clear(dag_id, run_id)
        return self._wait(dag_id, run_id)

    def _started_by_asset(self, dag_id: str, key: str) -> str:
        """Wait until an asset event has started a run, and until the run has finished."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            runs = self.api.runs(dag_id, key)
            if runs:
                run_id = str(runs[0]["dag_run_id"])
                if runs[0]["state"] == "failed":
                    self.api.clear(dag_id, run_id)
                return self._wait(dag_id, run_id)
            time.sleep(0.5)
        raise ReplayError(f"No asset event started {dag_id} for {key} within two minutes. See {self.api.url}/assets.")

    def _wait(self, dag_id: str, run_id: str) -> str:
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            run = self.api.run(dag_id, run_id)
            if run is not None and run["state"] in FINISHED:
                if run["state"] == "failed":
                    self._explain(dag_id, run_id)
                return run_id
            time.sleep(0.5)
        raise ReplayError(
            f"{dag_id} {run_id} did not finish within {self.timeout / 60:.0f} minutes. See {self.page(dag_id, run_id)}"
        )

    def _explain(self, dag_id: str, run_id: str) -> None:
        """Raise an error with the last log lines of the failed task."""
        for task in self.api.tasks(dag_id, run_id):
            if task["state"] == "failed":
                lines = self.api.log(dag_id, run_id, task["task_id"], task["try_number"], task["map_index"])
                tail = "\n".join(f"    {line}" for line in lines[-15:])
                raise ReplayError(
                    f"{dag_id}.{task['task_id']} failed:\n{tail}\n{self.page(dag_id, run_id)}\n"
                    "Fix the cause and run `make demo` again; it continues from this run."
                )
        raise ReplayError(f"{dag_id} {run_id} failed. See {self.page(dag_id, run_id)}")

    def page(self, dag_id: str, run_id: str) -> str:
        return f"{self.api.url}/dags/{dag_id}/runs/{run_id}"

    def _read(self, key: str, ingest: str, score: str, monitor: str, train: str | None) -> Month:
        result = self.api.result
        ingested = result("flights_ingest", ingest, "ingest_flights")
        scored = result("flights_score", score, "score")
        checked = result("flights_monitor", monitor, "monitor")
        month = Month(key, rows=ingested["dataset"]["rows"], decision=_sentence(checked))
        if scored and scored["scored_by"]:
            month.champion = scored["scored_by"]["version"]
        metrics = checked["metrics"]
        if checked["most_drifted"]:
            month.drift = f"{checked['most_drifted']} {metrics['feature_drift']:.0%}"
        month.coverage = metrics.get("coverage")
        month.auc = metrics.get("roc_auc")
        if train is not None:
            promoted = result("flights_train", train, "promote")
            month.decision += f" {promoted['summary']}"
        return month


def _sentence(checked: dict[str, Any]) -> str:
    return f"{checked['decision']}: {checked['headline']}."


def table(months: list[Month]) -> str:
    """The months as a table for a terminal."""
    head = f"{'month':<8} {'rows':>7} {'most drifted':>18} {'labels':>7} {'champion':>8} {'AUC':>6}  decision"
    lines = [head, "-" * len(head)]
    for month in months:
        coverage = f"{month.coverage:.1%}" if month.coverage is not None else "-"
        champion = f"v{month.champion}" if month.champion is not None else "-"
        auc = f"{month.auc:.3f}" if month.auc is not None else "-"
        facts = f"{month.key:<8} {month.rows or 0:>7,} {month.drift:>18} {coverage:>7} {champion:>8} {auc:>6}  "
        lines += textwrap.wrap(
            month.decision, len(facts) + 78, initial_indent=facts, subsequent_indent=" " * len(facts)
        )
    return "\n".join(lines)
