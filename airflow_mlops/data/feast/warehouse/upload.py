"""Parquet files of the events, for stores that load files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.feast.warehouse.base import Events
from airflow_mlops.data.feast.warehouse.view import EVENT_TIME

# Several files are loaded in parallel, and are deleted here one by one.
_FILE_ROWS = 1 << 22


def parquet_files(events: Events, time: pa.DataType) -> Iterator[tuple[str, pa.Schema]]:
    """Write the events to Parquet files, and yield the path and the schema of each file.

    A file is deleted before the next one is written. Integers have 64 bits, text has 32-bit offsets, and decimals, dates
    and booleans keep their types.

    :param time: type of the event times: ``timestamp[us, UTC]``, ``timestamp[us]``, which is in UTC, or ``int64`` in
        microseconds since 1970
    """
    schema = pa.schema([pa.field(f.name, time if f.name == EVENT_TIME else _plain(f.type)) for f in events.schema])
    with temporary_folder("events") as folder:
        first = next(events.batches, None)
        while first is not None:
            path = f"{folder}/{uuid4().hex}.parquet"
            rows = 0
            with pq.ParquetWriter(path, schema) as writer:
                for batch in chain([first], events.batches):
                    columns = [c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
                    rows += len(batch)
                    if rows >= _FILE_ROWS:
                        break
            yield path, schema
            os.unlink(path)
            first = next(events.batches, None)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(kind):
        return pa.int64()
    return pa.string() if pa.types.is_large_string(kind) else kind
