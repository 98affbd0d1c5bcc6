"""Parts of tables. A part is all rows with the same values in some columns, such as the same window, model version and dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.fingerprints import fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

Part = Mapping[str, Any]
"""The values that select a part of a table, by column name. Exactly the rows with these values are in the part."""


def kept_errors(batches: Iterator[pa.RecordBatch], failed: list[BaseException]) -> Iterator[pa.RecordBatch]:
    """Yield ``batches``. If this fails, append the exception to ``failed``, because Arrow keeps only its text."""
    try:
        yield from batches
    except BaseException as error:
        failed.append(error)
        raise


def part_hash(part: Part) -> str:
    """Return a hash of the values that select the rows of a part."""
    return fingerprint([f"{name}={value}" for name, value in part.items()])
