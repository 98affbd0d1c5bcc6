"""The bounds of a window in a query: the placeholders ``:start`` and ``:end``, and points in time as a database reads them.

The specs of stages import this module, so it must import quickly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

# Parts of SQL in which a colon does not start a placeholder: strings, quoted names, comments, dollar quotes and casts.
_LITERAL = (
    r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/"
    r"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|::"
)
_PLACEHOLDER = re.compile(rf"{_LITERAL}|:(?P<bound>start|end)\b", re.DOTALL)


def bind_placeholders(sql: str, names: Mapping[str, str]) -> str:
    """Return a query with the placeholders ``:start`` and ``:end`` replaced by the parameter syntax of a driver.

    :param sql: query with the placeholders
    :param names: text that replaces each placeholder, for the keys ``start`` and ``end``
    """
    return _PLACEHOLDER.sub(lambda found: names[found["bound"]] if found["bound"] else found[0], sql)


def placeholders(sql: str) -> set[str]:
    """Return the names of the placeholders that a query contains: a subset of ``{"start", "end"}``."""
    return {found["bound"] for found in _PLACEHOLDER.finditer(sql) if found["bound"]}


def sqlite_text(instant: datetime) -> str:
    """Return a point in time as text in UTC, in the format of SQLite's date functions.

    Midnight is written as a date only, so that it sorts before every time of the day when texts are compared.
    """
    text = instant.astimezone(timezone.utc).replace(tzinfo=None).isoformat(" ", "seconds")
    return text.removesuffix(" 00:00:00")


def as_parameter(instant: datetime, dialect: str) -> Any:
    """Return a point in time as SQLAlchemy passes it to a driver.

    :param dialect: name of the SQLAlchemy dialect
    """
    if dialect == "sqlite":
        return sqlite_text(instant)
    # Most databases store UTC timestamps without a time zone. PostgreSQL always accepts a time zone.
    return instant if dialect == "postgresql" else instant.astimezone(timezone.utc).replace(tzinfo=None)


def as_literal(instant: datetime, dialect: str) -> str:
    """Return a point in time as a literal of SQL, for a query that has no parameters.

    :param dialect: name of the SQLAlchemy dialect
    """
    instant = instant.astimezone(timezone.utc)
    if dialect == "sqlite":
        return f"'{sqlite_text(instant)}'"
    if dialect == "postgresql":
        return f"TIMESTAMPTZ '{instant.isoformat()}'"
    text = instant.replace(tzinfo=None).isoformat(" ")
    return f"'{text.replace(' ', 'T')}'" if dialect == "mssql" else f"TIMESTAMP '{text}'"
