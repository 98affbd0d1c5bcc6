"""Validate a column batch by batch in the order of the rows, for expectations that executors do not check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_mlops.stages.validate.garbage import collected
from airflow_mlops.stages.validate.merged import Merged
from airflow_mlops.stages.validate.rows import BATCH_ROWS
from airflow_mlops.stages.validate.selected import Selected
from airflow_mlops.stages.validate.times import frame_of

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from numpy.typing import NDArray

# The value before the batch has this label in the DataFrame.
_BEFORE = -1


def merged(
    rows: Selected,
    column: str,
    check: Callable[[pd.DataFrame], ExpectationValidationResult],
    *,
    with_previous: bool,
) -> Merged:
    """Return the result of an expectation about a column.

    :param check: function that validates rows with the expectation
    :param with_previous: whether the expectation compares each value with the value before it, other than null. The last
        value of a batch is then also the first value of the next batch
    """
    found = Merged()
    none = before = rows.schema.empty_table().select([column])
    found.follow(check(frame_of(none, rows.facts)))
    for numbers, table in collected(_large(rows, column)):
        values = pa.concat_tables([before, table])
        frame = frame_of(values, rows.facts)
        frame.index = np.concatenate([np.full(before.num_rows, _BEFORE), numbers])
        result = check(frame)
        if "element_count" in result.result:
            result.result["element_count"] -= before.num_rows
        found.add(result, frame, 0)
        if with_previous:
            before = values.take(pa.array(np.flatnonzero(frame[column].notna())[-1:]))
    return found


def _large(rows: Selected, column: str) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
    """Yield the values in large batches, because each run of Great Expectations takes some time."""
    numbers: list[NDArray[np.int64]] = []
    tables: list[pa.Table] = []
    count = 0
    for number, table in rows.tables([column]):
        if tables and count + table.num_rows > BATCH_ROWS:
            yield np.concatenate(numbers), pa.concat_tables(tables)
            numbers, tables, count = [], [], 0
        numbers.append(number)
        tables.append(table)
        count += table.num_rows
    if count:
        yield np.concatenate(numbers), pa.concat_tables(tables)
