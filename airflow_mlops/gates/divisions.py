"""Divide rows that may not fit in memory into the slices of :func:`airflow_mlops.gates.slice_search.by_column`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.sorting import in_order
from airflow_mlops.gates.slice_search import (
    BINS,
    FEW,
    LEVELS,
    as_text,
    bin_codes,
    bin_names,
    is_binned,
    level_names,
    sortable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Batches = Callable[[], Iterable[pa.Array]]
"""Yields the values of a column in batches. Each call yields the same batches."""


@dataclass(frozen=True)
class Division:
    """The slices of the rows by the value of one column. The last slice has the rows with a null or NaN.

    :param names: names of the slices
    :param kind: type of the values
    """

    names: Sequence[str]
    kind: pa.DataType
    _present: Callable[[pa.Array], NDArray[Any]]

    def codes(self, values: pa.Array) -> NDArray[np.int64]:
        """Return the number of the slice of each row, from 0, shape (n,)."""
        missing = _missing(values)
        found = np.full(len(values), len(self.names) - 1)
        found[~missing] = self._present(values.filter(pa.array(~missing)).cast(self.kind))
        return found.astype(np.int64)


def divide(name: str, batches: Batches, rows: int, memory_limit: str | None = None) -> Division:
    """Divide rows by the value of a column. Memory grows only with the number of distinct values that are not binned.

    :param name: name of the column
    :param batches: the values
    :param rows: number of rows, or a larger number
    :param memory_limit: memory of a sort, see :func:`airflow_mlops.data.relational.connect_bounded`
    """
    counts, kind = Counter[Any](), pa.null()
    for values in batches():
        kind = values.type if pa.types.is_null(kind) else kind
        found = values.filter(pa.array(~_missing(values))).value_counts()
        counts.update(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))
        if is_binned(kind) and len(counts) > FEW:
            return _bins(name, kind, list(_edges(batches, sortable(pa.nulls(0, kind)).type, rows, memory_limit)))
    return _levels(name, kind, counts)


def _bins(name: str, kind: pa.DataType, edges: Sequence[pa.Scalar]) -> Division:
    names = bin_names(name, [edge.cast(kind) for edge in edges])
    return Division([*names, f"{name} missing"], kind, lambda values: bin_codes(sortable(values), edges))


def _levels(name: str, kind: pa.DataType, counts: Mapping[Any, int]) -> Division:
    texts = {value: as_text(pa.scalar(value, kind)) for value in counts}
    order = sorted(counts, key=lambda value: (-counts[value], texts[value]))
    names, top = level_names(name, [texts[value] for value in order]), pa.array(order[:LEVELS], kind)
    # All other values have the number after those of the most frequent values.
    return Division(
        [*names, f"{name} missing"],
        kind,
        lambda values: pc.fill_null(pc.index_in(values, top), LEVELS).to_numpy(),
    )


def _edges(batches: Batches, kind: pa.DataType, rows: int, memory_limit: str | None) -> Iterator[pa.Scalar]:
    """Yield the quartiles above the smallest value, each once."""
    schema = pa.schema([("value", kind)])

    def present() -> Iterator[pa.RecordBatch]:
        for values in batches():
            known = sortable(values).filter(pa.array(~_missing(values))).cast(kind)
            yield pa.RecordBatch.from_arrays([known], schema=schema)

    last = sum(batch.num_rows for batch in present()) - 1
    places = [math.ceil(part / BINS * last) for part in range(1, BINS)]
    start, before = 0, None
    for batch in in_order(present(), schema, ["value"], rows, memory_limit):
        values = batch.column(0)
        before = values[0] if before is None else before
        for place in places:
            if start <= place < start + len(values) and pc.greater(value := values[place - start], before).as_py():
                yield value
                before = value
        start += len(values)


def _missing(values: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False))
