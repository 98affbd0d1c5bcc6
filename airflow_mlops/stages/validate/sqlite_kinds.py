"""The kinds of the values in columns of an SQLite database, in which each value has its own type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy import Connection, FromClause

    from airflow_mlops.stages.validate.implicit_conversions import Kind

_TYPES: dict[Kind, tuple[str, ...]] = {"text": ("text",), "numbers": ("integer", "real")}


def stored_kinds(connection: Connection, rows: FromClause, columns: Sequence[str]) -> dict[str, Kind]:
    """Return the kind of the values of some columns, which one query reads. Columns of other values are left out.

    :param connection: connection to the database
    :param rows: the rows
    :param columns: names of the columns
    :raises SchemaError: a column has both text and numbers
    """
    import sqlalchemy as sa

    if not columns:
        return {}
    flags = [sa.func.max(sa.func.typeof(sa.column(name)).in_(types)) for name in columns for types in _TYPES.values()]
    stored = iter(connection.execute(sa.select(*flags).select_from(rows)).one())
    found: dict[str, Kind] = {}
    for name in columns:
        kinds = [kind for kind in _TYPES if next(stored)]
        if len(kinds) > 1:
            raise SchemaError(
                f"Column {name!r} contains both text and numbers. SQLite compares them by rules that depend on the query, so "
                "the expectations about the column cannot be checked. Convert all values in `sql`, for example with CAST."
            )
        found |= dict.fromkeys([name], kinds[0]) if kinds else {}
    return found
