"""A Parquet file of a dataset that is being written."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.data.datasets.content import ContentHash
from airflow_mlops.data.datasets.manifest import FileEntry
from airflow_mlops.data.prefetch import alongside
from airflow_mlops.data.store import ArtifactStore

ROW_GROUP_ROWS = 131_072


class DataFile:
    """Writes a Parquet file, and computes the hashes of its bytes and of its values.

    :param store: the artifact store
    :param key: key of the file
    :param part: split part of the rows
    :param schema: columns of the file
    :param options: arguments for ``pyarrow.parquet.ParquetWriter``
    :ivar rows: number of rows that were written
    """

    def __init__(self, store: ArtifactStore, key: str, part: str, schema: pa.Schema, options: dict[str, Any]) -> None:
        self.key = key
        self._part, self.rows = part, 0
        self._content = ContentHash(schema)
        self._files = ExitStack()
        self._file = self._files.enter_context(store.create(key))
        try:
            self._writer = pq.ParquetWriter(self._file, schema, **options)
        except BaseException:
            # The store may be too full for the first bytes.
            self._files.__exit__(*sys.exc_info())
            raise

    def write(self, data: pa.RecordBatch | pa.Table) -> None:
        """Append rows to the file."""
        with alongside(partial(self._content.update, data)) as hashed:
            if isinstance(data, pa.Table):
                self._writer.write_table(data, row_group_size=ROW_GROUP_ROWS)
            else:
                self._writer.write_batch(data, row_group_size=ROW_GROUP_ROWS)
            hashed()
        self.rows += data.num_rows

    def close(self) -> FileEntry:
        """Complete the file."""
        self._writer.close()
        self._files.close()
        return FileEntry(
            path=self.key,
            part=self._part,
            rows=self.rows,
            bytes=self._file.bytes,
            sha256=self._file.sha256,
            content=self._content.hexdigest(),
        )

    def stop(self) -> None:
        """Write nothing more, so that a slow store does not delay the end of a write in another thread."""
        self._file.discard()

    def discard(self) -> None:
        """Delete the incomplete file."""
        try:
            self._writer.close()
        except Exception:  # noqa: BLE001, S110 - the file is discarded, so its footer does not matter
            pass
        finally:
            # On an error the store deletes the temporary file.
            self._files.__exit__(RuntimeError, RuntimeError("abandoned"), None)
