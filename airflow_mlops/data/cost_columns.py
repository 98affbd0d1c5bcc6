"""Read the columns from which an expected cost (:mod:`airflow_mlops.metrics.costs`) takes the cost of each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import MetricColumnError
from airflow_mlops.core.numbers import LARGEST_COST, SMALLEST_COST
from airflow_mlops.data.sample_weights import is_number, numbers

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset


def read_costs(dataset: Dataset, part: str | None, columns: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Read the cost of each row, shape (n,), from each column.

    :param dataset: the dataset
    :param part: name of the split part; ``None`` for all rows
    :param columns: names of the columns
    :raises MetricColumnError: the dataset lacks a column, a column is the label, or some values are not costs
    """
    name, details = dataset.manifest.name, dataset.manifest.details
    for column in columns:
        if column not in dataset.manifest.column_names:
            raise MetricColumnError(
                f"Dataset {name!r} has no column {column!r} with costs. Name the column in `features` or `watched` of "
                "BuildTrainingSetOperator, or correct the costs."
            )
        if column == details.get("label"):
            raise MetricColumnError(
                f"Column {column!r} of dataset {name!r} is the label, so it cannot contain costs. Name another column in the costs."
            )
    if not columns:
        return {}
    table = dataset.table(part, list(columns))
    where = f"split part {part!r} of dataset {name!r}" if part else f"dataset {name!r}"
    for column in columns:
        if (wrong := why_no_costs(table.column(column).chunks)) is not None:
            raise MetricColumnError(
                f"Column {column!r} of {where} cannot contain costs, because it is {wrong}. Costs are finite numbers of at least 0. "
                "Correct them where the data is ingested, or leave these rows out of the dataset."
            )
    return {column: numbers(table.column(column)) for column in columns}


def why_no_costs(parts: Iterable[pa.Array]) -> str | None:
    """Return why values cannot be costs, such as ``null in 3 rows (of 10)``; ``None`` if they can be costs.

    :param parts: the values in parts, which are read one at a time
    """
    return why_no_numbers(parts, _problems)


def why_no_numbers(
    parts: Iterable[pa.Array], problems: Callable[[NDArray[np.float64], int], Mapping[str, int]]
) -> str | None:
    """Return why values are not valid numbers, such as ``null in 3 rows (of 10)``; ``None`` if they are.

    :param parts: the values in parts, which are read one at a time
    :param problems: function of the numbers of a part, in which nulls are NaN, and of the number of nulls. It returns the
        number of invalid values by kind
    """
    rows, wrong = 0, Counter[str]()
    for values in parts:
        if not is_number(values.type):
            return f"of the type {values.type}"
        rows += len(values)
        wrong.update(problems(numbers(values), values.null_count))
    listed = " and ".join(f"{what} in {counted(count, 'row')}" for what, count in wrong.items() if count)
    return f"{listed} (of {rows:,})" if listed else None


def _problems(found: NDArray[np.float64], nulls: int) -> dict[str, int]:
    return {
        "null": nulls,
        "negative": int((found < 0).sum()),
        f"NaN, infinite or above {LARGEST_COST:g}": int((~(found <= LARGEST_COST)).sum()) - nulls,
        f"above 0 but below {SMALLEST_COST:g}": int(((found > 0) & (found < SMALLEST_COST)).sum()),
    }
