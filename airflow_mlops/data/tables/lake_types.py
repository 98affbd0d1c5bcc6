"""The types of Delta and Iceberg tables for the column types of datasets.

===================  =================  =================
stored as            Delta              Iceberg
===================  =================  =================
``bool``             ``boolean``        ``boolean``
``int64``            ``long``           ``long``
``uint64``           ``decimal(20,0)``  ``decimal(20,0)``
``double``           ``double``         ``double``
``decimal128(p,s)``  ``decimal(p,s)``   ``decimal(p,s)``
``string``           ``string``         ``string``
``binary``           ``binary``         ``binary``
``date32``           ``date``           ``date``
``timestamp``        ``timestamp``      ``timestamptz``
===================  =================  =================

Other types are refused, as in tables of databases.
"""

from __future__ import annotations

import re

import pyarrow as pa

from airflow_mlops.core.errors import TableError
from airflow_mlops.data.tables.kinds import holds, kind_of

DECIMAL = re.compile(r"decimal\((?P<p>\d+), ?(?P<s>\d+)\)")
"""The type of decimals, with its precision ``p`` and its scale ``s``."""

_TYPES = {
    "bool": "boolean",
    "int64": "long",
    "uint64": "decimal(20,0)",
    "double": "double",
    "string": "string",
    "binary": "binary",
    "date": "date",
}


def new_type(kind: pa.DataType, timestamp: str = "timestamp") -> str | None:
    """Return the type of a new column for a column of the type ``kind``; ``None`` if there is no such type.

    :param kind: the Arrow type
    :param timestamp: name of the type of points in time
    """
    name = kind_of(kind)
    if name == "decimal":
        return f"decimal({kind.precision},{kind.scale})"
    if name == "timestamp":
        return timestamp if kind.unit == "us" and kind.tz == "UTC" else None
    return None if name is None else _TYPES[name]


def fits(kind: pa.DataType, found: str, timestamp: str = "timestamp") -> bool:
    """Return whether an existing column can store every value of an Arrow type unchanged.

    :param kind: the Arrow type
    :param found: the type of the column
    :param timestamp: name of the type of points in time
    """
    wanted = new_type(kind, timestamp)
    if wanted is None or wanted == found:
        return wanted is not None
    new, old = DECIMAL.fullmatch(wanted), DECIMAL.fullmatch(found)
    if new is None or old is None:
        return False
    return holds((int(old["p"]), int(old["s"])), (int(new["p"]), int(new["s"])))


def writable(values: pa.Array) -> pa.Array:
    """Convert a column of a dataset to the Arrow type that is written. Delta and Iceberg have no unsigned integers."""
    return values.cast(pa.decimal128(20, 0)) if pa.types.is_uint64(values.type) else values


def writable_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the columns that :func:`writable` returns for columns of the type ``kind``."""
    return pa.decimal128(20, 0) if pa.types.is_uint64(kind) else kind


def check_columns(schema: pa.Schema, where: str) -> None:
    """Check that a table can have the columns of predictions.

    :param schema: the columns
    :param where: description of the table in error messages
    :raises TableError: two names differ only by letter case, which Spark, Trino and other engines ignore, or a column has a
        type that is not written to tables
    """
    seen: dict[str, str] = {}
    for field in schema:
        name = field.name
        if (other := seen.get(name.casefold())) is not None:
            raise TableError(
                f"{where} cannot have both the column {other!r} and the column {name!r}, because the names differ "
                "only by letter case. Rename one of them where the data is ingested."
            )
        seen[name.casefold()] = name
        if new_type(field.type) is None:
            raise TableError(
                f"{where} cannot hold column {name!r}, because predictions with a column of the type {field.type} are not "
                "written to tables. Choose another key, or convert the column where the data is ingested."
            )
