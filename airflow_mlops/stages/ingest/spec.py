"""Spec and result of the stage ``ingest``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window

# SQL in which a colon does not start a placeholder: strings, quoted names, comments, dollar quotes, casts.
_LITERAL = (
    r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/"
    r"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|::"
)
_PLACEHOLDER = re.compile(rf"{_LITERAL}|:(?P<bound>start|end)\b", re.DOTALL)


def bind_placeholders(sql: str, names: Mapping[str, str]) -> str:
    """Replace the placeholders ``:start`` and ``:end`` of a query by a driver's own parameter syntax.

    :param names: the driver's syntax for ``start`` and ``end``
    """
    return _PLACEHOLDER.sub(lambda found: names[found["bound"]] if found["bound"] else found[0], sql)


def placeholders(sql: str) -> set[str]:
    """The placeholders that a query uses: a subset of ``start`` and ``end``."""
    return {found["bound"] for found in _PLACEHOLDER.finditer(sql) if found["bound"]}


class IngestSpec(Spec):
    """Read the rows of a query (``conn_id`` and ``sql``) or of ``files`` into a raw dataset.

    :param name: name of the dataset to write
    :param window: time window of the rows; without it the dataset is a snapshot
    :param conn_id: Airflow connection of the database
    :param sql: query, with ``:start`` and ``:end`` for the bounds of the window
    :param files: fsspec URLs or glob patterns
    :param format: format of the files; derived from their suffix by default
    :param time_column: column of the files that contains the time of a row; only rows inside the window are kept
    :param delimiter: separator of the cells of a CSV file
    :param null_values: text in CSV files that means a missing value, in addition to an empty cell
    :param columns: columns to keep; all by default
    :param types: Arrow types by column (``float64``, ``string``, ``timestamp[us, tz=UTC]``, ...)
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
            raise ValueError("set exactly one source: either sql= with conn_id=, or files=")
        if self.sql:
            self._check_query(placeholders(self.sql))
        elif self.conn_id:
            raise ValueError("conn_id= is only for sql=; fsspec finds the credentials for files")
        elif self.time_column and self.window is None:
            raise ValueError("time_column= selects the rows of a window, so window= is required as well")
        return self

    def _check_query(self, used: set[str]) -> None:
        if not self.conn_id:
            raise ValueError("sql= requires conn_id=, the Airflow connection of the database")
        if self.time_column:
            raise ValueError(
                "time_column= is only for files; a query selects the rows of the window with :start and :end"
            )
        if self.window is not None and used != {"start", "end"}:
            raise ValueError(
                "with window= the query must use :start and :end, as in WHERE t >= :start AND t < :end; "
                "otherwise every window would have the same rows"
            )
        if self.window is None and used:
            raise ValueError("the query uses :start and :end, so window= is required")


class IngestResult(Result):
    """Result of ingestion.

    :param dataset: the dataset of the window
    :param unchanged: whether the same rows had been ingested for the window before, so that nothing was written
    """

    dataset: DatasetRef
    unchanged: bool
