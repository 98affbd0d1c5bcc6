"""Hash the values of rows. The hash does not depend on the bytes that a version of Arrow writes to files."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class ContentHash:
    """Computes the SHA-256 of rows. It does not depend on how the rows are divided into batches.

    The hash of a column combines three hashes: of one byte per value that is 0 for a null and otherwise 1, of the
    lengths of texts and lists, and of the values without nulls. The hash of a list or struct column also combines the
    hashes of the elements or fields. Values are hashed as Arrow stores them in memory, in little-endian order.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = [_Column(field.type) for field in schema]

    def update(self, data: pa.RecordBatch | pa.Table) -> None:
        """Add rows."""
        batches = data.to_batches() if isinstance(data, pa.Table) else [data]
        for batch in batches:
            for column, values in zip(self._columns, batch.columns, strict=True):
                column.update(values)

    def hexdigest(self) -> str:
        """Return the hash as 64 hexadecimal digits."""
        return hashlib.sha256(b"".join(column.digest() for column in self._columns)).hexdigest()


class _Column:
    """The hash of a column, or of a part of a nested column."""

    def __init__(self, kind: pa.DataType) -> None:
        self._valid, self._lengths, self._values = (hashlib.sha256() for _ in range(3))
        self._children = [_Column(child) for child in _children(kind)]

    def update(self, values: pa.Array) -> None:
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        self._valid.update(_bytes(values.is_valid().cast(pa.uint8())))
        kind = values.type
        if pa.types.is_struct(kind):
            for child, part in zip(self._children, values.flatten(), strict=True):
                child.update(part)
        elif _is_list(kind):
            present = values.drop_null()
            self._lengths.update(_bytes(present.value_lengths().cast(pa.int64())))
            self._children[0].update(present.flatten())
        elif _is_text(kind):
            present = values.drop_null().cast(pa.large_binary())
            self._lengths.update(_bytes(pc.binary_length(present)))
            self._values.update(_text_bytes(present))
        elif pa.types.is_boolean(kind):
            self._values.update(_bytes(values.drop_null().cast(pa.uint8())))
        elif not pa.types.is_null(kind):
            self._values.update(_bytes(values.drop_null()))

    def digest(self) -> bytes:
        own = [part.digest() for part in (self._valid, self._lengths, self._values)]
        return hashlib.sha256(b"".join([*own, *(child.digest() for child in self._children)])).digest()


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_struct(kind):
        return [kind.field(number).type for number in range(kind.num_fields)]
    return [kind.value_type] if _is_list(kind) else []


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _bytes(values: pa.Array) -> Any:
    """Return the bytes of an array that has no nulls, and whose values have a fixed width."""
    width = values.type.bit_width // 8
    buffer = values.buffers()[1]
    return memoryview(buffer)[values.offset * width : (values.offset + len(values)) * width] if len(values) else b""


def _text_bytes(values: pa.Array) -> Any:
    """Return the bytes of all values of a large binary array without nulls."""
    if not len(values):
        return b""
    _, offsets, data = values.buffers()
    places = memoryview(offsets)[values.offset * 8 : (values.offset + len(values) + 1) * 8].cast("q")
    return memoryview(data or b"")[places[0] : places[-1]]
