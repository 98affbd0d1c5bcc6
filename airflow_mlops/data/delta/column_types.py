"""The Delta types of the column types of datasets.

===================  =================
stored as            Delta
===================  =================
``bool``             ``boolean``
``int64``            ``long``
``uint64``           ``decimal(20,0)``
``double``           ``double``
``decimal128(p,s)``  ``decimal(p,s)``
``string``           ``string``
``binary``           ``binary``
``date32``           ``date``
``timestamp``        ``timestamp``
===================  =================

Other types are refused, as in tables of databases.
"""

from __future__ import annotations

import re

import pyarrow as pa

STATISTICS_DIGITS, STATISTICS_SCALE = 15, 5
"""Up to this precision and scale, the minimum and maximum of a decimal column are stored exactly, as JSON numbers.

Numbers below 0.00001 are written with an exponent, which readers of decimals do not accept.
"""

_DECIMAL = re.compile(r"decimal\((?P<p>\d+),(?P<s>\d+)\)")


def new_type(kind: pa.DataType) -> str | None:
    """Return the Delta type of a new column for a column of the type ``kind``; ``None`` if there is no such type."""
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_int64(kind):
        return "long"
    if pa.types.is_uint64(kind):
        return "decimal(20,0)"
    if pa.types.is_float64(kind):
        return "double"
    if pa.types.is_decimal128(kind) and 0 <= kind.scale <= kind.precision:
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_string(kind):
        return "string"
    if pa.types.is_binary(kind):
        return "binary"
    if pa.types.is_date32(kind):
        return "date"
    return "timestamp" if pa.types.is_timestamp(kind) and kind.unit == "us" and kind.tz == "UTC" else None


def fits(kind: pa.DataType, found: str) -> bool:
    """Return whether an existing column can store every value of an Arrow type unchanged.

    :param kind: the Arrow type
    :param found: the Delta type of the column
    """
    wanted = new_type(kind)
    if wanted is None or wanted == found:
        return wanted is not None
    new, old = _DECIMAL.fullmatch(wanted), _DECIMAL.fullmatch(found)
    if new is None or old is None:
        return False
    scale = int(new["s"])
    return int(old["s"]) >= scale and int(old["p"]) - int(old["s"]) >= int(new["p"]) - scale


def has_inexact_statistics(found: str) -> bool:
    """Return whether the minimum and maximum of a column can be inexact, so that readers skip files that have a value.

    :param found: the Delta type of the column
    """
    decimal = _DECIMAL.fullmatch(found)
    return decimal is not None and (int(decimal["p"]) > STATISTICS_DIGITS or int(decimal["s"]) > STATISTICS_SCALE)


def writable(values: pa.Array) -> pa.Array:
    """Convert a column of a dataset to the Arrow type that is written. Delta has no unsigned integers."""
    return values.cast(pa.decimal128(20, 0)) if pa.types.is_uint64(values.type) else values


def writable_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the columns that :func:`writable` returns for columns of the type ``kind``."""
    return pa.decimal128(20, 0) if pa.types.is_uint64(kind) else kind
