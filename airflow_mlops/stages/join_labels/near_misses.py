"""Find predictions whose key differs from the key of a label only in its form, such as ``7`` and ``007``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import told_apart
from airflow_mlops.data import relational
from airflow_mlops.data.carried import carried, carried_type
from airflow_mlops.data.moments import is_text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_TIME_OF_DAY = r"([T ,]+\d{1,2}:\d\d(:\d\d([.,]\d{1,9})?)?( ?[AaPp][Mm])?( ?(Z|UTC|GMT|[+-]\d\d(:?\d\d)?))?)?"  # 06:30:00.5 PM +0100
_SEPARATED = (
    r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}"  # 2024-03-05
    r"|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}"  # 3/5/2024
    r"|\d{1,2}/\d{1,2}/\d{2}"  # 3/5/24
    r"|\d{1,2}[- ][A-Za-z]{3,9}[- ,]+\d{2,4}"  # 5 March 2024
    rf"|[A-Za-z]{{3,9}} \d{{1,2}},? \d{{4}}){_TIME_OF_DAY}$"  # March 5, 2024
)
_COMPACT = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(T?\d{4,6}Z?)?$"
_SHAPE = (
    (r"(:\d\d)[.,]\d+", r"\1.f"),
    (r"[A-Za-z]{3,}", "A"),
    (r"\d{5,}", "D"),
    (r"\d{4}", "Y"),
    (r"\d+", "d"),
)

# A function that reads tables one after another, each with the number of rows before it.
Tables = Callable[[], Iterator[tuple[int, pa.Table]]]


@dataclass(frozen=True)
class NearMisses:
    """Predictions without a label whose key differs from the key of a label only in its form.

    :param rows: number of these predictions
    :param column: key column with the different forms
    :param prediction: key of one of these predictions
    :param label: key of the labels that differs from ``prediction`` only in its form; for times, any time of the labels
    :param are_times: whether the keys are times as text, and no label has a time in the form of the predictions
    """

    rows: int
    column: str
    prediction: str
    label: str
    are_times: bool

    def explain(self, predictions: int, name: str) -> str:
        """Return the text of an error.

        :param predictions: number of all predictions
        :param name: name of the dataset of labels
        """
        mine, theirs = told_apart(self.prediction, self.label)
        how = "contains times as text in different forms" if self.are_times else "is written differently"
        how = f"{how}: {mine} in the predictions and {theirs}"
        fix = (
            f"Ingest both columns with a time type, such as types={{{self.column!r}: 'date32'}}, and convert text that is "
            "not ISO 8601 in the source."
            if self.are_times
            else "Ingest both columns with the same type (types=), or write their values in the same form in the source."
        )
        return f"{self.rows:,} of {predictions:,} predictions have no label, because the key column {self.column!r} {how} in dataset {name!r}. {fix}"

    def note(self, name: str) -> str:
        """Return a sentence for the summary of the result."""
        mine, theirs = told_apart(self.prediction, self.label)
        return f"No label for {counted(self.rows, 'prediction')}: {self.column!r} is {mine} in the predictions but {theirs} in {name}."


def find(
    connection: DuckDBPyConnection, unmatched: Tables, labels: Tables, schema: pa.Schema, hashed: Collection[str]
) -> list[NearMisses | None]:
    """Find predictions that match no label only because of the form of a key.

    Two keys differ only in their form if they are equal after normalization. Normalization ignores outer and repeated
    spaces, upper and lower case, leading zeros, a final ``.0`` and the Unicode normal form. Times as text, such as
    ``2024-03-05`` and ``3/5/2024``, differ in their form if no label has a time in the form of the prediction. The rows
    are read in batches.

    :param connection: database that compares the keys
    :param unmatched: reads the comparable key columns (:mod:`~.keys`) of the predictions that match no label, with the
        number of rows before each table
    :param labels: reads the comparable key columns of the labels
    :param schema: names and types of the comparable key columns
    :param hashed: key columns with hashes, which are not searched
    :return: for each kind of difference, the predictions with it, or ``None`` if there are none. See
        :func:`most_frequent`
    """
    texts = [field.name for field in schema if is_text(field.type) and field.name not in hashed]
    if not texts:
        return []
    found = [_spelling(connection, unmatched, labels, schema, texts)]
    return [*found, *(_times(_column(unmatched, name), _column(labels, name), name) for name in texts)]


def most_frequent(found: Iterable[Sequence[NearMisses | None]]) -> NearMisses | None:
    """Return the most frequent kind of difference; ``None`` if there are no near misses.

    :param found: results of :func:`find` for consecutive predictions
    """
    kinds = ([item for item in kind if item is not None] for kind in zip_longest(*found))
    summed = [replace(kind[0], rows=sum(item.rows for item in kind)) for kind in kinds if kind]
    return max(summed, key=lambda item: item.rows, default=None)


def _column(tables: Tables, name: str) -> Callable[[], Iterator[pa.ChunkedArray]]:
    return lambda: (table[name] for _, table in tables() if table.num_rows)


def _spelling(
    connection: DuckDBPyConnection, unmatched: Tables, labels: Tables, schema: pa.Schema, texts: list[str]
) -> NearMisses | None:
    def normalized(tables: Tables) -> Iterator[pa.RecordBatch]:
        row = 0
        for _, table in tables():
            keys = [
                _for_distinct(table[name], _without_differences) if name in texts else table[name].combine_chunks()
                for name in schema.names
            ]
            written = [table[name].combine_chunks() for name in texts]
            arrays = [pa.array(np.arange(row, row + table.num_rows)), *map(carried, keys), *map(carried, written)]
            yield pa.RecordBatch.from_arrays(arrays, schema=columns)
            row += table.num_rows

    columns = pa.schema([
        ("row", pa.int64()),
        *((f"k{n}", carried_type(field.type)) for n, field in enumerate(schema)),
        *((f"t{n}", pa.string()) for n, _ in enumerate(texts)),
    ])  # fmt: skip
    same = " AND ".join(f"p.k{n} = l.k{n}" for n, _ in enumerate(schema))
    mine, theirs = (", ".join(f"{side}.t{n}" for n, _ in enumerate(texts)) for side in "pl")
    # The first prediction becomes the example in the message. All names in the query are generated here.
    pairs = (
        f"SELECT p.row AS row, any_value(ROW({mine})) AS mine, arg_min(ROW({theirs}), l.row) AS theirs "  # noqa: S608
        f"FROM unmatched p JOIN labels l ON {same} GROUP BY p.row"
    )
    sql = f"SELECT count(*) AS rows, arg_min(mine, row) AS mine, arg_min(theirs, row) AS theirs FROM ({pairs})"  # noqa: S608
    tables = {"unmatched": (columns, normalized(unmatched)), "labels": (columns, normalized(labels))}
    (found,) = pa.Table.from_batches(relational.stream(connection, sql, tables)).to_pylist()
    if not found["rows"]:
        return None
    example = zip(texts, found["mine"].values(), found["theirs"].values(), strict=True)
    column, prediction, label = next(item for item in example if item[1] != item[2])
    return NearMisses(found["rows"], column, prediction, label, are_times=False)


def _for_distinct(column: Any, convert: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Convert the distinct values of a column, and return the converted column."""
    encoded = column.combine_chunks().dictionary_encode()
    return convert(encoded.dictionary).take(encoded.indices)


def _without_differences(text: pa.Array) -> pa.Array:
    """Normalize texts: spaces, case, leading zeros, a final ``.0`` and the Unicode normal form."""
    text = pc.utf8_lower(pc.utf8_trim_whitespace(pc.utf8_normalize(text, form="NFC")))
    text = pc.replace_substring_regex(text, r"\s+", " ")
    text = pc.replace_substring_regex(text, r"^([+-]?\d+)\.0+$", r"\1")
    text = pc.replace_substring_regex(text, r"^([+-]?)0+(\d+)$", r"\1\2")
    is_date = pc.match_substring_regex(text, _SEPARATED)
    return pc.if_else(is_date, pc.replace_substring_regex(text, r"(^|[-/. ])0(\d)", r"\1\2"), text)


def _times(
    left: Callable[[], Iterator[pa.ChunkedArray]], right: Callable[[], Iterator[pa.ChunkedArray]], column: str
) -> NearMisses | None:
    """Find predictions whose key is a time as text, such as ``3/5/2024``, in a form that does not occur in the labels.

    :param left: reads the key column of the predictions that match no label
    :param right: reads the key column of the labels
    :param column: name of the key column
    :return: ``None`` if there are no such predictions, or if the labels contain no times
    """
    shapes: set[str] = set()
    example, separated = "", False
    for values in right():
        there = pc.unique(values).drop_null()
        there = there.filter(_is_time(there))
        if len(there):
            example = example or there[0].as_py()
            shapes.update(pc.unique(_shape(there)).to_pylist())
            separated = separated or pc.any(_is_separated(there)).as_py()
    if not shapes:
        return None
    # Digits without separators count as times only if at least one label is a time with separators.
    is_time = _is_time if separated else _is_separated
    known = pa.array(sorted(shapes), pa.string())

    def is_apart(text: pa.Array) -> pa.Array:
        return pc.and_(is_time(text), pc.invert(pc.is_in(_shape(text), value_set=known)))

    rows, first = 0, ""
    for values in left():
        apart = values.filter(pc.fill_null(_for_distinct(values, is_apart), False))
        if len(apart):
            first = first or apart[0].as_py()
            rows += len(apart)
    return NearMisses(rows, column, first, example, are_times=True) if rows else None


def _is_time(text: Any) -> Any:
    return pc.or_(_is_separated(text), pc.match_substring_regex(text, _COMPACT))


def _is_separated(text: Any) -> Any:
    return pc.match_substring_regex(text, _SEPARATED)


def _shape(text: Any) -> Any:
    """Return the form of each time, such as ``Y-d-d`` for ``2024-03-05``."""
    for pattern, sign in _SHAPE:
        text = pc.replace_substring_regex(text, pattern, sign)
    return text
