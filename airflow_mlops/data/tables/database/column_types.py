"""The database types of the column types of datasets, by kind of database.

===================  ======================  =====================  ==========
stored as            PostgreSQL              MySQL and MariaDB      SQLite
===================  ======================  =====================  ==========
``bool``             ``boolean``             ``tinyint(1)``         ``BOOLEAN``
``int64``            ``bigint``              ``bigint``             ``BIGINT``
``uint64``           ``numeric(20,0)``       ``decimal(20,0)``      ``TEXT``
``double``           ``double precision``    ``double``             ``DOUBLE``
``decimal128(p,s)``  ``numeric(p,s)``        ``decimal(p,s)``       ``TEXT``
``string``           ``text``                ``longtext``           ``TEXT``
``binary``           ``bytea``               ``longblob``           ``BLOB``
``date32``           ``date``                ``date``               ``DATE``
``timestamp``        ``timestamptz``         ``datetime(6)``, UTC   ``DATETIME``, UTC
===================  ======================  =====================  ==========

SQLite has no exact decimals, so it stores ``uint64`` and ``decimal128`` as text. Lists, structs and columns of nulls
have no database type.
"""

from __future__ import annotations

import re

import pyarrow as pa

from airflow_mlops.data.tables.kinds import holds, kind_of
from airflow_mlops.data.types import DECIMAL_DIGITS, decimal_text

_MAX_SCALE = 30
# By kind of column: the type of a new column, and a pattern of the types that hold every value of the kind.
_TYPES = {
    "postgresql": {
        "bool": ("boolean", "boolean"),
        "int64": ("bigint", "bigint"),
        "double": ("double precision", "double precision"),
        "decimal": ("numeric({p},{s})", r"numeric(\((?P<p>\d+),(?P<s>-?\d+)\))?"),
        "string": ("text", r"text|character varying(\(\d+\))?"),
        "binary": ("bytea", "bytea"),
        "date": ("date", "date"),
        "timestamp": ("timestamp with time zone", "timestamp with time zone"),
    },
    "mysql": {
        "bool": ("tinyint(1)", r"tinyint(\(\d+\))?"),
        "int64": ("bigint", r"bigint(\(\d+\))?"),
        "double": ("double", "double"),
        "decimal": ("decimal({p},{s})", r"decimal\((?P<p>\d+),(?P<s>\d+)\)"),
        "string": ("longtext", r"varchar\(\d+\)|(medium|long)?text"),
        "binary": ("longblob", r"varbinary\(\d+\)|(medium|long)?blob"),
        "date": ("date", "date"),
        "timestamp": ("datetime(6)", r"datetime\(6\)"),
    },
    "sqlite": {
        "bool": ("BOOLEAN", "bool(ean)?|int(eger)?"),
        "int64": ("BIGINT", "bigint|int(eger)?"),
        "double": ("DOUBLE", "double( precision)?|real|float"),
        "decimal": ("TEXT", r"text|varchar(\(\d+\))?"),
        "string": ("TEXT", r"text|varchar(\(\d+\))?"),
        "binary": ("BLOB", "blob"),
        "date": ("DATE", "date|text"),
        "timestamp": ("DATETIME", "datetime|timestamp|text"),
    },
}
DATABASES = tuple(_TYPES)
"""The kinds of databases that are supported. ``mysql`` includes MariaDB."""


def writable(values: pa.Array, database: str) -> pa.Array:
    """Convert a column of a dataset to the Arrow type whose values the drivers write without loss.

    :param values: the column
    :param database: kind of the database, one of :data:`DATABASES`
    """
    if pa.types.is_uint64(values.type):
        values = values.cast(pa.decimal128(20, 0))
    return decimal_text(values) if pa.types.is_decimal(values.type) and database == "sqlite" else values


def writable_type(kind: pa.DataType, database: str) -> pa.DataType:
    """Return the type of the columns that :func:`writable` returns for columns of the type ``kind``."""
    return writable(pa.array([], kind), database).type


def new_type(kind: pa.DataType, database: str) -> str | None:
    """Return the type of a new database column for a column of the type ``kind``; ``None`` if there is no such type."""
    name = _kind(kind)
    if name is None:
        return None
    precision, scale = _digits(kind)
    return _TYPES[database][name][0].format(p=precision, s=scale)


def fits(kind: pa.DataType, found: str, database: str) -> bool:
    """Return whether an existing database column can store every value of an Arrow type unchanged.

    Text columns of limited length fit, see :func:`longest_text`.

    :param kind: the Arrow type
    :param found: the type of the database column
    :param database: kind of the database, one of :data:`DATABASES`
    """
    name = _kind(kind)
    if name is None:
        return False
    matched = re.fullmatch(_TYPES[database][name][1], found.lower())
    if matched is None or matched.groupdict().get("p") is None:
        return matched is not None
    return holds((int(matched["p"]), int(matched["s"])), _digits(kind))


def longest_text(found: str) -> int | None:
    """Return the number of characters to which a database column limits text; ``None`` if there is no limit.

    Databases refuse longer text, but PostgreSQL and MySQL cut off spaces at its end without an error.

    :param found: the type of the database column
    """
    matched = re.fullmatch(r"(?:character varying|varchar)\((\d+)\)", found.lower())
    return int(matched[1]) if matched else None


def _kind(kind: pa.DataType) -> str | None:
    name = kind_of(kind)
    if name == "decimal":
        # In MySQL, a decimal has at most 30 digits after the decimal point.
        return name if kind.scale <= _MAX_SCALE else None
    return "decimal" if name == "uint64" else name


def _digits(kind: pa.DataType) -> tuple[int, int]:
    if pa.types.is_decimal(kind):
        return min(kind.precision, DECIMAL_DIGITS), kind.scale
    return 20, 0
