"""The columns of several tables together: those of the windows of a dataset, whose types may differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.types.conversion import as_column
from airflow_mlops.data.types.stored import common_type


def concatenated(tables: Sequence[pa.Table], what: str, fix: str) -> pa.Table:
    """Concatenate tables, and convert columns of different types to their common type.

    If a table lacks a column of the other tables, the column is null in the rows of this table.

    :param tables: tables of different windows
    :param what: subject of the error message, such as ``The windows of dataset 'flights'``
    :param fix: last sentence of the error message
    :raises SchemaError: the types of a column have no common type
    """
    if len(tables) == 1:
        return tables[0]
    schema = common_schema((table.schema for table in tables), what, fix)
    return pa.concat_tables([conformed(table, schema, what) for table in tables])


def common_schema(schemas: Iterable[pa.Schema], what: str, fix: str) -> pa.Schema:
    """Return the schema with all columns of ``schemas``. Columns of different types get their common type.

    A type that is equal in all schemas stays unchanged.

    :param what: subject of the error message, such as ``The windows of dataset 'flights'``
    :param fix: last sentence of the error message
    :raises SchemaError: the types of a column have no common type
    """
    found: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            before = found.get(field.name, field.type)
            kind = before if before.equals(field.type) else common_type(before, field.type)
            if kind is None:
                raise SchemaError(
                    f"{what} have columns of different types: {field.name!r} is {before} and {field.type}. {fix}"
                )
            found[field.name] = kind
    return pa.schema(list(found.items()))


def conformed(data: Any, schema: pa.Schema, what: str) -> Any:
    """Convert a table or record batch to ``schema``. Columns that ``data`` does not have become null.

    :param data: the table or record batch
    :param schema: the columns of the result
    :param what: subject of the error message, such as ``The windows of dataset 'flights'``
    :raises SchemaError: a value cannot be converted
    """
    if data.schema.equals(schema):
        return data
    columns = [
        as_column(data.column(field.name), field.type, f"Column {field.name!r} of {what[0].lower() + what[1:]}")
        if field.name in data.schema.names
        else pa.nulls(data.num_rows, field.type)
        for field in schema
    ]
    return type(data).from_arrays(columns, schema=schema)
