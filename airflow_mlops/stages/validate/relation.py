"""The rows of a database that are validated: a table, or the result of a query."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SchemaError, named
from airflow_mlops.core.windows import Window
from airflow_mlops.data.databases.bounds import as_literal, bind_placeholders
from airflow_mlops.stages.validate.database import Database
from airflow_mlops.stages.validate.implicit_conversions import Kind

if TYPE_CHECKING:
    import sqlalchemy as sa

    from airflow_mlops.stages.validate.spec import ValidateSpec


class Relation:
    """A table or a query of a database.

    :param spec: parameters of the validation, with ``conn_id``
    :param database: the database
    """

    def __init__(self, spec: ValidateSpec, database: Database) -> None:
        import sqlalchemy as sa

        self.database = database
        self.table: sa.TableClause | None = None
        if spec.table is not None:
            schema, _, name = spec.table.rpartition(".")
            self.table = sa.table(name, schema=schema or None)
            quoted = database.engine.dialect.identifier_preparer.format_table(self.table)
            self.sql = f"SELECT * FROM {quoted}"  # noqa: S608 - quoted
        else:
            assert spec.sql is not None  # validated by the spec
            self.sql = _with_bounds(spec.sql.strip().rstrip(";").rstrip(), spec.window, database.dialect)

    @property
    def text(self) -> str:
        """Return the query for ``sqlalchemy.text``, which would read ``:name`` as a parameter."""
        # If the last line of the query contains a comment, the line break ends the comment.
        return self.sql.replace(":", "\\:") + "\n"

    def rows(self) -> sa.Subquery:
        """Return the rows as a subquery."""
        import sqlalchemy as sa

        return sa.text(self.text).columns().subquery("mlops_rows")

    def describe(self) -> Columns:
        """Return the columns, without reading rows.

        :raises SchemaError: two columns of the query have the same name
        """
        import sqlalchemy as sa

        query = sa.select(sa.text("*")).select_from(self.rows()).where(sa.literal_column("1") == sa.literal_column("0"))
        with self.database.connect() as connection:
            result = connection.execute(query)
            description = list(result.cursor.description) if result.cursor is not None else []
            result.close()
            columns = Columns(description, self.database.dialect, self._declared_types(connection))
        # SQLite renames the second of two columns NAME to NAME:1.
        is_sqlite = self.database.dialect == "sqlite"
        names = [re.sub(r":\d+$", "", name) if is_sqlite else name for name in columns.names]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SchemaError(
                f"The query on connection {self.database.info.conn_id!r} returns the {named('column', twice)} more than once. "
                "Rename columns in `sql` with AS, until every name is unique."
            )
        return columns

    def _declared_types(self, connection: sa.Connection) -> dict[str, Any] | None:
        """Return the declared types of the columns of a table.

        :return: ``None`` for a query, which declares no types, and for databases whose description of the columns
            contains the types
        """
        import sqlalchemy as sa

        if self.table is None or self.database.dialect in Columns.TIMES:
            return None
        found = sa.inspect(connection).get_columns(self.table.name, self.table.schema)
        return {column["name"]: column["type"] for column in found}


class Columns:
    """The columns of a table or query.

    :param description: description of the columns, as in PEP 249
    :param dialect: name of the SQLAlchemy dialect
    :param declared: SQLAlchemy's types of the columns; ``None`` if they are not known, or if ``description`` has them
    """

    # Type codes of dates and timestamps, and whether the type has a time zone.
    TIMES: Mapping[str, Mapping[int, bool]] = {
        "postgresql": {1082: False, 1114: False, 1184: True},
        "mysql": {7: False, 10: False, 12: False},
    }
    # Type codes of columns of numbers, and of columns of text.
    _NUMBERS: Mapping[str, frozenset[int]] = {
        "postgresql": frozenset({20, 21, 23, 700, 701, 1700}),
        "mysql": frozenset({0, 1, 2, 3, 4, 5, 8, 9, 13, 246}),
    }
    _TEXTS: Mapping[str, frozenset[int]] = {
        "postgresql": frozenset({19, 25, 1042, 1043}),
        "mysql": frozenset({15, 247, 248, 249, 250, 251, 252, 253, 254}),
    }

    def __init__(
        self, description: Sequence[Sequence[Any]], dialect: str, declared: Mapping[str, Any] | None = None
    ) -> None:
        self.names = [str(column[0]) for column in description]
        self._codes = {str(column[0]): column[1] for column in description}
        self._dialect, self._declared = dialect, declared or {}
        codes = self.TIMES.get(dialect)
        self.times = None if declared is None else _declared_times(declared)
        if codes is not None:
            self.times = {name: codes[code] for name, code in self._codes.items() if code in codes}

    @property
    def kinds(self) -> dict[str, Kind]:
        """Return the kind of each column, by its name. Columns of other or unknown types are left out."""
        import sqlalchemy as sa

        numbers, texts = (codes.get(self._dialect, frozenset()) for codes in (self._NUMBERS, self._TEXTS))
        found: dict[str, Kind] = dict.fromkeys(self.times or (), "times")
        for name, code in self._codes.items():
            kind = self._declared.get(name)
            # For a column of SQLite that was declared as STRING, SQLAlchemy returns NUMERIC without a scale.
            is_decimal = isinstance(kind, sa.Numeric) and getattr(kind, "scale", None) is not None
            if code in numbers or is_decimal or isinstance(kind, (sa.Integer, sa.Float)):
                found[name] = "numbers"
            elif code in texts or isinstance(kind, sa.String):
                found[name] = "text"
        return found

    def time_bounds(self, compared: Sequence[str]) -> dict[str, Callable[[datetime], Any]]:
        """Return how a bound is compared with the values of each column of dates or times.

        :param compared: columns that an expectation compares with a date or time. If the types of the columns are not
            known, these are the columns of dates or times
        """
        if self.times is not None:
            return {name: _aware if has_zone else _naive for name, has_zone in self.times.items()}
        return dict.fromkeys(compared, _naive)


def _declared_times(declared: Mapping[str, Any]) -> dict[str, bool]:
    """Return the columns of dates or times, and whether their type has a time zone."""
    import sqlalchemy as sa

    return {
        name: bool(getattr(kind, "timezone", False))
        for name, kind in declared.items()
        if isinstance(kind, (sa.Date, sa.DateTime))
    }


def _aware(instant: datetime) -> datetime:
    return instant


def _naive(instant: datetime) -> datetime:
    return instant.astimezone(timezone.utc).replace(tzinfo=None)


def _with_bounds(sql: str, window: Window | None, dialect: str) -> str:
    """Return a query with the bounds of the window as literals, because Great Expectations passes no parameters."""
    if window is None:
        return sql
    return bind_placeholders(sql, {"start": as_literal(window.start, dialect), "end": as_literal(window.end, dialect)})
