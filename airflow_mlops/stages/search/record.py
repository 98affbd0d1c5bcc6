"""Record a search in MLflow, as one parent run that all workers share, with a child run for each trial."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.names import RESUMED_TAG
from airflow_mlops.registry.run_places import place
from airflow_mlops.registry.runs import claimed_run, delete_runs, experiment_for

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Tag of the run of a trial: the id of the run of the search.
PARENT = "mlflow.parentRunId"
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


class Record:
    """The MLflow runs of one search.

    :param client: client of the MLflow server
    :param run_id: id of the parent run of the search
    :param metric: name of the optimised metric
    """

    def __init__(self, client: MlflowClient, run_id: str, metric: str) -> None:
        self.run_id = run_id
        self._client, self._metric = client, metric
        self._experiment = place(client, run_id).experiment_id

    @classmethod
    def open(
        cls,
        client: MlflowClient,
        store: ArtifactStore,
        key: str,
        *,
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        metric: str,
    ) -> Record:
        """Open the parent run of a search. The first worker creates the run, and the other workers open the same run.

        :param store: artifact store in which the workers share the id of the run
        :param key: folder of the search in the artifact store
        :param experiment: name of the MLflow experiment
        :param name: name of the parent run in MLflow
        :param tags: tags of the parent run
        :param metric: name of the optimised metric
        """
        with registry_errors(f"MLflow run {name!r} cannot be opened in experiment {experiment!r}"):
            experiment_id = experiment_for(client, experiment)
            run_id = claimed_run(client, store, f"{key}/runs", experiment_id, key, name, tags)
            return cls(client, run_id, metric)

    def begin(self, number: int, values: Mapping[str, Any], run_id: str | None) -> str:
        """Start the MLflow run of a trial, and return the id of the run.

        :param number: number of the trial
        :param values: parameters of the trial, by name
        :param run_id: id of the existing run of a repeated trial; ``None`` for a new trial
        """
        from mlflow.entities import Param

        with registry_errors(f"Trial {number} cannot be written to MLflow"):
            if run_id is not None:
                self._client.update_run(run_id, status="RUNNING")
                return run_id
            tags = {PARENT: self.run_id, "mlops.trial": str(number)}
            created = self._client.create_run(self._experiment, run_name=f"trial {number}", tags=tags)
            found = str(created.info.run_id)
            self._client.log_batch(found, params=[Param(name, str(value)) for name, value in values.items()])
            return found

    def log(self, run_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one step of a trial.

        :param run_id: id of the trial's MLflow run
        :param step: number of the step, from 0
        :param metrics: value of each metric, by name
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with registry_errors(f"MLflow run {run_id} cannot be written"):
            self._client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

    def end(self, run_id: str, state: str, seconds: float, value: float | None = None, error: str = "") -> None:
        """End the MLflow run of a trial.

        :param run_id: id of the trial's MLflow run
        :param state: final state of the trial: ``complete``, ``pruned`` or ``failed``
        :param seconds: duration of the trial, in seconds
        :param value: metric of a complete trial; otherwise ``None``
        :param error: error message of a failed trial; otherwise empty
        """
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        metrics = {"seconds": seconds, **({} if value is None else {self._metric: value})}
        tags = {"mlops.state": state, **({"mlops.error": error} if error else {})}
        with registry_errors(f"MLflow run {run_id} cannot be written"):
            self._client.log_batch(
                run_id,
                # MLflow shows the value of the highest step, so the final value gets a higher step than all others.
                metrics=[Metric(name, found, now, 2**31) for name, found in metrics.items()],
                tags=[RunTag(name, found) for name, found in tags.items()],
            )
            self._client.set_terminated(run_id, _STATUS[state])

    def set_resumed(self) -> None:
        """Tag the run of a search that continues after an interruption, and therefore chooses other parameters."""
        with registry_errors(f"MLflow run {self.run_id} cannot be written"):
            self._client.set_tag(self.run_id, RESUMED_TAG, "true")

    def lose(self, run_id: str | None) -> None:
        """End the MLflow run of a trial whose worker was interrupted or crashed before the trial finished.

        :param run_id: id of the trial's MLflow run; ``None`` if the trial has no run
        """
        # The trial is repeated anyway, so an error here must not stop the worker.
        with suppress(Exception):
            if run_id is not None:
                self._client.set_tag(run_id, "mlops.state", "lost")
                self._client.set_terminated(run_id, "KILLED")

    def finish(
        self,
        value: float,
        params: Mapping[str, Any],
        importances: Mapping[str, float],
        trials: Mapping[str, int],
        runs: Collection[str],
    ) -> None:
        """End the parent run of a completed search. Runs that belong to no trial are deleted.

        Such a run remains if a worker crashes between creating the run and recording the trial, or if MLflow's response
        is lost.

        :param value: metric of the best trial
        :param params: parameters of the best trial
        :param importances: importance of each parameter, by name; empty if the importances cannot be computed
        :param trials: number of trials, by state
        :param runs: ids of the MLflow runs of all trials
        """
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        with registry_errors(f"MLflow run {self.run_id} cannot be written"):
            # MLflow refuses changed parameters, and another worker may have logged them already.
            known = self._client.get_run(self.run_id).data.params
            self._client.log_batch(
                self.run_id,
                metrics=[
                    Metric(self._metric, value, now, 0),
                    *(Metric(f"trials_{state}", count, now, 0) for state, count in trials.items()),
                ],
                params=[Param(name, str(value)) for name, value in params.items() if name not in known],
            )
            if importances:
                self._client.log_dict(self.run_id, dict(importances), "importances.json")
            children = self._client.search_runs(
                [self._experiment], f"tags.`{PARENT}` = '{self.run_id}'", max_results=50_000
            )
            delete_runs(self._client, [run.info.run_id for run in children if run.info.run_id not in runs])
            self._client.set_terminated(self.run_id, "FINISHED")

    @contextmanager
    def failures(self) -> Iterator[None]:
        """End the parent run if the ``with`` block raises an exception.

        The status of the run is ``FAILED`` after an error, and ``KILLED`` after an interruption such as SIGTERM.
        """
        status = "KILLED"
        try:
            yield
            status = ""
        except Exception:
            status = "FAILED"
            raise
        finally:
            # An error here must not hide the original one.
            with suppress(Exception):
                if status:
                    self._client.set_terminated(self.run_id, status)
