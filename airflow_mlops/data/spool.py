"""Storage of large Arrow tables in a temporary file instead of memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa


@contextmanager
def spooled(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Write tables with equal schemas to a temporary file, and map the file into memory as one table.

    The operating system loads a page of the file when the page is used, and can release its memory afterwards. The
    table is valid only inside the block.

    :param tables: at least one table
    """
    iterator = iter(tables)
    first = next(iterator)
    with tempfile.TemporaryDirectory(prefix="mlops-spool-") as folder:
        path = f"{folder}/table.arrow"
        with pa.ipc.new_file(path, first.schema) as writer:
            writer.write_table(first)
            for table in iterator:
                writer.write_table(table)
        with pa.memory_map(path) as mapped:
            yield pa.ipc.open_file(mapped).read_all()
