"""Train challengers for a window: trainers that are fitted to the newest labelled rows.

The rows come from the champion's training set, and from the labelled predictions between the end of the training set
and the end of the window. The trainer comes from the operator. By default, the trainers of the champion and of the
other candidates in the last decision are used (:mod:`airflow_mlops.stages.monitor.trainings`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import (
    DatasetNotFoundError,
    DatasetPurgedError,
    MLOpsError,
    SchemaError,
    SpecError,
)
from airflow_mlops.core.moments import EPOCH
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.core.zones import instant, local
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.datasets import Dataset, datasets_inside, open_dataset
from airflow_mlops.data.row_weights import Decay
from airflow_mlops.data.types import concatenated
from airflow_mlops.metrics.catalog import REALISED, is_coverage_gap, realised
from airflow_mlops.metrics.clusters import codes
from airflow_mlops.metrics.columns import columns_of
from airflow_mlops.metrics.judged import common_metric_of_rows
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.models.refitting import AGE, refit
from airflow_mlops.models.trainers.spec import AnyTrainer
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.cross_fitting import PASTS, Fit, champion_losses, cross_fit
from airflow_mlops.performance.gains import best_gain, past_trainings, usual_gain, windows_after, windows_between
from airflow_mlops.policy.checks import is_worse
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.stages.monitor import champions
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.older_rows import OlderRows
from airflow_mlops.stages.monitor.performance import Realised
from airflow_mlops.stages.monitor.trainings import Others, Training, other_trainers, training_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from numpy.typing import NDArray

MAX_ROWS = 200_000
"""The largest number of older rows, and of rows of the window, that challengers use. Of more rows, a random sample is used."""
_MICROSECOND = timedelta(microseconds=1)
_FIX = "Write all windows with the same types."
_has_label = pc.invert(pc.is_null(pc.field(LABEL), nan_is_null=True))


@dataclass(frozen=True)
class Probe:
    """The result of training challengers.

    :param comparison: the comparison with the champion; ``None`` if no challenger was trained
    :param notes: why no challenger was compared, or why a trainer is left out, one sentence each
    """

    comparison: Comparison | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LabelledRows:
    """Labelled rows with the time of each row, or with the window of all rows.

    :param table: the features, and the label in the column ``label``
    :param times: the time of each row; ``None`` if the rows belong to the window ``window``, or if the time is unknown
    :param window: the window of the rows; ``None`` if unknown
    """

    table: pa.Table
    times: pa.ChunkedArray | None = None
    window: Window | None = None

    def aged(self, half_life: timedelta | None, until: datetime) -> LabelledRows:
        """Return the rows with their age in the column :data:`~airflow_mlops.models.refitting.AGE`.

        The age of a row is the time from its event to ``until``, in half-lives. Without event times, every row has the
        age of the middle of its window; if the window is unknown as well, the age 0. If ``half_life`` is ``None``, the
        rows have no weights, and no column is added.
        """
        if half_life is None:
            return self
        if self.times is not None:
            passed = (until - EPOCH) / _MICROSECOND - self.times.cast(pa.int64()).to_numpy()
        else:
            middle = self.window.start + (self.window.end - self.window.start) / 2 if self.window else until
            passed = np.full(self.table.num_rows, (until - middle) / _MICROSECOND)
        ages = pa.array(passed / (half_life / _MICROSECOND), pa.float64())
        return replace(self, table=self.table.append_column(AGE, ages))


@dataclass(frozen=True)
class Rows:
    """The labelled rows from which challengers are trained and compared.

    :param older: the rows before the window that challengers are fitted to, by number of windows (:data:`PASTS`)
    :param current: the rows of the window
    :param since_training: number of windows since the end of the champion's training data, including this window
    :param groups: the number of the cluster of each row of the window, shape (n,); ``None`` for independent rows
    """

    older: dict[int | None, pa.Table]
    current: pa.Table
    since_training: int
    groups: NDArray[np.int64] | None = None


def probe(
    check: Check,
    present: ModelVersionRef,
    stored: VersionContract,
    realised: Realised,
    earlier: Sequence[Findings],
    ledger: Ledger,
    trainer: AnyTrainer | None,
    client: MlflowClient,
) -> Probe:
    """Train challengers, and compare them with the champion on the labelled rows of the window.

    Nothing is trained if

    - the policy does not use the trigger ``challenger``, or sets no period ``probe``;
    - too few labels have arrived;
    - challengers were compared in a window less than ``policy.probe`` ago, and performance is not significantly worse;
    - neither the operator nor the MLflow run of the champion names a trainer.

    :param check: the check of the predictions of all versions
    :param present: the champion
    :param stored: the model contract that is stored with the champion
    :param realised: realised performance of the window
    :param earlier: findings of earlier windows, ordered by time
    :param ledger: the ledger of the model. Its entries must have been read
    :param trainer: the trainer of the operator; ``None`` for the trainers of the champion and of the other candidates
        of the last decision
    :raises MLOpsError: a challenger could not be trained or compared, and a retry may help or ``trainer`` is set. Other
        errors become a note
    """
    policy = check.policy
    if "challenger" not in policy.retrain_on or policy.probe is None or realised.immature is not None:
        return Probe()
    worse = realised.judged is not None and is_worse(realised.judged, policy)
    compared = [item for item in earlier if item.challenger is not None]
    if compared and not worse and check.window.start - compared[-1].window.start < policy.probe:
        return Probe()
    try:
        training = training_of(present, trainer, client)
        if training is None:
            return Probe()
        contract = stored.contract
        rows = _rows(check, contract)
        others = Others()
        if trainer is None:
            # Each challenger is fitted twice: to its older rows and one half of the window, and to its older rows and
            # the other half.
            fitted = sum(2 * table.num_rows + rows.current.num_rows for table in rows.older.values())
            others = other_trainers(present, training.trainer, ledger.known, fitted, client)
        metric = metric_of(policy, contract)
        comparison = cross_fit(
            {key: _fit(item, contract) for key, item in ((None, training), *others.trainings.items())},
            champions.predicting(present, contract, ledger, client),
            rows.current,
            rows.older,
            metric,
            rows.since_training,
            rows.groups,
        )
    except UnmeasurableError as error:
        return Probe(notes=[f"No challenger was compared with the champion, because {error}."])
    except MLOpsError as error:
        # Monitoring also works without challengers, for example if the library of a recorded trainer is not installed.
        # A trainer that the operator names must work.
        if error.retryable or trainer is not None:
            raise
        return Probe(notes=[f"No challenger was compared with the champion. {error}"])
    since = [
        (windows_between(item.window, check.window), item.challenger)
        for item in compared
        if item.challenger is not None
    ]
    known = [item for _, item in since]
    loss, notes = _replaced_loss(present, contract, known, rows, metric, check, ledger, client)
    comparison = comparison.model_copy(update={"replaced_loss": loss})
    found = {
        "trainings": past_trainings(comparison, since, policy.min_gain),
        "best": best_gain(comparison, since, policy.confidence, policy.min_gain),
        "usual": max(
            usual_gain(challenger, comparison, since, policy.min_gain) for challenger in comparison.challengers
        ),
    }
    return Probe(comparison.model_copy(update=found), [*others.notes, *notes])


def _fit(training: Training, contract: ModelContract) -> Fit:
    return lambda table: refit(training.trainer, training.seed, contract, table, training.class_weight)


def metric_of(policy: Policy, contract: ModelContract) -> str:
    """Return the metric by which challengers are compared.

    It is the first of these metrics that exists:

    - the metric of the policy, if it can be computed from logged predictions and labels, names no column, and is not
      the coverage gap of a quantile
    - the metric by which the champion is judged, row by row (:func:`airflow_mlops.metrics.judged.common_metric_of_rows`)
    - the first metric of the ML task
    """
    metric = policy.metric
    if (
        metric is not None
        and realised(contract.task, [metric])
        and not columns_of([metric])
        and not is_coverage_gap(metric)
    ):
        return metric
    return common_metric_of_rows([contract]) or REALISED[contract.task][0]


def _replaced_loss(
    present: ModelVersionRef,
    contract: ModelContract,
    compared: Sequence[Comparison],
    rows: Rows,
    metric: str,
    check: Check,
    ledger: Ledger,
    client: MlflowClient,
) -> tuple[float | None, list[str]]:
    """Return the mean loss of the version that the champion replaced, and notes about why it was not measured.

    The loss is ``None`` without a replaced version (:func:`airflow_mlops.stages.monitor.champions.replaced`).

    :param compared: the comparisons of earlier windows, ordered by time
    :param metric: the metric of the comparison
    :raises MLOpsError: the loss could not be measured, and a retry may help. Other errors become a note
    """
    try:
        replaced = champions.replaced(present, contract, compared, check.store, ledger, client)
        if replaced is None:
            return None, []
        return float(champion_losses(replaced, rows.current, metric, rows.groups).mean()), []
    except UnmeasurableError as error:
        return None, [f"The gain of the last training was not measured, because {error}."]
    except MLOpsError as error:
        if error.retryable:
            raise
        return None, [f"The gain of the last training was not measured. {error}"]


def _rows(check: Check, contract: ModelContract) -> Rows:
    """Collect the labelled rows before the window and in the window.

    :raises UnmeasurableError: the champion was trained on rows of the window or later rows; its training set has no
        window or is not in the store; a feature is absent; or the types of a column differ
    """
    columns = [*(feature.name for feature in contract.features), LABEL]
    if not check.has_columns(*columns):
        raise UnmeasurableError("the labelled predictions do not have all features")
    try:
        trained = open_dataset(check.store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
        window = trained.manifest.window
        if window is None:
            raise UnmeasurableError("the training set of the champion has no time window")
        if window.end > check.window.start:
            raise UnmeasurableError("the champion was trained on rows of this window or later rows")
        # If the files were deleted, an error is raised here.
        trained.files()
        older = [_of_training(trained, contract)]
    except (DatasetNotFoundError, DatasetPurgedError):
        raise UnmeasurableError("the training set of the champion is not in the artifact store") from None
    if window.end < check.window.start:
        between = Window(start=window.end, end=check.window.start, zone=check.window.zone)
        names = {dataset.manifest.name for dataset in check.datasets}
        found = [item for name in sorted(names) for item in datasets_inside(check.store, name, between)]
        usable = [
            item for item in found if {*columns} <= {*item.manifest.column_names} and item.manifest.purged is None
        ]
        older += [OlderRows(item, item.window, columns[:-1], LABEL) for item in usable]
    pasts = _pasts(older, check.window)
    numbers = _chosen(check.datasets)
    current = [labelled(dataset, columns, rows) for dataset, rows in zip(check.datasets, numbers, strict=True)]
    try:
        read = [item.table for parts in pasts.values() for item in parts]
        whole = concatenated([*read, *current], "The labelled windows", _FIX)
    except SchemaError as error:
        raise UnmeasurableError(str(error).rstrip(".")) from None
    schema, end = whole.schema, check.window.end
    half_life = half_life_of(trained, contract)
    newest = LabelledRows(
        concatenated([schema.empty_table(), *current], "The labelled windows", _FIX), window=check.window
    )
    return Rows(
        older={
            past: pa.concat_tables(
                replace(item, table=concatenated([schema.empty_table(), item.table], "The windows", _FIX))
                .aged(half_life, end)
                .table
                for item in parts
            )
            for past, parts in pasts.items()
        },
        current=newest.aged(half_life, end).table,
        since_training=1 + windows_after(window.end, check.window),
        groups=labelled_clusters(check.datasets, check.policy, numbers),
    )


def half_life_of(trained: Dataset, contract: ModelContract) -> timedelta | None:
    """Return the half-life of the row weights by age; ``None`` if the training set does not weight its rows by age.

    :raises UnmeasurableError: the row weights decay, and a feature has the name of the column in which challengers
        store the ages of the rows
    """
    weights = Decay.of(trained)
    if weights is not None and any(feature.name == AGE for feature in contract.features):
        raise UnmeasurableError(f"the feature {AGE!r} has the name of the column that holds the age of each row")
    return weights.half_life if weights is not None else None


def labelled(dataset: Dataset, columns: Sequence[str], chosen: NDArray[np.int64] | None = None) -> pa.Table:
    """Return ``columns`` of the rows that have a label. Boolean labels become 1 and 0, as in training sets.

    :param chosen: numbers of the rows to return, among the rows with a label, in ascending order; by default all
    """
    if chosen is None:
        return _with_numbers(dataset.table(columns=columns).filter(_has_label))
    kept, first = [], 0
    for batch in dataset.batches(columns=columns):
        rows = batch.filter(_has_label)
        begin, end = np.searchsorted(chosen, [first, first + rows.num_rows])
        kept.append(rows.take(pa.array(chosen[begin:end] - first)))
        first += rows.num_rows
    return _with_numbers(pa.Table.from_batches(kept) if kept else dataset.table(columns=columns))


def _chosen(datasets: Sequence[Dataset]) -> list[NDArray[np.int64] | None]:
    """Choose at most :data:`MAX_ROWS` of the rows with a label.

    :return: the numbers of the rows of each dataset, see :func:`labelled`; ``None`` for all rows
    """
    counts = [sum(batch.filter(_has_label).num_rows for batch in item.batches(columns=[LABEL])) for item in datasets]
    return _chosen_of(counts)


def _chosen_of(counts: Sequence[int]) -> list[NDArray[np.int64] | None]:
    """Choose at most :data:`MAX_ROWS` rows from several groups of rows, in total.

    :param counts: number of rows of each group
    :return: for each group, the numbers of the chosen rows in ascending order; ``None`` if all rows are chosen
    """
    rows = chosen(sum(counts))
    if rows is None:
        return [None for _ in counts]
    ends = np.cumsum([0, *counts])
    return [rows[(rows >= first) & (rows < end)] - first for first, end in pairwise(ends)]


def labelled_clusters(
    datasets: Sequence[Dataset], policy: Policy, chosen: Sequence[NDArray[np.int64] | None] | None = None
) -> NDArray[np.int64] | None:
    """Return the cluster number of each labelled row, shape (n,); ``None`` if the policy does not set ``groups``.

    :param chosen: numbers of the rows of each dataset, see :func:`labelled`; by default all rows
    :raises SpecError: the labelled predictions do not have the column ``policy.groups``
    """
    column = policy.groups
    if column is None:
        return None
    if any(column not in item.manifest.column_names for item in datasets):
        raise SpecError(
            f"policy.groups={column!r} is not a column of the labelled predictions. Keep this column in the scored "
            "dataset, for example as a key, or set another column."
        )
    names = list(dict.fromkeys([column, LABEL]))
    rows = zip(datasets, chosen or [None for _ in datasets], strict=True)
    known = [labelled(item, names, some).select([column]) for item, some in rows]
    return codes(concatenated(known, "The labelled windows", _FIX).column(column))


def _with_numbers(table: pa.Table) -> pa.Table:
    label = table.column(LABEL)
    if not pa.types.is_boolean(label.type):
        return table
    return table.set_column(table.schema.get_field_index(LABEL), LABEL, label.cast(pa.int64()))


def trained_rows(trained: Dataset, contract: ModelContract) -> LabelledRows:
    """Return the rows of all split parts of a training set, with the label in the column ``label``.

    :raises UnmeasurableError: the training set lacks a feature
    """
    return _read(_of_training(trained, contract))


def _of_training(trained: Dataset, contract: ModelContract) -> OlderRows:
    """Return the rows of all split parts of a training set.

    :raises UnmeasurableError: the training set lacks a feature
    """
    names = [feature.name for feature in contract.features]
    try:
        trained.require_columns([*names, contract.label])
    except SchemaError as error:
        raise UnmeasurableError(str(error).rstrip(".")) from None
    time = contract.timestamp if contract.timestamp in trained.manifest.column_names else None
    return OlderRows(trained, trained.manifest.window, names, contract.label, time)


def _pasts(older: Sequence[OlderRows], window: Window) -> dict[int | None, list[LabelledRows]]:
    """Read the older rows that challengers are fitted to, by number of windows (:data:`PASTS`).

    If two numbers of windows select the same rows, the rows are read only once, with the first of these numbers. If
    there are more than :data:`MAX_ROWS` rows, only a random sample of them is read.
    """
    found: dict[int | None, list[LabelledRows]] = {}
    sizes: set[int] = set()
    for past in PASTS:
        start = None if past is None else _earlier_start(window, past - 1)
        counts = [item.count(start) for item in older]
        if sum(counts) in sizes:
            continue
        sizes.add(sum(counts))
        found[past] = [_read(item, start, rows) for item, rows in zip(older, _chosen_of(counts), strict=True)]
    return found


def _read(older: OlderRows, start: datetime | None = None, numbers: NDArray[np.int64] | None = None) -> LabelledRows:
    """Read rows with the label in the column ``label``, see :meth:`OlderRows.read`."""
    table, times = older.read(start, numbers)
    return LabelledRows(_with_numbers(table.rename_columns([*older.features, LABEL])), times, older.window)


def _earlier_start(window: Window, count: int) -> datetime:
    """Return the start of the window that lies ``count`` windows before ``window``.

    Windows of whole days, months or years are counted in calendar time, because months and local days differ in length.
    """
    start, end = (local(moment, window.zone) for moment in (window.start, window.end))
    if start.time() != end.time():
        return window.start - count * (window.end - window.start)
    months = 12 * (end.year - start.year) + end.month - start.month
    if start.day == end.day == 1:
        year, month = divmod(12 * start.year + start.month - 1 - count * months, 12)
        return instant(start.replace(year=year, month=month + 1), window.zone)
    return instant(start - count * (end - start), window.zone)


def chosen(count: int) -> NDArray[np.int64] | None:
    """Draw a random sample of :data:`MAX_ROWS` rows, with a fixed seed.

    :param count: number of rows
    :return: the numbers of the drawn rows in ascending order; ``None`` if there are at most :data:`MAX_ROWS` rows
    """
    if count <= MAX_ROWS:
        return None
    return np.sort(np.random.default_rng(0).choice(count, MAX_ROWS, replace=False))


def sampled(table: pa.Table) -> pa.Table:
    """Return the sample of the rows that :func:`chosen` draws; all rows if there are at most :data:`MAX_ROWS`."""
    rows = chosen(table.num_rows)
    return table if rows is None else table.take(pa.array(rows))
