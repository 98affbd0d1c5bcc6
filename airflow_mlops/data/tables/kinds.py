"""The kinds of columns that tables can have, independent of the names of their types in a database."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

Kind = Literal["bool", "int64", "uint64", "double", "decimal", "string", "binary", "date", "timestamp"]


def kind_of(type_: pa.DataType) -> Kind | None:
    """Return the kind of a column of a dataset.

    :param type_: the type of the column
    :return: ``None`` for lists, structs, columns of nulls, and decimals whose scale is below 0 or above the precision
    """
    if pa.types.is_boolean(type_):
        return "bool"
    if pa.types.is_int64(type_):
        return "int64"
    if pa.types.is_uint64(type_):
        return "uint64"
    if pa.types.is_float64(type_):
        return "double"
    if pa.types.is_decimal128(type_):
        return "decimal" if 0 <= type_.scale <= type_.precision else None
    if pa.types.is_string(type_):
        return "string"
    if pa.types.is_binary(type_):
        return "binary"
    if pa.types.is_date32(type_):
        return "date"
    return "timestamp" if pa.types.is_timestamp(type_) else None


def holds(found: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Return whether a column of decimals can store every decimal of another type.

    :param found: precision and scale of the column
    :param wanted: precision and scale of the decimals
    """
    return found[1] >= wanted[1] and found[0] - found[1] >= wanted[0] - wanted[1]
