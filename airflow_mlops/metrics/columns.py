"""The columns that metrics name: costs of rows (:mod:`airflow_mlops.metrics.costs`), the groups of a ranking
(:mod:`airflow_mlops.metrics.rankings`), and the seasonal-naive forecast (:mod:`airflow_mlops.metrics.forecasts`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import MetricColumnError
from airflow_mlops.data.cost_columns import read_costs, why_no_costs, why_no_numbers
from airflow_mlops.data.sample_weights import numbers
from airflow_mlops.metrics.clusters import codes
from airflow_mlops.metrics.costs import cost_columns
from airflow_mlops.metrics.forecasts import SCALE, forecast_columns
from airflow_mlops.metrics.rankings import group_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset


def columns_of(metrics: Iterable[str]) -> list[str]:
    """Return the names of the columns that ``metrics`` name, each once."""
    names = list(metrics)
    return list(dict.fromkeys([*number_columns(names), *group_columns(names)]))


def number_columns(metrics: Iterable[str]) -> list[str]:
    """Return the names of the columns of numbers that ``metrics`` name, each once: costs and forecasts."""
    names = list(metrics)
    return list(dict.fromkeys([*cost_columns(names), *forecast_columns(names)]))


def read_columns(dataset: Dataset, part: str | None, metrics: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read the columns that metrics name, each of shape (n,): costs of rows, forecasts, and codes of groups.

    :param dataset: the dataset
    :param part: name of the split part; ``None`` for all rows
    :param metrics: names of the metrics
    :raises MetricColumnError: the dataset lacks a column, a column is the label, or some values are invalid
    """
    names, where = list(metrics), f"{f'split part {part!r} of ' if part else ''}dataset {dataset.manifest.name!r}"
    found = dict(read_costs(dataset, part, cost_columns(names)))
    for column in [*forecast_columns(names), *group_columns(names)]:
        is_group = column in group_columns(names)
        if column not in dataset.manifest.column_names:
            raise MetricColumnError(
                f"Dataset {dataset.manifest.name!r} has no column {column!r}, which names the groups of a ranking. Name the column "
                "in `keys` or `watched` of BuildTrainingSetOperator, or correct the metric."
                if is_group
                else f"Dataset {dataset.manifest.name!r} has no column {column!r}, which the metric mase needs. Build the rows with "
                "BuildForecastRowsOperator, and the training set with BuildTrainingSetOperator."
            )
        values = dataset.table(part, [column]).column(column)
        if (wrong := why_invalid(names, column, values.chunks)) is not None:
            raise MetricColumnError(
                f"Column {column!r} of {where} cannot name the groups of a ranking, because it is {wrong}. Fill the nulls where the "
                "data is ingested, or leave these rows out of the dataset."
                if is_group
                else f"Column {column!r} of {where} cannot be used by the metric mase, because it is {wrong}. Build the rows with "
                "BuildForecastRowsOperator."
            )
        found |= converted(names, {column: values})
    return found


def why_invalid(metrics: Sequence[str], column: str, parts: Iterable[pa.Array]) -> str | None:
    """Return why metrics cannot use a column, such as ``null in 3 rows (of 10)``; ``None`` if they can use it.

    :param parts: the values of the column in parts, which are read one at a time
    """
    if column in cost_columns(metrics):
        return why_no_costs(parts)
    if column in forecast_columns(metrics):
        return why_no_numbers(parts, partial(_forecast_problems, column))
    counts = [(values.null_count, len(values)) for values in parts]
    nulls, rows = (sum(count) for count in zip(*counts, strict=True)) if counts else (0, 0)
    return f"null in {counted(nulls, 'row')} (of {rows:,})" if nulls else None


def converted(metrics: Sequence[str], values: Mapping[str, pa.ChunkedArray]) -> dict[str, NDArray[Any]]:
    """Convert columns with valid values: costs and forecasts to float64, and groups to codes, each of shape (n,)."""
    found = number_columns(metrics)
    return {name: numbers(column) if name in found else codes(column) for name, column in values.items()}


def _forecast_problems(column: str, found: NDArray[np.float64], nulls: int) -> dict[str, int]:
    return {
        "null": nulls,
        "NaN or infinite": int((~np.isfinite(found)).sum()) - nulls,
        "negative": int((found < 0).sum()) if column == SCALE else 0,
    }
