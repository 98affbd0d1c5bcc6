"""Store rows in temporary files, so that only a part of the rows is in memory at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from airflow_mlops.core.temporary import temporary_folder

BATCH_ROWS = 65_536
_PLAIN_BYTES = 512 << 20


@contextmanager
def spooled(rows: Iterable[pa.Table | pa.RecordBatch], schema: pa.Schema | None = None) -> Iterator[Rows]:
    """Write rows to temporary files in ``TMPDIR``. The files are deleted at the end of the block.

    Dictionaries are stored as their values, also inside of lists and structs.

    :param rows: at least one table or record batch, unless ``schema`` is set
    :param schema: columns of the rows; by default those of the first table or record batch
    :raises SpillError: the disk is full
    """
    iterator = iter(rows)
    if schema is None:
        first = next(iterator)
        schema, iterator = first.schema, chain([first], iterator)
    schema = as_values(schema)
    with temporary_folder("spool") as folder:
        file = _File(folder, schema)
        file.write(item.cast(schema) for item in iterator)
        yield Rows({name: _Column(file, name, schema.field(name).type) for name in schema.names}, file.num_rows)


def as_values(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the type of the values in place of each dictionary type, also inside of lists and structs."""
    return pa.schema([_with_values(field) for field in schema])


def _with_values(field: pa.Field) -> pa.Field:
    return field.with_type(_of_values(field.type))


def _of_values(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _of_values(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([_with_values(kind.field(number)) for number in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(_with_values(kind.key_field), _with_values(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_with_values(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_with_values(kind.value_field))
    return pa.list_(_with_values(kind.value_field)) if pa.types.is_list(kind) else kind


class _File:
    """Batches of rows in Arrow files. All batches have :data:`BATCH_ROWS` rows, except for the last one, which may have fewer.

    The first batches, of about :data:`_PLAIN_BYTES` bytes, are not compressed, because compression takes more time than
    writing. All other batches are in one compressed file, to save disk space.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, schema
        self._compressed = folder / "compressed.arrow"
        # Each batch that is not compressed has its own file.
        self._plain_batches = 0
        self.num_rows = 0

    def write(self, rows: Iterable[pa.Table | pa.RecordBatch]) -> None:
        batches = _of_equal_size(self._schema, rows)
        for batch in _up_to(_PLAIN_BYTES, batches):
            with (
                pa.OSFile(self._plain(self._plain_batches), "wb") as file,
                pa.ipc.new_stream(file, self._schema) as writer,
            ):
                writer.write_batch(batch)
            self._plain_batches += 1
            self.num_rows += batch.num_rows
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            pa.OSFile(str(self._compressed), "wb") as file,
            pa.ipc.new_file(file, self._schema, options=options) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
                self.num_rows += batch.num_rows

    def batches(self, names: Sequence[str], first: int, end: int) -> Iterator[pa.RecordBatch]:
        """Read columns of the batches from number ``first`` to before number ``end``."""
        plain = self._plain_batches
        for number in range(first, min(end, plain)):
            # The file is mapped into memory until the batch is deleted. Only the pages that are used are read, and they are
            # not copied. Mappings of one large file would together exceed a limit of virtual memory (ulimit -v).
            with pa.memory_map(self._plain(number)) as mapped, pa.ipc.open_stream(mapped) as reader:
                batch = reader.read_next_batch()
            yield batch.select(names)
        if end > plain:
            # Only the bytes of these columns are read.
            options = pa.ipc.IpcReadOptions(included_fields=[self._schema.get_field_index(name) for name in names])
            with pa.OSFile(str(self._compressed)) as file, pa.ipc.open_file(file, options=options) as reader:
                for number in range(max(first - plain, 0), end - plain):
                    yield reader.get_batch(number)

    def _plain(self, number: int) -> str:
        """Return the path of the file with a batch that is not compressed."""
        return str(self._folder / f"{number}.arrow")


def _up_to(most_bytes: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches until they have ``most_bytes`` bytes or more in total."""
    total = 0
    while total < most_bytes and (batch := next(batches, None)) is not None:
        total += batch.nbytes
        yield batch


def _of_equal_size(schema: pa.Schema, rows: Iterable[pa.Table | pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    held: list[pa.RecordBatch] = []
    count = 0
    for item in rows:
        for batch in item.to_batches() if isinstance(item, pa.Table) else [item]:
            held.append(batch)
            count += batch.num_rows
            if count < BATCH_ROWS:
                continue
            table = pa.Table.from_batches(held, schema)
            whole = count - count % BATCH_ROWS
            for start in range(0, whole, BATCH_ROWS):
                yield _one_batch(table.slice(start, BATCH_ROWS))
            count -= whole
            held = table.slice(whole).to_batches()
    if count:
        yield _one_batch(pa.Table.from_batches(held, schema))


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


Convert: TypeAlias = "Callable[[Any], Any]"


@dataclass(frozen=True)
class _Column:
    """A column of a file.

    :param file: the file
    :param name: name of the column in the file
    :param kind: type of the values that are read
    :param convert: function that converts the stored values of some rows to ``kind``
    """

    file: _File
    name: str
    kind: pa.DataType
    convert: Convert | None = None


class Rows:
    """Columns of temporary files with equal numbers of rows.

    They are read like the columns of a :class:`pyarrow.Table`.

    :param columns: the columns by name
    :param num_rows: number of rows
    """

    def __init__(self, columns: Mapping[str, _Column], num_rows: int) -> None:
        self._columns = dict(columns)
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    @cached_property
    def schema(self) -> pa.Schema:
        """Return names and types of the columns."""
        return pa.schema([(name, column.kind) for name, column in self._columns.items()])

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._columns)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """Read one column into memory."""
        return self.select([name]).slice()[name]

    def select(self, names: Iterable[str]) -> Rows:
        """Return rows with some of the columns, in the order of ``names``."""
        return Rows({name: self._columns[name] for name in names}, self.num_rows)

    def rename_columns(self, names: Sequence[str]) -> Rows:
        """Return rows with new names of all columns."""
        return Rows(dict(zip(names, self._columns.values(), strict=True)), self.num_rows)

    def beside(self, other: Rows) -> Rows:
        """Return rows with the columns of these rows, followed by the columns of ``other``."""
        return Rows({**self._columns, **other._columns}, self.num_rows)

    def converted(self, name: str, kind: pa.DataType, convert: Convert) -> Rows:
        """Return rows in which the values of a column are converted when they are read.

        :param name: name of the column
        :param kind: type of the converted values
        :param convert: function that converts the values of some rows
        """
        return Rows({**self._columns, name: replace(self._columns[name], kind=kind, convert=convert)}, self.num_rows)

    def slice(self, offset: int = 0, length: int | None = None) -> pa.Table:
        """Read ``length`` consecutive rows from position ``offset`` on into memory; by default all rows."""
        end = self.num_rows if length is None else min(offset + length, self.num_rows)
        first, last = offset // BATCH_ROWS, -(-end // BATCH_ROWS)
        table = pa.Table.from_batches(self._batches(first, last), self.schema)
        return table.slice(offset - first * BATCH_ROWS, max(end - offset, 0))

    def tables(self, offset: int, length: int) -> Iterator[pa.Table]:
        """Read ``length`` consecutive rows from position ``offset`` on, at most :data:`BATCH_ROWS` rows at once."""
        for start in range(offset, offset + length, BATCH_ROWS):
            yield self.slice(start, min(BATCH_ROWS, offset + length - start))

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """Read all rows in batches of :data:`BATCH_ROWS` rows. The last batch may be smaller."""
        return self._batches(0, -(-self.num_rows // BATCH_ROWS))

    def take(self, indices: pa.Array) -> pa.Table:
        """Read the rows with these numbers, in the order of ``indices``."""
        import numpy as np

        numbers = indices.to_numpy()
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], np.arange(0, self.num_rows + BATCH_ROWS, BATCH_ROWS))
        found = [self.schema.empty_table()]
        for batch, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
            if first < last:
                table = pa.Table.from_batches(self._batches(batch, batch + 1), self.schema)
                found.append(table.take(pa.array(numbers[order[first:last]] - batch * BATCH_ROWS)))
        return pa.concat_tables(found).take(pa.array(np.argsort(order, kind="stable")))

    def _batches(self, first: int, end: int) -> Iterator[pa.RecordBatch]:
        """Read the batches from number ``first`` to before number ``end``."""
        names: dict[_File, list[str]] = {}
        for column in self._columns.values():
            names.setdefault(column.file, []).append(column.name)
        readers = {file: file.batches(list(dict.fromkeys(some)), first, end) for file, some in names.items()}
        for _ in range(first, end):
            parts = {file: next(batches) for file, batches in readers.items()}
            arrays = []
            for column in self._columns.values():
                values = parts[column.file].column(column.name)
                arrays.append(values if column.convert is None else column.convert(values))
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)
