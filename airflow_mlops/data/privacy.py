"""What of a row may be kept: columns replaced by a keyed hash of their values, and columns left out.

The hash is HMAC-SHA256 (RFC 2104), with a key that nobody finds in a dataset: equal values have equal hashes, so rows can
still be counted, grouped and joined, and without the key no list of guesses tells which value a hash was.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SchemaError, SpecError

# 128 bits, if they are random.
_LEAST_CHARACTERS = 16


class Pseudonyms:
    """Hashes values with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, connection: ConnectionInfo) -> Pseudonyms:
        """With the key that is the password of a connection.

        :raises SpecError: it has none, or one that could be guessed
        """
        key = connection.secret or ""
        if len(key) < _LEAST_CHARACTERS:
            raise SpecError(
                f"Connection {connection.conn_id!r} has {'a password that is too short' if key else 'no password'} for the "
                f"key to hash columns with: set one of {_LEAST_CHARACTERS} characters or more, such as `openssl rand -hex 32` makes."
            )
        return cls(key.encode())

    @property
    def key_id(self) -> str:
        """Tells this key from others, and nothing else about it."""
        return self._hash("airflow-mlops key")[:16]

    def _hash(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), hashlib.sha256).hex()

    def hashed(self, column: pa.Array | pa.ChunkedArray) -> pa.Array:
        """The hash of each value, 64 hexadecimal digits; a missing value stays missing.

        Numbers, booleans, dates and times are hashed as their text, so that the width of their type does not matter.

        :raises SchemaError: the values are of a type that has no text
        """
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        values = _text(column).dictionary_encode()
        hashes = [None if text is None else self._hash(text) for text in values.dictionary.to_pylist()]
        return pa.array(hashes, pa.string()).take(values.indices)


def _text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    try:
        if pa.types.is_date(kind):
            column = column.cast(pa.timestamp("us"))
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        elif pa.types.is_floating(kind):
            # As Python writes them: the same for equal numbers, whether they are integers or not.
            whole = [
                None if v is None else int(v) if v.is_integer() else v for v in column.cast(pa.float64()).to_pylist()
            ]
            column = pa.array([None if v is None else str(v) for v in whole], pa.string())
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise SchemaError(
            f"A column of type {kind} cannot be hashed: drop it, or hash it before it gets here."
        ) from None


@dataclass(frozen=True)
class Privacy:
    """What becomes of the columns of a dataset that is about to be written.

    :param hashed: columns whose values are replaced by their hashes
    :param dropped: columns that are left out
    :param pseudonyms: what hashes them; needed where ``hashed`` names a column
    """

    hashed: Sequence[str] = ()
    dropped: Sequence[str] = ()
    pseudonyms: Pseudonyms | None = None

    def require(self, columns: Sequence[str], dataset: str) -> None:
        """:raises SchemaError: a column to hash or to drop is none of ``columns``: a slip must not publish another one"""
        if missing := [name for name in (*self.hashed, *self.dropped) if name not in columns]:
            raise SchemaError(
                f"Predictions of dataset {dataset} have no column {', '.join(map(repr, missing))} to hash or to drop: "
                f"they keep {', '.join(columns)}."
            )

    def applied(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """``batch`` as it may be kept."""
        kept = [name for name in batch.schema.names if name not in self.dropped]
        arrays = [self._column(name, batch.column(name)) for name in kept]
        fields = [pa.field(name, array.type) for name, array in zip(kept, arrays, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _column(self, name: str, values: pa.Array) -> pa.Array:
        if name not in self.hashed:
            return values
        assert self.pseudonyms is not None
        return self.pseudonyms.hashed(values)

    @property
    def details(self) -> dict[str, Any]:
        """For the manifest."""
        told: dict[str, Any] = {"hashed": list(self.hashed), "dropped": list(self.dropped)}
        if self.hashed and self.pseudonyms is not None:
            told["hash_key_id"] = self.pseudonyms.key_id
        return {name: value for name, value in told.items() if value}


KEEP_ALL = Privacy()


def not_kept(details: Mapping[str, Any]) -> dict[str, str]:
    """The columns that a dataset of predictions lacks as they were, and what became of each: ``hashed`` or ``dropped``."""
    return {name: fate for fate in ("hashed", "dropped") for name in details.get(fate, ())}
