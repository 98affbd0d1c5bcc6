"""Pseudonymisation of predictions: columns whose values are replaced by keyed hashes, and columns that are dropped.

The hash is HMAC-SHA256 (RFC 2104). Equal values have equal hashes, so rows can still be counted, grouped and joined. The
key is not stored with the data; without it, a hash cannot be reversed by hashing guesses.
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

# 16 random bytes are 128 bits.
_MIN_KEY_LENGTH = 16


class Pseudonymizer:
    """Hashes values with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_connection(cls, connection: ConnectionInfo) -> Pseudonymizer:
        """Use the password of a connection as the key.

        :raises SpecError: there is no password, or it is too short
        """
        key = connection.secret or ""
        if len(key) < _MIN_KEY_LENGTH:
            raise SpecError(
                f"Connection {connection.conn_id!r} has {'a password that is too short' if key else 'no password'}, but "
                f"hash_columns uses the password as its key. Set one of at least {_MIN_KEY_LENGTH} characters, for example "
                "the output of `openssl rand -hex 32`."
            )
        return cls(key.encode())

    @property
    def key_id(self) -> str:
        """Identifies the key without revealing it."""
        return self._hash("airflow-mlops key")[:16]

    def _hash(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), hashlib.sha256).hex()

    def hash_column(self, column: pa.Array | pa.ChunkedArray) -> pa.Array:
        """The hash of each value as 64 hexadecimal digits; missing values stay missing.

        Numbers, booleans, dates and times are converted to text first, so int32 and int64 columns have the same hashes.

        :raises SchemaError: the type cannot be converted to text
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
            # Equal integers and floats must have the same text: 1.0 is written as 1.
            whole = [
                None if v is None else int(v) if v.is_integer() else v for v in column.cast(pa.float64()).to_pylist()
            ]
            column = pa.array([None if v is None else str(v) for v in whole], pa.string())
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise SchemaError(f"A column of type {kind} cannot be hashed. Drop it, or hash it in the source.") from None


@dataclass(frozen=True)
class Privacy:
    """Which columns of a dataset are hashed or dropped before it is written.

    :param hashed: columns whose values are replaced by hashes
    :param dropped: columns that are not written
    :param pseudonymizer: computes the hashes; required if ``hashed`` is not empty
    """

    hashed: Sequence[str] = ()
    dropped: Sequence[str] = ()
    pseudonymizer: Pseudonymizer | None = None

    def require(self, columns: Sequence[str], dataset: str) -> None:
        """Check that all columns to hash or drop are in ``columns``, since a misspelled name would leave a value readable.

        :raises SchemaError: a column does not exist
        """
        if missing := [name for name in (*self.hashed, *self.dropped) if name not in columns]:
            raise SchemaError(
                f"Predictions of dataset {dataset} have no column {', '.join(map(repr, missing))} to hash or drop. "
                f"Their columns are: {', '.join(columns)}."
            )

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """``batch`` with columns hashed and dropped."""
        kept = [name for name in batch.schema.names if name not in self.dropped]
        arrays = [self._column(name, batch.column(name)) for name in kept]
        fields = [pa.field(name, array.type) for name, array in zip(kept, arrays, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _column(self, name: str, values: pa.Array) -> pa.Array:
        if name not in self.hashed:
            return values
        assert self.pseudonymizer is not None
        return self.pseudonymizer.hash_column(values)

    @property
    def details(self) -> dict[str, Any]:
        """What the manifest records: the hashed columns, the dropped columns and the id of the key."""
        details: dict[str, Any] = {"hashed": list(self.hashed), "dropped": list(self.dropped)}
        if self.hashed and self.pseudonymizer is not None:
            details["hash_key_id"] = self.pseudonymizer.key_id
        return {name: value for name, value in details.items() if value}


KEEP_ALL = Privacy()


def hashed_or_dropped(details: Mapping[str, Any]) -> dict[str, str]:
    """The columns whose values a dataset of predictions does not contain, each with ``hashed`` or ``dropped``.

    :param details: the details in the dataset's manifest
    """
    return {name: reason for reason in ("hashed", "dropped") for name in details.get(reason, ())}
