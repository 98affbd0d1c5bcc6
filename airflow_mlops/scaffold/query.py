"""The queries that select the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from airflow_mlops.core.errors import SpecError

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
# A part of a table's name: quoted as in standard SQL, MySQL or SQL Server, or without quotes. Only a quoted part can contain dots.
_PART = re.compile(
    r"""\"(?P<ansi>(?:[^"]|"")+)"|`(?P<mysql>(?:[^`]|``)+)`|\[(?P<mssql>(?:[^\]]|\]\])+)\]|(?P<plain>[^\s."`\[\];][^."`\[\];]*)"""
)
_CLOSING = {"ansi": '"', "mysql": "`", "mssql": "]"}
_MOST_PARTS = 3
# Airflow renders queries as Jinja templates.
_TEMPLATE = re.compile(r"\{[{%#]")


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

    :param table: name of the table, preceded by the names of its database and schema if needed, separated by dots. Each
        name can be quoted, as in ``sales."order.items"``. A name without quotes can contain spaces
    :param conn_type: type of the Airflow connection
    :raises SpecError: ``table`` is not the name of a table
    """
    mark = "`" if conn_type in ("mysql", "mariadb", "bigquery", "gcpbigquery", "databricks") else '"'
    parts: list[str] = []
    place = 0
    while found := _PART.match(table, place):
        kind = found.lastgroup or "plain"
        name, place = found[kind], found.end() + 1
        if kind == "plain":
            parts.append(_quoted(name.rstrip(), mark))
        else:
            parts.append(_marked(name.replace(_CLOSING[kind] * 2, _CLOSING[kind]), mark))
        if table[found.end() : place] != ".":
            break
    if not 1 <= len(parts) <= _MOST_PARTS or place != len(table) + 1 or not table.isprintable():
        raise SpecError(
            f"{table!r} is not the name of a table. Write it as TABLE or SCHEMA.TABLE, and quote a name that contains dots, quotes, "
            'brackets or semicolons, as in SCHEMA."order.items".'
        )
    if _TEMPLATE.search(table):
        raise SpecError(
            f"The name {table!r} would be rendered as a Jinja template in a DAG. Create a view with another name, and name it with "
            "--table."
        )
    return Queries(".".join(parts), mark)


def _quoted(name: str, mark: str) -> str:
    """Quote a name unless every database accepts it unquoted. SQL keywords, such as ``order``, are quoted."""
    return name if _PLAIN.fullmatch(name) and name not in _keywords() else _marked(name, mark)


def _marked(name: str, mark: str) -> str:
    return mark + name.replace(mark, mark * 2) + mark


@cache
def _keywords() -> frozenset[str]:
    """Return the reserved words of all databases. Each database has its own, such as ``index`` and ``rank``."""
    from sqlalchemy.dialects.mysql.reserved_words import RESERVED_WORDS_MARIADB, RESERVED_WORDS_MYSQL
    from sqlalchemy.dialects.sqlite.base import SQLiteIdentifierPreparer
    from sqlalchemy.sql.compiler import RESERVED_WORDS

    sqlite = {*SQLiteIdentifierPreparer.reserved_words, "nothing", "returning"}
    return frozenset({*RESERVED_WORDS, *RESERVED_WORDS_MYSQL, *RESERVED_WORDS_MARIADB, *sqlite})
