"""Replay a retraining policy over the labelled windows in the artifact store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from uuid import uuid4

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import DatasetNotFoundError, RegistryError, SpecError
from airflow_mlops.core.numbers import rounded
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.datasets import datasets_inside, open_dataset
from airflow_mlops.data.types import concatenated
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models import contracts
from airflow_mlops.models.refitting import Refitted, refit
from airflow_mlops.performance.cross_fitting import PASTS, Fit
from airflow_mlops.registry import versions
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.integrity import require_promoted
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.stages.backtest.page.report import render
from airflow_mlops.stages.backtest.replay import Period, Replay
from airflow_mlops.stages.backtest.spec import BacktestResult, BacktestSpec
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.monitor.challengers import (
    LabelledRows,
    half_life_of,
    labelled,
    labelled_clusters,
    metric_of,
    trained_rows,
)
from airflow_mlops.stages.monitor.trainings import Others, Training, other_trainers, training_of

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow import MlflowClient

_LAST = "9999-12-31T00:00:00Z"


def run(spec: BacktestSpec, context: StepContext) -> BacktestResult:
    """Replay a retraining policy, compare it with simpler strategies and an oracle, and write the HTML page.

    :raises RegistryError: the model has no champion, or the version does not exist
    :raises DatasetNotFoundError: the training set or labelled windows are not in the artifact store
    :raises SpecError: the version has no known trainer, its training set has no window, or a labelled window does not
        have the column ``policy.groups``
    :raises UnmeasurableError: the metric is not defined in any window
    """
    client = connect(spec.mlflow, context.connection)
    ref = _version(spec, client, context)
    contract = contracts.read(client, context.store, ref).contract
    training = _training(spec, ref, client)
    name = spec.outcomes or f"{spec.model}_outcomes"
    periods = _periods(spec, name, ref, contract, context)
    metric = metric_of(spec.policy, contract)
    others = _others(spec, ref, training, periods, client, context)
    windows = [period.window for period in periods]
    context.progress(f"Replaying {len(windows) - 1} windows of {name} from {ref} on {windows[0].label}.")
    seconds: list[float] = []

    def timed(training: Training) -> Fit:
        def fit(rows: pa.Table) -> Refitted:
            started = time.perf_counter()
            fitted = refit(training.trainer, training.seed, contract, rows, training.class_weight)
            seconds.append(time.perf_counter() - started)
            return fitted

        return fit

    fits = {key: timed(item) for key, item in ((None, training), *others.trainings.items())}
    strategies = Replay(fits, contract, periods, 1, spec.delay, metric)
    never = strategies.never()
    for window, reason in strategies.unmeasured.items():
        context.progress(f"{window.label} has no value: {reason}.")
    if all(step.loss is None for step in never.steps):
        raise UnmeasurableError(
            f"No window of {name} has a value of {metric}. In {windows[1].label}: "
            f"{strategies.unmeasured.get(windows[1], 'there are no labels')}. Set another metric, or replay other windows."
        )
    replays = [never, strategies.every_window(), strategies.policy(spec.policy), strategies.oracle()]
    summary = "; ".join(
        f"{item.strategy}: mean {metric} {rounded(item.mean_value)}, {item.trainings} trainings" for item in replays
    )
    created = datetime.now(timezone.utc)
    key = f"backtests/{spec.model}/{created:%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"
    result = BacktestResult(
        summary=f"{ref} over {len(windows) - 1} windows: {summary}.",
        version=ref,
        window=Window(start=windows[1].start, end=windows[-1].end, zone=windows[-1].zone),
        delay=spec.delay,
        policy=spec.policy,
        created=created,
        fits=len(seconds),
        seconds=sum(seconds),
        page_url=context.store.url_of(f"{key}.html"),
        metric=metric,
        strategies=replays,
    )
    # The page is written first, so every JSON file has a page.
    context.store.write_bytes(f"{key}.html", render(result).encode())
    context.store.write_json(f"{key}.json", result.model_dump(mode="json"))
    return result


def _others(
    spec: BacktestSpec,
    ref: ModelVersionRef,
    training: Training,
    periods: Sequence[Period],
    client: MlflowClient,
    context: StepContext,
) -> Others:
    """Return the trainers that a check of the first window would compare; none if the user names the trainer."""
    if spec.trainer is not None:
        return Others()
    fitted = len(PASTS) * (2 * periods[0].rows.num_rows + periods[1].rows.num_rows)
    others = other_trainers(ref, training.trainer, Ledger(context.store, spec.model).entries(), fitted, client)
    for note in others.notes:
        context.progress(note)
    return others


def _version(spec: BacktestSpec, client: MlflowClient, context: StepContext) -> ModelVersionRef:
    """Return the version with which the replay begins.

    :raises RegistryError: the model has no champion, or the version does not exist
    """
    if spec.version is not None:
        return versions.version(client, spec.model, spec.version)
    ref = versions.champion(client, spec.model)
    if ref is None:
        raise RegistryError(f"Model {spec.model!r} has no champion. Promote a version, or set `version`.")
    require_promoted(context.store, ref)
    return ref


def _training(spec: BacktestSpec, ref: ModelVersionRef, client: MlflowClient) -> Training:
    """Return the training that the strategies repeat.

    :raises SpecError: the trainer of the version is unknown
    """
    try:
        training = training_of(ref, spec.trainer, client)
    except UnmeasurableError as error:
        raise SpecError(f"The backtest of {spec.model!r} trains models, but {error}.") from None
    if training is None:
        raise SpecError(f"TrainOperator did not train {ref}, so its trainer is unknown. Set `trainer`.")
    return training


def _periods(
    spec: BacktestSpec, name: str, ref: ModelVersionRef, contract: ModelContract, context: StepContext
) -> list[Period]:
    """Return the training set and the labelled windows after it, whose rows have columns of the same types.

    :param name: name of the dataset with the labelled windows
    :raises SpecError: the training set has no window
    :raises DatasetNotFoundError: there are no labelled windows
    """
    trained = open_dataset(context.store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
    if trained.manifest.window is None:
        raise SpecError(f"The training set of {ref} has no time window, so it is unknown which windows come after it.")
    since = trained.manifest.window
    within = spec.window or Window.model_validate(f"{since.end.isoformat()}/{_LAST}")
    columns = [*(feature.name for feature in contract.features), LABEL]
    found = [
        item for item in datasets_inside(context.store, name, within) if item.window and item.window.start >= since.end
    ]
    if not found:
        raise DatasetNotFoundError(
            f"The artifact store {context.store.url} has no labelled windows of dataset {name!r} after {since.label}, the "
            f"training set of {ref}. Correct `outcomes`, or replay other windows."
        )
    half_life = half_life_of(trained, contract)
    parts = [
        trained_rows(trained, contract),
        *(LabelledRows(labelled(item, columns), window=item.window) for item in found),
    ]
    tables = [part.aged(half_life, since.end).table for part in parts]
    windows = [since, *(item.window for item in found if item.window)]
    whole = concatenated(tables, "The labelled windows", "Write all windows with the same types.")
    # The rows of the training set train the first champion, and no champion is compared on them.
    clusters = [None, *(labelled_clusters([item], spec.policy) for item in found)]
    predicted = [tables[0].num_rows, *(item.manifest.rows for item in found)]
    periods, start = [], 0
    for window, table, groups, rows in zip(windows, tables, clusters, predicted, strict=True):
        coverage = table.num_rows / rows if rows else 0.0
        periods.append(Period(window, whole.slice(start, table.num_rows), groups, coverage))
        start += table.num_rows
    if not any(table.num_rows for table in tables[1:]):
        raise DatasetNotFoundError(
            f"No row of dataset {name!r} after {since.label} has a label, so no model can be measured. Join labels first, or "
            "replay other windows."
        )
    return periods
