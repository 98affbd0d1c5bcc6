"""Dates and times of an SQLite database, which are compared as text in the format of SQLite's date functions.

The same time can be written in several ways: ``2024-03-05``, ``2024-03-05 00:00`` and ``2024-03-05 00:00:00.000000`` are
equal, but differ as text. The shortest of them comes first when texts are compared. Therefore a bound is written as the
first or as the last of the texts for its time.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine, FromClause

_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_MINUTE = f"{_DAY} [0-9][0-9]:[0-9][0-9]"
_SECOND = f"{_MINUTE}:[0-9][0-9]"


def mark_bounds(arguments: MutableMapping[str, Any]) -> None:
    """Mark the bounds of a comparison for :func:`write_times_as_text`.

    Values that equal an inclusive maximum or an exclusive minimum must not be greater than it, so such a bound is
    written as the last of the texts for its time.

    :param arguments: arguments of an expectation that compares values with bounds, in UTC without a time zone
    """
    is_last = {"min_value": bool(arguments.get("strict_min")), "max_value": not arguments.get("strict_max")}
    for name, last in is_last.items():
        if isinstance(value := arguments.get(name), datetime):
            # This attribute (``fold``) has no meaning for a UTC time.
            arguments[name] = value.replace(fold=int(last))


def write_times_as_text(engine: Engine) -> None:
    """Let an engine write times in the format of SQLite's date functions.

    SQLAlchemy's own format always has microseconds, so the date ``2024-03-05`` would come before its midnight.
    """
    from sqlalchemy import DateTime
    from sqlalchemy.dialects.sqlite import DATETIME

    class Text(DATETIME):
        def bind_processor(self, dialect: Any) -> Any:
            return lambda value: None if value is None else _text(value)

        def literal_processor(self, dialect: Any) -> Any:
            return lambda value: f"'{_text(value)}'"

    dialect: Any = engine.dialect
    dialect.colspecs = {**dialect.colspecs, DateTime: Text}


def require_comparable(connection: Connection, rows: FromClause, columns: Sequence[str]) -> None:
    """Check that all values of some columns are texts that can be compared with times.

    SQLite compares any values. A number is smaller than every text, and the ``T`` of ``2024-03-05T06:30:00`` comes
    after the space of ``2024-03-05 06:30:00``.

    :param connection: connection to the database
    :param rows: the rows to check
    :param columns: names of columns that an expectation compares with a date or time
    :raises SchemaError: a column has another value
    """
    import sqlalchemy as sa

    for name in columns:
        column: sa.ColumnClause[Any] = sa.column(name)
        wrong = sa.and_(column.is_not(None), sa.not_(_is_time(column)))
        query = sa.select(sa.func.quote(column)).select_from(rows).where(wrong).limit(1)
        if (found := connection.execute(query).scalar()) is not None:
            raise SchemaError(
                f"Column {name!r} contains {found}, which cannot be compared with dates and times in SQLite. Write all "
                "values as 2024-03-05 or 2024-03-05 06:30:00 in UTC, or convert them in `sql` with SQLite's function "
                "datetime()."
            )


def _is_time(column: ColumnElement[Any]) -> ColumnElement[bool]:
    import sqlalchemy as sa

    fraction = sa.func.substr(column, 21)
    with_fraction = sa.and_(_matches(column, f"{_SECOND}.[0-9]*"), sa.not_(_matches(fraction, "*[^0-9]*")))
    forms = (_matches(column, form) for form in (_DAY, _MINUTE, _SECOND))
    return sa.and_(sa.func.typeof(column) == "text", sa.or_(*forms, with_fraction))


def _matches(column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    return column.bool_op("GLOB")(pattern)


def _text(instant: datetime) -> str:
    if instant.fold:
        # SQLite's functions write up to 3 decimals, and other programs up to 9.
        return f"{instant.replace(tzinfo=None).isoformat(' ', 'microseconds')}000"
    text = instant.replace(tzinfo=None).isoformat(" ")
    if instant.microsecond:
        return text.rstrip("0")
    return text.removesuffix(":00").removesuffix(" 00:00")
