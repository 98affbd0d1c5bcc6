"""Looks up the label of each prediction. DuckDB joins the keys within bounded memory; labels are chosen batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data import relational
from airflow_mlops.data.carried import restored
from airflow_mlops.data.columns import LABEL, LABEL_AT
from airflow_mlops.data.moments import UTC
from airflow_mlops.stages.join_labels.choice import Found
from airflow_mlops.stages.join_labels.sources import LABEL_ROW, ROW, VALUE, WEIGHT, Labels, Predictions

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray


@dataclass
class Tally:
    """What was counted while labels were looked up.

    :param rows: number of predictions
    :param labelled: number of predictions whose label is not null
    :param matched: number of predictions that match a row of the labels
    :param repeated: number of predictions that match several rows of the labels
    :param contradicted: row numbers of the predictions with several different labels
    """

    rows: int = 0
    labelled: int = 0
    matched: int = 0
    repeated: int = 0
    contradicted: list[NDArray[np.int64]] = field(default_factory=list)
    _matched_bits: list[tuple[int, NDArray[np.uint8]]] = field(default_factory=list)

    def add(self, found: Found, first_row: int, label: pa.Array, contradicted: NDArray[np.int64]) -> None:
        """Add consecutive predictions.

        :param first_row: row number of the first added prediction
        :param label: their labels
        :param contradicted: positions among the added predictions, from 0, of those with several different labels
        """
        matched = found.matched
        self.rows += found.predictions
        self.labelled += found.predictions - label.null_count
        self.matched += int(matched.sum())
        self.repeated += found.repeated
        self._matched_bits.append((first_row, np.packbits(matched)))
        if len(contradicted):
            self.contradicted.append(contradicted + first_row)

    def unmatched(self, tables: Iterator[tuple[int, pa.Table]]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the rows of ``tables`` that match no row of the labels.

        :param tables: the rows of all predictions in order, with the number of rows before each table
        """
        starts = np.array([first for first, _ in self._matched_bits] + [self.rows])
        for first, table in tables:
            flags = np.empty(table.num_rows, bool)
            piece = int(np.searchsorted(starts, first, "right")) - 1
            done = 0
            while done < len(flags):
                begin = first + done - starts[piece]
                bits = np.unpackbits(self._matched_bits[piece][1], count=int(starts[piece + 1] - starts[piece]))
                part = bits[begin : begin + len(flags) - done]
                flags[done : done + len(part)] = part
                done += len(part)
                piece += 1
            yield first, table.filter(pa.array(~flags))


def look_up(
    connection: DuckDBPyConnection, predictions: Predictions, labels: Labels, tally: Tally
) -> Iterator[pa.Table]:
    """Look up the label of each prediction.

    Memory use depends neither on the number of predictions nor on the number of labels, except for one bit per prediction.

    :param tally: counters, to which each prediction is added
    :return: tables with the column ``label`` and, if ``labels_timestamp`` contains times, the column ``label_at``, for
        consecutive predictions. They are null for a prediction without a label
    """
    same = " AND ".join(f"p.k{n} = l.k{n}" for n in range(len(labels.keys)))
    others = ", ".join(f"l.{name}" for name in (LABEL_ROW, *labels.carried_columns))
    # The names are generated here.
    sql = f"SELECT p.{ROW}, {others} FROM predictions p LEFT JOIN labels l ON {same} ORDER BY p.{ROW}"  # noqa: S608
    tables = {
        "predictions": (predictions.schema, predictions.batches()),
        "labels": (labels.schema, labels.batches()),
    }
    for pairs in _complete(relational.stream(connection, sql, tables)):
        yield _choose(pairs, labels, tally)


def _complete(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Regroup batches, so that all pairs of a prediction are in one table."""
    rest: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        if rest is not None:
            table = pa.concat_tables([rest, table])
        rows = table[ROW].to_numpy()
        end = int(np.searchsorted(rows, rows[-1])) if len(rows) else 0
        if end:
            yield table.slice(0, end)
        rest = table.slice(end)
    if rest is not None and rest.num_rows:
        yield rest


def _choose(pairs: pa.Table, labels: Labels, tally: Tally) -> pa.Table:
    pairs = pairs.combine_chunks()
    rows = pairs[ROW].to_numpy()
    first, predictions = int(rows[0]), int(rows[-1] - rows[0]) + 1
    is_pair = pc.is_valid(pairs[LABEL_ROW]).to_numpy()
    if predictions < len(rows):
        found, pairs, is_pair = _in_order(pairs, rows - first, is_pair, predictions, labels)
    else:
        found = Found(np.flatnonzero(is_pair), np.flatnonzero(is_pair), predictions)
    values = restored(_array(pairs, VALUE), labels.kind)
    contradicted: NDArray[np.int64] = np.empty(0, np.int64)
    place = None
    if predictions < len(rows):
        order = labels.by_version or labels.by_time
        prefix = "version" if labels.by_version else "time"
        ranks = order.ranks([_array(pairs, f"{prefix}{n}") for n in range(len(order.types))]) if order else None
        weight = restored(_array(pairs, WEIGHT), labels.weight[1]) if labels.weight else None
        chosen, contradicted = found.choose(values, ranks, weight)
        place = pa.array(chosen, mask=chosen < 0)
    label = values if place is None else values.take(place)
    columns = {LABEL: label}
    if labels.weight is not None:
        name, kind = labels.weight
        weights = restored(_array(pairs, WEIGHT), kind)
        columns[name] = weights if place is None else weights.take(place)
    if labels.by_time is not None and labels.by_time.is_time:
        times = _array(pairs, "time0").cast(pa.timestamp("us")).cast(UTC)
        times = times if place is None else times.take(place)
        columns[LABEL_AT] = pc.if_else(pc.is_null(label, nan_is_null=True), None, times)
    tally.add(found, first, label, contradicted)
    return pa.table(columns)


def _in_order(
    pairs: pa.Table, prediction: NDArray[np.int64], is_pair: NDArray[np.bool_], predictions: int, labels: Labels
) -> tuple[Found, pa.Table, NDArray[np.bool_]]:
    """Sort pairs by prediction, and then by descending ``labels_timestamp``, so that the preferred label comes last."""
    pairs, prediction = pairs.filter(pa.array(is_pair)).combine_chunks(), prediction[is_pair]
    keys: list[Any] = [pairs[LABEL_ROW].to_numpy()]
    if labels.by_time is not None:
        ranks = labels.by_time.ranks([_array(pairs, f"time{n}") for n in range(len(labels.by_time.types))]).to_numpy()
        # A label whose time is unknown comes first.
        keys.append(np.where(ranks == 0, np.iinfo(np.int64).min, -ranks))
    order = np.lexsort((*keys, prediction))
    pairs = pairs.take(pa.array(order)).combine_chunks()
    return Found(prediction[order], np.arange(len(order)), predictions), pairs, np.ones(len(order), bool)


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
