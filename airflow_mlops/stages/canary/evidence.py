"""Read the labelled predictions of a canary and of the champion since the canary began.

The server assigns each request, or each entity, to one of the two versions by a hash, which acts like a random choice.
The versions therefore have no rows in common. The probability of the canary is its share, which changes over time, so
rows are compared within *strata*. A stratum is the part of one window in which the share was constant. Windows are
separate strata, because the canary may have answered no request in some of them. A metric that is not a mean over rows
is compared within the whole period of a share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import DatasetNotFoundError, EvaluationError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, find_whole_datasets
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.catalog import is_deviance, is_expected_cost, is_forecast_error, is_quantile
from airflow_mlops.metrics.clusters import codes
from airflow_mlops.metrics.costs import cost_columns
from airflow_mlops.metrics.realised import COLUMNS, UnmeasurableError, columns, losses, measurable, outcomes
from airflow_mlops.metrics.two_groups import Group

#: Metrics of logged predictions by which a canary can be compared: means over rows, and the area under the ROC curve.
#: Expected costs and deviances are means over rows as well. Other metrics, such as F1, are biased on few rows, so their
#: biases in the small and in the large group would differ.
MEANS = ("accuracy", "log_loss", "brier", "rmse", "mae")
METRICS = ("roc_auc", *MEANS)

_REQUEST_ROW = "request_row"


@dataclass(frozen=True)
class Answers:
    """The predictions of one version since the canary began.

    :param losses: loss of each labelled row
    :param latencies: natural logarithm of the time per row of each request, with the time in milliseconds
    :param labels: total number of labelled rows
    :param labels_now: number of labelled rows since the current share began
    """

    losses: Group
    latencies: Group
    labels: int
    labels_now: int


def read(
    store: ArtifactStore,
    name: str,
    ref: ModelVersionRef,
    contract: ModelContract,
    metric: str,
    shares: Sequence[tuple[datetime, float]],
    groups: str | None,
    strata: dict[tuple[int, str], int],
) -> Answers:
    """Read the predictions of a version from datasets of labelled predictions.

    :param store: artifact store with the datasets
    :param name: name of the datasets
    :param ref: the version
    :param contract: model contract of the version
    :param metric: one of :data:`METRICS`, an expected cost, a deviance, a pinball loss or the SMAPE of forecasts
    :param shares: the shares of the canary in the order of time, each with the time at which it began
    :param groups: column that names the cluster of each row; ``None`` for independent rows
    :param strata: number of each stratum so far, by position in ``shares`` and window. New strata are added
    :raises SpecError: a dataset lacks a column, or contains predictions of another model
    :raises UnmeasurableError: the labels do not fit the model
    :raises EvaluationError: a deviance is not defined for some of the rows
    """
    parts: dict[tuple[int, str], list[pa.Table]] = {}
    for dataset in _datasets(store, name, shares[0][0]):
        # A window has the same identity in every time zone.
        window = dataset.window.identity if dataset.window else ""
        for step, rows in _by_share(_rows(dataset, ref, groups, cost_columns([metric])), shares).items():
            parts.setdefault((step, window), []).append(rows)
    tables = {key: pa.concat_tables(found, promote_options="permissive") for key, found in sorted(parts.items())}
    found, labels_now = _losses(tables, contract, metric, groups, strata, len(shares) - 1)
    return Answers(found, _latencies(tables, strata), len(found.values), labels_now)


def _datasets(store: ArtifactStore, name: str, since: datetime) -> list[Dataset]:
    window = Window(start=since, end=datetime.now(timezone.utc))
    try:
        return [dataset for dataset in find_whole_datasets(store, name, window) if dataset.manifest.purged is None]
    except DatasetNotFoundError:
        return []


def _rows(dataset: Dataset, ref: ModelVersionRef, groups: str | None, costs: Sequence[str]) -> pa.Table:
    present = dataset.manifest.column_names
    wanted = [*COLUMNS, "model_version", "scored_at", "latency_ms", *([groups] if groups else []), *costs]
    if absent := [column for column in wanted if column not in present]:
        what = "Set `outcomes` and `canary_outcomes` to datasets that JoinLabelsOperator wrote for online predictions."
        if absent[0] in costs:
            what = "Set `metric` to an expected cost whose columns are logged."
        elif absent == [groups]:
            what = "Set `groups` to a column that is logged."
        raise SpecError(f"Dataset {dataset.manifest.name!r} has no column {absent[0]!r}. {what}")
    if dataset.manifest.details.get("model") != ref.model:
        raise SpecError(
            f"Dataset {dataset.manifest.name!r} has predictions of model {dataset.manifest.details.get('model')!r}, and the canary is "
            f"a version of {ref.model!r}. Correct `outcomes` and `canary_outcomes`."
        )
    columns = list(dict.fromkeys([*wanted, *([_REQUEST_ROW] if _REQUEST_ROW in present else [])]))
    table = dataset.table(columns=columns)
    return table.filter(pc.equal(table["model_version"], ref.version))


def _by_share(rows: pa.Table, shares: Sequence[tuple[datetime, float]]) -> dict[int, pa.Table]:
    """Group rows by the share that applied when they were answered. Rows from before the canary are left out.

    :return: the rows by position in ``shares``
    """
    times = pa.array([time for time, _ in shares], pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    answered = rows["scored_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    steps = np.searchsorted(times, answered, side="right") - 1
    return {int(step): rows.filter(pa.array(steps == step)) for step in np.unique(steps) if step >= 0}


def _losses(
    tables: Mapping[tuple[int, str], pa.Table],
    contract: ModelContract,
    metric: str,
    groups: str | None,
    strata: dict[tuple[int, str], int],
    present: int,
) -> tuple[Group, int]:
    """Return the loss of each labelled row, and the number of labelled rows since the current share began.

    :param tables: rows by stratum: position of the share, and window
    :param strata: number of each stratum so far. New strata are added
    :param present: position of the current share
    """
    merged: dict[tuple[int, str], list[pa.RecordBatch]] = {}
    for (step, window), table in tables.items():
        on_request = is_expected_cost(metric) or is_deviance(metric) or is_quantile(metric) or is_forecast_error(metric)
        mean = metric in MEANS or on_request
        merged.setdefault((step, window if mean else ""), []).extend(table.to_batches())
    values, numbers, named, labels_now = [], [], [], 0
    for key, batches in merged.items():
        found = outcomes(batches, contract)
        if not found.rows:
            continue
        found = replace(found, columns=columns(batches, contract, [metric]))
        try:
            values.append(losses(metric, found))
        except UnmeasurableError as error:
            if is_deviance(metric):
                # Without these rows, a version with wrong predictions would seem better than it is.
                raise EvaluationError(
                    f"The canary cannot be compared by {metric}, because {error}. Set `metric` to rmse or mae, or correct the model."
                ) from None
            # A class has no rows in this stratum.
            continue
        numbers.append(np.full(found.rows, strata.setdefault(key, len(strata))))
        labels_now += found.rows if key[0] == present else 0
        if groups is not None:
            named += [batch.column(groups) for batch in measurable(batches, contract)]
    clusters = codes(pa.chunked_array(named)) if named else None
    return Group(_joined(values, np.float64), _joined(numbers, np.int64), clusters), labels_now


def _latencies(tables: Mapping[tuple[int, str], pa.Table], strata: dict[tuple[int, str], int]) -> Group:
    values, numbers = [], []
    for key, table in tables.items():
        if _REQUEST_ROW in table.column_names:
            # All rows of a request have the same latency: the time of the request, divided by its number of rows.
            table = table.filter(pc.equal(table[_REQUEST_ROW], 0))
        times = table["latency_ms"].to_numpy().astype(np.float64)
        times = times[np.isfinite(times) & (times > 0)]
        values.append(np.log(times))
        numbers.append(np.full(len(times), strata.setdefault(key, len(strata))))
    return Group(_joined(values, np.float64), _joined(numbers, np.int64))


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts).astype(kind) if parts else np.empty(0, kind)
