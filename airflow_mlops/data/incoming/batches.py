"""Regroup a stream of Arrow batches into batches of a fixed number of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa


def rechunk(batches: Iterable[pa.RecordBatch], rows: int, max_bytes: int = 128 << 20) -> Iterator[pa.RecordBatch]:
    """Regroup a stream of batches into batches of ``rows`` rows.

    The files of a dataset therefore do not depend on the batch size of the source. The last batch can be shorter. To
    limit memory use, a batch also ends as soon as it has ``max_bytes`` bytes.
    """
    waiting: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        while batch.num_rows:
            head = batch.slice(0, rows - count)
            batch = batch.slice(head.num_rows)
            waiting.append(head)
            count += head.num_rows
            size += head.nbytes
            if count == rows or size >= max_bytes:
                yield _join(waiting)
                waiting, count, size = [], 0, 0
    if waiting:
        yield _join(waiting)


def merged(batches: Iterable[pa.RecordBatch], rows: int, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """Merge neighbouring batches until they have ``rows`` rows or ``max_bytes`` bytes. No batch is divided.

    A source reads blocks of bytes, so the batches of a table with thousands of columns have few rows. The fixed cost of each column
    of each batch then exceeds the cost of its values. Batches with other schemas are not merged.
    """
    waiting: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        if waiting and not batch.schema.equals(waiting[0].schema, check_metadata=True):
            yield _join(waiting)
            waiting, count, size = [], 0, 0
        waiting.append(batch)
        count += batch.num_rows
        size += batch.nbytes
        if count >= rows or size >= max_bytes:
            yield _join(waiting)
            waiting, count, size = [], 0, 0
    if waiting:
        yield _join(waiting)


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
