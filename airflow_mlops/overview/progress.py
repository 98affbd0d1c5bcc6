"""The progress of a training or a search while its task runs, from the MLflow run of the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.registry.client import quoted, registry_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOSSES = ("train_loss", "validation_loss")
_PARENT, _TRIAL, _MAP_INDEX = "mlflow.parentRunId", "mlops.trial", "mlops.map_index"
# A search has a run for each trial. The newest ones are shown.
_TRIALS = 200
# Metric that the search logs for each trial, in addition to the metrics of the model.
_OTHER = "seconds"


class Curve(Model):
    """A loss by epoch.

    :param metric: name of the loss in MLflow
    :param points: pairs of the epoch, from 0, and the loss, ordered by epoch
    """

    metric: str
    points: list[tuple[int, float]]


class Trial(Model):
    """A trial of a search.

    :param state: ``running``, ``complete``, ``pruned``, ``failed`` or ``lost``
    :param metrics: last value of each metric
    :param params: parameters that the trial tries
    """

    number: int
    state: str
    metrics: dict[str, float] = Field(default_factory=dict)
    params: dict[str, str] = Field(default_factory=dict)


class Progress(Model):
    """The metrics and trials that a training or a search has logged so far.

    :param run_url: address of the MLflow run; ``None`` if there is no run yet, or MLflow has no HTTP address
    :param status: status of the MLflow run, such as ``RUNNING`` or ``FINISHED``; ``None`` if there is no run yet
    :param curves: losses by epoch, of trainers that log them
    :param trials: trials of a search, newest first
    """

    run_url: str | None = None
    status: str | None = None
    curves: list[Curve] = Field(default_factory=list)
    trials: list[Trial] = Field(default_factory=list)
    problems: list[str] = Field(default_factory=list)


def progress(client: MlflowClient, dag_id: str, run_id: str, task_id: str, map_index: int, ui: str) -> Progress:
    """Return the progress of a task. All workers of a search share one run.

    :param ui: address of MLflow's pages; empty if it has none
    :raises RegistryError: MLflow cannot be read
    """
    with registry_errors(f"The MLflow run of task {task_id!r} cannot be read"):
        experiments = _experiments(client)
        tags = {"mlops.dag_id": dag_id, "mlops.dag_run_id": run_id, "mlops.task_id": task_id}
        index = str(map_index) if map_index >= 0 else ""
        # MLflow filters by the map index, because the other mapped tasks may have many newer runs.
        own = _search(client, experiments, {**tags, _MAP_INDEX: index}, 1) if index else []
        runs = own or _search(client, experiments, tags, 100)
        own = own or [run for run in runs if run.data.tags.get(_MAP_INDEX, "") == index]
        for run in own or runs:
            trials = _trials(client, run)
            if own or trials:
                return Progress(
                    run_url=f"{ui}/#/runs/{quote(run.info.run_id)}" if ui else None,
                    status=run.info.status,
                    curves=_curves(client, run),
                    trials=trials,
                )
    return Progress()


def _experiments(client: MlflowClient) -> list[str]:
    found: list[str] = []
    page = None
    while page is None or page.token:
        # MLflow returns at most 1,000 experiments at once.
        page = client.search_experiments(page_token=page.token if page is not None else None)
        found += [item.experiment_id for item in page]
    return found


def _search(client: MlflowClient, experiments: list[str], tags: dict[str, str], most: int) -> list[Any]:
    """Return the runs with these tags, newest first.

    :raises RegistryError: a value contains both kinds of quotes
    """
    where = " and ".join(f"tags.`{name}` = {quoted(value)}" for name, value in tags.items())
    return list(client.search_runs(experiments, where, max_results=most, order_by=["attributes.start_time DESC"]))


def _curves(client: MlflowClient, run: Any) -> list[Curve]:
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in _LOSSES if name in run.data.metrics}
    return [
        Curve(metric=name, points=sorted({point.step: point.value for point in found}.items()))
        for name, found in histories.items()
    ]


def _trials(client: MlflowClient, run: Any) -> list[Trial]:
    children = _search(client, [run.info.experiment_id], {_PARENT: run.info.run_id}, _TRIALS)
    # A user's own code may log nested runs, which are not trials.
    return [_trial(item) for item in children if item.data.tags.get(_TRIAL, "").isdecimal()]


def _trial(run: Any) -> Trial:
    tags = run.data.tags
    return Trial(
        number=int(tags[_TRIAL]),
        state=tags.get("mlops.state", "running"),
        metrics={name: value for name, value in run.data.metrics.items() if name != _OTHER},
        params=dict(run.data.params),
    )
