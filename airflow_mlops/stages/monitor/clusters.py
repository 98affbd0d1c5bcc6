"""The clusters of the checked predictions (``policy.groups``), for tests that allow for dependent rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data import relational, spool
from airflow_mlops.data.columns import LABEL
from airflow_mlops.drift.clusters import design_effect, equal_rows
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.clusters import ClusterSums, Design, codes, dense
from airflow_mlops.metrics.realised.spooled import SORT_MEMORY
from airflow_mlops.profiles import multivariate
from airflow_mlops.profiles.labels import labels
from airflow_mlops.stages.monitor.check import CLUSTER, Check, Clusters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.profiles.profile import ColumnProfile

# DuckDB numbers the clusters of more rows.
_ROWS_IN_MEMORY = 1 << 20


@contextmanager
def numbered(check: Check) -> Iterator[Check]:
    """Number the clusters of a check, whose batches then have the column :data:`CLUSTER`.

    The numbers are in a temporary file. Each row with a null in the column of the clusters is a separate cluster.

    :return: the check, unchanged if rows are independent
    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    column = group_column(check)
    if column is None:
        yield check
        return
    kind = pa.schema([(CLUSTER, pa.int64())])
    with ExitStack() as stack:
        if check.rows <= _ROWS_IN_MEMORY:
            found = dense(codes(_read(check, column))) if check.rows else np.empty(0, np.int64)
            count = int(found.max(initial=-1)) + 1
            numbers = stack.enter_context(spool.spooled([pa.record_batch([pa.array(found)], schema=kind)]))
        else:
            counter = _Counter()
            numbers = stack.enter_context(spool.spooled(counter.numbers(check, column), kind))
            count = counter.clusters
        yield replace(check, numbered=Clusters(numbers, count))


class _Counter:
    """Numbers the clusters of many rows. DuckDB holds the names of the clusters, on the disk if necessary.

    :ivar clusters: number of clusters, after all rows were numbered
    """

    def __init__(self) -> None:
        self.clusters = 0

    def numbers(self, check: Check, column: str) -> Iterator[pa.RecordBatch]:
        """Yield the number of the cluster of each row, from 0."""
        schema = pa.schema([("name", _type_of(check, column)), ("row", pa.int64())])
        sql = """
            WITH names AS MATERIALIZED (
                SELECT name, row_number() OVER (ORDER BY name) - 1 AS number FROM (SELECT DISTINCT name FROM distinct_rows)
                WHERE name IS NOT NULL
            )
            SELECT number, (SELECT count(*) FROM names) AS known FROM every_row LEFT JOIN names USING (name) ORDER BY row
        """

        def rows() -> Iterator[pa.RecordBatch]:
            start = 0
            for batch in check.batches([column]):
                names = plain(batch.column(column)).cast(schema.field("name").type)
                places = np.arange(start, start + len(names))
                start += len(names)
                yield pa.RecordBatch.from_arrays([names, pa.array(places)], schema=schema)

        with relational.connect_bounded(most=SORT_MEMORY) as connection:
            tables = {"distinct_rows": (schema, rows()), "every_row": (schema, rows())}
            missing = 0
            for batch in relational.stream(connection, sql, tables):
                known = batch.column("known")[0].as_py()
                found = pc.fill_null(batch.column("number"), -1).to_numpy().astype(np.int64)
                nulls = found < 0
                found[nulls] = known + missing + np.arange(nulls.sum())
                missing += int(nulls.sum())
                self.clusters = known + missing
                yield pa.RecordBatch.from_arrays([pa.array(found)], [CLUSTER])


def of_scores(check: Check) -> Design | None:
    """Return how much clusters widen an interval of the scored predictions, if all errors within a cluster are equal.

    :return: ``None`` if rows are independent
    """
    if check.clusters is None:
        return None
    sums = ClusterSums(check.clusters.count)
    for batch in metrics.scored(check.batches(["score", CLUSTER]), labelled=False):
        sums.add(np.zeros(batch.num_rows), of_batch(batch))
    return sums.alike()


def of_batch(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """Return the column :data:`CLUSTER` of a batch, shape (n,)."""
    found: NDArray[np.int64] = batch.column(CLUSTER).to_numpy()
    return found


def designs(check: Check, columns: Mapping[str, ColumnProfile]) -> dict[str, float]:
    """Return the design effect of each column and of the reconstruction error, by name. One column is read at a time.

    The result is empty if rows are independent, or if there are no rows. Columns that are absent from the predictions
    are left out.

    :param columns: profiles of the columns at training, by name
    """
    if check.clusters is None or not check.rows:
        return {}

    def rows(name: str) -> Iterator[tuple[pa.Array, NDArray[np.int64]]]:
        for batch in check.batches([name, CLUSTER]):
            yield plain(batch.column(name)), of_batch(batch)

    sizes = _sizes(check.clusters.count, map(of_batch, check.batches([CLUSTER])))
    memory = relational.default_memory(most=SORT_MEMORY)
    found = {
        name: design_effect(partial(rows, name), sizes, column, memory)
        for name, column in columns.items()
        if check.has_columns(name)
    }
    return {**found, multivariate.ERROR: equal_rows(sizes)}


def label_design(check: Check, contract: ModelContract, column: ColumnProfile) -> float:
    """Return the design effect of the labels; 1 if rows are independent, or if there are no labels.

    :param column: profile of the labels at training
    """
    if check.clusters is None:
        return 1.0

    def rows() -> Iterator[tuple[pa.Array, NDArray[np.int64]]]:
        for batch in check.batches([LABEL, CLUSTER]):
            known = pc.invert(pc.is_null(batch.column(LABEL), nan_is_null=True))
            groups = batch.column(CLUSTER).filter(known).to_numpy()
            for item in labels([batch], contract):
                yield item.column(LABEL), groups

    sizes = _sizes(check.clusters.count, (groups for _, groups in rows()))
    return design_effect(rows, sizes, column, relational.default_memory(most=SORT_MEMORY))


def _sizes(clusters: int, batches: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the number of rows of each cluster, shape (c,).

    :param batches: the numbers of the clusters of rows
    """
    sizes = np.zeros(clusters, np.int64)
    for groups in batches:
        np.add.at(sizes, groups, 1)
    return sizes


def group_column(check: Check) -> str | None:
    """Return the column that names the clusters; ``None`` if rows are independent.

    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    column = check.policy.groups
    if column is not None and not check.has_columns(column):
        raise SpecError(
            f"policy.groups={column!r} is not a column of the predictions. Keep this column in the scored dataset, for "
            "example as a key, or set another column."
        )
    return column


def _read(check: Check, name: str) -> pa.ChunkedArray:
    return pa.chunked_array([plain(batch.column(name)) for batch in check.batches([name])])


def _type_of(check: Check, name: str) -> pa.DataType:
    """Return the type of a column. Datasets in which all its values are missing may have the type null."""
    kinds = (plain(batch.column(name)).type for batch in check.batches([name]))
    return next((kind for kind in kinds if not pa.types.is_null(kind)), pa.string())


def plain(array: pa.Array) -> pa.Array:
    """Return the values of a dictionary array as a plain array. Any other array is returned unchanged."""
    # Batches may have different dictionaries, or types that differ in width.
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array
