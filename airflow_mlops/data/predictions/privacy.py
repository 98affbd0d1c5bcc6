"""Pseudonymisation of predictions: the values of columns are replaced by keyed hashes, and other columns are dropped.

The hash is HMAC-SHA256 (RFC 2104) with a secret key, the password of an Airflow connection. Equal values have equal
hashes, so rows can still be counted, grouped and joined. The secret key is not stored with the data. Without the key,
nobody can find a value by hashing candidates and comparing the hashes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_mlops.core.connections import ConnectionInfo, ConnectionResolver
from airflow_mlops.core.errors import SchemaError, SpecError, named
from airflow_mlops.data.moments import as_utc, is_time
from airflow_mlops.data.types import decimal_text

# 16 random bytes are 128 bits.
_MIN_KEY_LENGTH = 16


class Pseudonymizer:
    """Computes keyed hashes of columns.

    :param key: the secret key
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_connection(cls, connection: ConnectionInfo) -> Pseudonymizer:
        """Create a pseudonymizer whose secret key is the password of a connection.

        :raises SpecError: the connection has no password, or its password has fewer than 16 characters
        """
        key = connection.secret or ""
        if len(key) < _MIN_KEY_LENGTH:
            raise SpecError(
                f"Connection {connection.conn_id!r} has {'a password that is too short' if key else 'no password'}, "
                f"but `hash_columns` uses the password as its secret key. Set a password of at least {_MIN_KEY_LENGTH} "
                "characters, for example the output of `openssl rand -hex 32`."
            )
        return cls(key.encode())

    @property
    def key_id(self) -> str:
        """Return an identifier of the secret key, which does not reveal the key."""
        return self._hash("airflow-mlops key")[:16]

    def _hash(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), hashlib.sha256).hex()

    def hash_column(self, column: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Hash each value of a column to 64 hexadecimal digits. Nulls stay null, and NaN becomes null.

        Numbers, booleans, dates and times are converted to text first, so equal values of an int32 and an int64 column
        have the same hash.

        :raises SchemaError: the column has a type that cannot be converted to text
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
        if is_time(kind):
            column = as_utc(column, "A column that is hashed").cast(pa.int64())
        elif pa.types.is_decimal(kind):
            column = decimal_text(column)
        elif pa.types.is_floating(kind):
            # Equal integers and floats must have the same text, so 1.0 is written as 1. NaN is a missing value.
            found = column.cast(pa.float64()).to_pylist()
            whole = [None if v is None or v != v else int(v) if v.is_integer() else v for v in found]
            column = pa.array([None if v is None else str(v) for v in whole], pa.string())
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise SchemaError(
            f"A column of type {kind} cannot be hashed. Drop it with `drop_columns`, or hash it in the source."
        ) from None


@dataclass(frozen=True)
class Privacy:
    """The columns that are hashed or dropped before a dataset of predictions is written.

    :param hashed: columns whose values are replaced by hashes
    :param dropped: columns that are not written
    :param pseudonymizer: computes the hashes; required if ``hashed`` is not empty
    """

    hashed: Sequence[str] = ()
    dropped: Sequence[str] = ()
    pseudonymizer: Pseudonymizer | None = None

    @classmethod
    def of(
        cls, hashed: Sequence[str], dropped: Sequence[str], conn_id: str | None, connection: ConnectionResolver
    ) -> Privacy:
        """Create the privacy options from the parameters of a step.

        :param hashed: columns whose values are replaced by hashes
        :param dropped: columns that are not written
        :param conn_id: id of the connection with the secret key; required if ``hashed`` is not empty
        :param connection: function that returns the connection with an id
        :raises ConnectionNotFoundError: there is no such connection
        :raises SpecError: the connection has no password, or its password has fewer than 16 characters
        """
        if not hashed:
            return cls((), dropped)
        assert conn_id is not None  # check_private
        return cls(hashed, dropped, Pseudonymizer.from_connection(connection(conn_id)))

    def require(self, columns: Sequence[str], dataset: str) -> None:
        """Check that all columns to hash or drop exist. With a misspelled name, a column would stay readable.

        :param columns: the columns of the predictions
        :param dataset: name of the scored dataset, for the error message
        :raises SchemaError: a column is absent
        """
        require_private(self.hashed, self.dropped, columns, f"The predictions of dataset {dataset!r} have")

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return ``batch`` with hashed columns and without dropped columns."""
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
        """Return the hashed columns, dropped columns and identifier of the secret key, for the manifest."""
        details: dict[str, Any] = {"hashed": list(self.hashed), "dropped": list(self.dropped)}
        if self.hashed and self.pseudonymizer is not None:
            details["hash_key_id"] = self.pseudonymizer.key_id
        return {name: value for name, value in details.items() if value}


KEEP_ALL = Privacy()


def require_private(hashed: Sequence[str], dropped: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Check that all columns to hash or drop exist. With a misspelled name, a column would stay readable.

    :param hashed: columns whose values are replaced by hashes
    :param dropped: columns that are not written
    :param columns: the columns of the predictions
    :param where: the start of the error message, such as ``The predictions have``
    :raises SchemaError: a column is absent
    """
    if missing := [name for name in (*hashed, *dropped) if name not in columns]:
        raise SchemaError(
            f"{where} no {named('column', missing)}. Correct `hash_columns` and `drop_columns`. The columns "
            f"are: {', '.join(columns)}."
        )


def hashed_or_dropped(details: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the hashed and dropped columns of a dataset of predictions.

    :param details: ``details`` of the dataset's manifest
    :return: for each of these columns, ``hashed`` or ``dropped``
    """
    return {name: reason for reason in ("hashed", "dropped") for name in details.get(reason, ())}
