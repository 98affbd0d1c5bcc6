"""Parquet files with INT96 timestamps that no writer of this environment can write."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PLACEHOLDER = 1
"""The time that :func:`with_days` replaces, in microseconds since 1970."""

_JULIAN_1970 = 2_440_588


def with_days(table: pa.Table, days: Sequence[int], **options: Any) -> bytes:
    """The content of a Parquet file with the rows of a table, in which other days replace the placeholders.

    :param table: its timestamps become INT96, also those in lists and structs
    :param days: midnight of each day in days since 1970, in the order of the placeholders in the file
    :param options: options of ``pyarrow.parquet.write_table``
    """
    sink = io.BytesIO()
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, sink, use_deprecated_int96_timestamps=True, **{**plain, **options})
    content = sink.getvalue()
    parts = content.split(struct.pack("<QI", 1_000, _JULIAN_1970))
    assert len(parts) == len(days) + 1
    return parts[0] + b"".join(
        struct.pack("<QI", 0, _JULIAN_1970 + day) + part for day, part in zip(days, parts[1:], strict=True)
    )
