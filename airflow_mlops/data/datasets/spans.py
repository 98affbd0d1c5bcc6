"""Read the rows at some positions of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def batches_at(
    parquet: pq.ParquetFile, wanted: range, batch_rows: int, columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    """Stream the rows at the positions ``wanted`` of a file in batches of ``batch_rows``; the last may be smaller."""
    import pyarrow as pa

    groups, skipped, first = [], 0, 0
    for number in range(parquet.num_row_groups):
        end = first + parquet.metadata.row_group(number).num_rows
        if end <= wanted.start:
            skipped = end
        elif first < wanted.stop:
            groups.append(number)
        first = end
    skipped, left = wanted.start - skipped, len(wanted)
    held: list[pa.RecordBatch] = []
    for batch in parquet.iter_batches(batch_rows, row_groups=groups, columns=columns):
        kept = batch.slice(min(skipped, batch.num_rows), left)
        skipped, left = max(0, skipped - batch.num_rows), left - kept.num_rows
        while kept.num_rows:
            held.append(kept.slice(0, batch_rows - sum(item.num_rows for item in held)))
            kept = kept.slice(held[-1].num_rows)
            if left + kept.num_rows == 0 or sum(item.num_rows for item in held) == batch_rows:
                yield held[0] if len(held) == 1 else pa.Table.from_batches(held).combine_chunks().to_batches()[0]
                held = []
        if not left:
            return
