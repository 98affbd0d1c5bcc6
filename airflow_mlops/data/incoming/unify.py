"""Convert all batches of a source to the same column types.

The batches of a source can have different types. For example, a column is null in one file and text in another file.
The scale of decimals and the types of CSV columns are known only after the last row. Until then, the batches are stored
in temporary files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

import pyarrow as pa

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.incoming.batches import merged
from airflow_mlops.data.incoming.inference import TextColumn, is_untyped
from airflow_mlops.data.incoming.types import ColumnTypes
from airflow_mlops.data.types import as_column, common_type, stored_type

# Batches are merged until they have this number of rows or bytes.
_ROWS, _BYTES = 4_096, 32 << 20


@contextmanager
def unified(
    batches: Iterable[pa.RecordBatch],
    types: ColumnTypes,
    is_settled: Callable[[], bool],
    note: Callable[[str], None],
) -> Iterator[Iterator[pa.RecordBatch]]:
    """Convert batches to a common schema.

    :param batches: batches with the same columns in the same order
    :param types: column types that are known before the first batch
    :param is_settled: function that is called after the first batch, and returns whether all batches have the types of
        the first batch. If so, no temporary file is needed
    :param note: function that receives a sentence for each column of numbers that is kept as text
    :return: the batches, all with the same schema; valid only inside the ``with`` block
    :raises SchemaError: a column contains values that have no common type
    :raises SpillError: the disk is full
    """
    iterator = iter(batches)
    columns = _Columns(types)
    first = next(iterator, None)
    if first is None:
        yield iter(())
    elif is_settled() and not any(map(is_untyped, first.schema)):
        yield _settled(first, iterator, columns)
    else:
        with temporary_folder("ingest") as folder, closing(_Spool(folder)) as spool:
            for batch in merged(chain([first], iterator), _ROWS, _BYTES):
                spool.write(columns.widen(batch))
            spool.finish()
            columns.infer(note)
            yield (columns.convert(batch) for batch in spool.batches())


def _settled(first: pa.RecordBatch, others: Iterator[pa.RecordBatch], columns: _Columns) -> Iterator[pa.RecordBatch]:
    columns.widen(first)
    yield columns.convert(first)
    for batch in others:
        columns.require(batch)
        yield columns.convert(batch)


class _Columns:
    """The type of each column: the common type of all batches so far.

    :param types: column types that are known before the first batch
    """

    def __init__(self, types: ColumnTypes) -> None:
        self._types = types
        self._kinds: dict[str, pa.DataType] = {}
        self._text: dict[str, TextColumn] = {}

    def widen(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Widen the column types to include the types of a batch, and return the batch converted to them.

        Text columns whose types are inferred stay text.

        :raises SchemaError: a column of the batch has no common type with the earlier batches
        """
        arrays, fields = [], []
        for field, array in zip(batch.schema, batch.columns, strict=True):
            if is_untyped(field):
                self._text_column(field).update(array)
                kind = field.type
            else:
                kind = self._common(field)
            self._kinds[field.name] = kind
            arrays.append(array if array.type.equals(kind) else self._column(field.name, array, kind))
            fields.append(pa.field(field.name, kind))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _text_column(self, field: pa.Field) -> TextColumn:
        if field.name not in self._text:
            self._text[field.name] = TextColumn(field)
        return self._text[field.name]

    def require(self, batch: pa.RecordBatch) -> None:
        """Check that the values of a batch can be converted to the column types so far.

        :raises SchemaError: a column has a type that cannot be converted
        """
        for field in batch.schema:
            if not field.type.equals(kind := self._kinds[field.name]) and not self._common(field).equals(kind):
                raise self._types.mismatch(field.name, kind, f"{field.type} values")

    def _common(self, field: pa.Field) -> pa.DataType:
        declared = self._types.declared.get(field.name)
        if declared is not None:
            return declared
        before = self._kinds.get(field.name)
        if before is None:
            before = self._types.earlier.get(field.name) if pa.types.is_null(field.type) else field.type
            return before if before is not None else field.type
        found = common_type(before, field.type)
        if found is None:
            raise self._types.mismatch(field.name, before, f"{field.type} values")
        return found

    def infer(self, note: Callable[[str], None]) -> None:
        """Set the types of text columns from all of their values, after the last batch.

        :param note: function that receives a sentence for each column of numbers that is kept as text
        :raises SchemaError: a column cannot be read as the type that it has in the neighbouring window
        """
        for name, text in self._text.items():
            earlier = self._types.earlier.get(name)
            if earlier is not None and text.fits(earlier):
                self._kinds[name] = earlier
                continue
            found = text.result()
            if earlier is not None and (value := text.misfit(earlier)) is not None and not pa.types.is_decimal(earlier):
                raise self._types.mismatch(name, earlier, repr(value))
            self._kinds[name] = found
            if text.lost is not None:
                note(
                    f"Column {name!r} contains numbers, but is kept as text, because {text.lost!r} would change if "
                    f"it was read as a number. Declare types={{{name!r}: 'float64'}} to read the column as numbers."
                )

    def convert(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch converted to the final column types."""
        arrays = [
            self._text[name].read(array, self._kinds[name], f"Column {name!r}")
            if name in self._text
            else self._column(name, array, self._kinds[name])
            for name, array in zip(batch.schema.names, batch.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(list(self._kinds.items())))

    def _column(self, name: str, array: pa.Array, kind: pa.DataType) -> pa.Array:
        try:
            return as_column(array, kind, f"Column {name!r}")
        except SchemaError as error:
            raise SchemaError(f"{error} Declare the type of the column with types={{{name!r}: ...}}.") from None


class _Spool:
    """Batches in temporary files in ``folder``. A new file begins when the schema of the batches changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._schema: pa.Schema | None = None
        self._file: pa.OSFile | None = None
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None or not batch.schema.equals(self._schema):
            self.finish()
            path = self._folder / f"{len(self._files)}.arrow"
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._file = pa.OSFile(str(path), "wb")
            self._writer = pa.ipc.new_stream(self._file, batch.schema, options=options)
            self._files.append(path)
            self._schema = batch.schema
        self._writer.write_batch(batch)

    def finish(self) -> None:
        """Complete the file that is being written."""
        if self._writer is not None:
            self._writer.close()
        self.close()

    def close(self) -> None:
        """Close the file that is being written. It is incomplete if the disk is full."""
        if self._file is not None:
            self._file.close()
        self._file = self._writer = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        for path in self._files:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                yield from reader
            path.unlink()


def known_types(columns: Iterable[tuple[str, pa.DataType | None]]) -> dict[str, pa.DataType]:
    """Return the types in which a dataset stores the columns of a neighbouring window, by column name.

    Columns without a value and columns of unknown types are left out.

    :param columns: name and type of each column; the type is ``None`` if it is unknown
    """
    found = {name: stored_type(kind) for name, kind in columns if kind is not None}
    return {name: kind for name, kind in found.items() if kind is not None and not pa.types.is_null(kind)}
