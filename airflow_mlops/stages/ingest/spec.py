"""What the ingestion step is asked and answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window

# What may hold a colon without being a placeholder: strings, quoted names, comments, dollar quotes, casts.
_LITERAL = (
    r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/"
    r"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|::"
)
_PLACEHOLDER = re.compile(rf"{_LITERAL}|:(?P<bound>start|end)\b", re.DOTALL)


def bind(sql: str, names: Mapping[str, str]) -> str:
    """Replace the placeholders ``:start`` and ``:end`` of a query by what a driver calls them.

    :param names: the driver's spelling of ``start`` and ``end``
    """
    return _PLACEHOLDER.sub(lambda found: names[found["bound"]] if found["bound"] else found[0], sql)


def bounds(sql: str) -> set[str]:
    """Which of the placeholders ``start`` and ``end`` a query uses."""
    return {found["bound"] for found in _PLACEHOLDER.finditer(sql) if found["bound"]}


class IngestSpec(Spec):
    """Read rows from one source into a raw dataset: a query (``conn_id``, ``sql``) or ``files``.

    :param name: the dataset to write
    :param window: the time the rows belong to; without one the dataset is a snapshot
    :param conn_id: the Airflow connection of the database
    :param sql: the query, with ``:start`` and ``:end`` for the window's bounds
    :param files: fsspec URLs, globs allowed
    :param format: format of the files; from their suffix unless given
    :param time_column: column of the files by which rows are put into the window
    :param delimiter: what separates cells of a CSV file
    :param null_values: text in a CSV file that means a missing value, besides an empty cell
    :param columns: the columns to keep; all unless given
    :param types: Arrow types of columns, by name (``float64``, ``string``, ``timestamp[us, tz=UTC]``, ...)
    """

    name: Name
    window: Window | None = None
    conn_id: str | None = None
    sql: str | None = None
    files: list[str] = Field(default_factory=list)
    format: Literal["csv", "jsonl", "parquet"] | None = None
    time_column: str | None = None
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    null_values: list[str] = Field(default_factory=list)
    columns: list[str] | None = None
    types: dict[str, str] = Field(default_factory=dict)
    owner: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> IngestSpec:
        if bool(self.sql) == bool(self.files):
            raise ValueError("give it one source: either sql= with conn_id=, or files=")
        if self.sql:
            self._check_query(bounds(self.sql))
        elif self.conn_id:
            raise ValueError("conn_id= belongs to sql=; files are opened with the credentials fsspec finds")
        elif self.time_column and self.window is None:
            raise ValueError("time_column= puts rows into a window, so give it window= as well")
        return self

    def _check_query(self, used: set[str]) -> None:
        if not self.conn_id:
            raise ValueError("sql= needs conn_id=, the Airflow connection of the database")
        if self.time_column:
            raise ValueError("time_column= is for files; a query puts its rows into the window with :start and :end")
        if self.window is not None and used != {"start", "end"}:
            raise ValueError(
                "with window= the query must use :start and :end, as in WHERE t >= :start AND t < :end, "
                "or each window would get the same rows"
            )
        if self.window is None and used:
            raise ValueError("the query uses :start and :end, so give it window=")


class IngestResult(Result):
    """
    :param dataset: the dataset of that window
    :param unchanged: the same rows were ingested for that window before, and nothing was written
    """

    dataset: DatasetRef
    unchanged: bool
