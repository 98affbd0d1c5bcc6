"""The queries that select the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from airflow_mlops.core.errors import SpecError

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_TABLE = re.compile(r"[^\s.;]+(\.[^\s.;]+){0,2}")


@dataclass(frozen=True)
class Queries:
    """Queries on a table.

    :param table: the quoted name
    :param mark: character that quotes names
    """

    table: str
    mark: str

    @property
    def select(self) -> str:
        """Return the query for all rows."""
        return f"SELECT * FROM {self.table}"  # noqa: S608 - the name is quoted

    def of_window(self, time: str, keys: Sequence[str]) -> str:
        """Return the query for the rows of a window, in the order of their keys.

        :param time: column with the time of each row. The query has the parameters ``:start`` (included) and ``:end``
            (excluded)
        :param keys: columns that identify a row
        """
        at, order = _quoted(time, self.mark), ", ".join(_quoted(key, self.mark) for key in keys)
        return f"{self.select} WHERE {at} >= :start AND {at} < :end ORDER BY {order}"


def of_table(table: str, conn_type: str) -> Queries:
    """Return the queries on a table.

    :param table: name of the table, preceded by the names of its database and schema if needed, separated by dots
    :param conn_type: type of the Airflow connection
    :raises SpecError: ``table`` is not the name of a table
    """
    if not _TABLE.fullmatch(table):
        raise SpecError(f"{table!r} is not the name of a table. Write it as TABLE or SCHEMA.TABLE.")
    mark = "`" if conn_type in ("mysql", "mariadb", "bigquery", "gcpbigquery", "databricks") else '"'
    return Queries(".".join(_quoted(part, mark) for part in table.split(".")), mark)


def _quoted(name: str, mark: str) -> str:
    """Quote a name unless every database accepts it unquoted. SQL keywords, such as ``order``, are quoted."""
    return name if _PLAIN.fullmatch(name) and name not in _keywords() else mark + name.replace(mark, mark * 2) + mark


@cache
def _keywords() -> frozenset[str]:
    """Return the reserved words of all databases. Each database has its own, such as ``index`` and ``rank``."""
    from sqlalchemy.dialects.mysql.reserved_words import RESERVED_WORDS_MARIADB, RESERVED_WORDS_MYSQL
    from sqlalchemy.dialects.sqlite.base import SQLiteIdentifierPreparer
    from sqlalchemy.sql.compiler import RESERVED_WORDS

    sqlite = {*SQLiteIdentifierPreparer.reserved_words, "nothing", "returning"}
    return frozenset({*RESERVED_WORDS, *RESERVED_WORDS_MYSQL, *RESERVED_WORDS_MARIADB, *sqlite})
