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
from airflow_mlops.stages.ingest.csv_options import CsvOptions

# Parts of SQL in which a colon does not start a placeholder: strings, quoted names, comments, dollar quotes and casts.
_LITERAL = (
    r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/"
    r"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|::"
)
_PLACEHOLDER = re.compile(rf"{_LITERAL}|:(?P<bound>start|end)\b", re.DOTALL)


def bind_placeholders(sql: str, names: Mapping[str, str]) -> str:
    """Replace the placeholders ``:start`` and ``:end`` of a query by a driver's own parameter syntax.

    :param names: parameter syntax of the driver, for the keys ``start`` and ``end``
    """
    return _PLACEHOLDER.sub(lambda found: names[found["bound"]] if found["bound"] else found[0], sql)


def placeholders(sql: str) -> set[str]:
    """Return the names of the placeholders in a query: ``start``, ``end``, both or none."""
    return {found["bound"] for found in _PLACEHOLDER.finditer(sql) if found["bound"]}


class IngestSpec(Spec):
    """Parameters of ingestion, which reads the rows of a query or of files into a dataset.

    Either ``conn_id`` and ``sql`` or ``files`` must be set.

    :param name: name of the dataset to write
    :param window: time window of the rows; ``None`` (default) for a snapshot
    :param conn_id: id of the Airflow connection to the database
    :param sql: SQL query. It selects the rows of the window with the placeholders ``:start`` (included) and ``:end``
        (not included)
    :param files: fsspec URLs of files, folders or zip archives, which may contain glob patterns
    :param format: format of the files; by default derived from the suffix of each file name
    :param time_column: column of the files with the time of each row. Only rows with a time inside ``window`` are
        ingested
    :param csv: how CSV files are written
    :param delimiter: short form of the option ``sep`` in ``csv``
    :param null_values: short form of the option ``na_values`` in ``csv``
    :param record_path: key of the array with the records of a JSON file, or the list of keys that leads to it
    :param columns: columns to ingest; all by default
    :param types: Arrow type by column, for example ``{"dep_delay": "float64", "time_hour": "timestamp[us, tz=UTC]"}``;
        by default taken from the source. Values without a time zone are local times of the zone of the declared type
    :param owner: owner of the dataset, recorded in its manifest
    :param description: description of the dataset, recorded in its manifest
    """

    name: Name
    window: Window | None = None
    conn_id: str | None = None
    sql: str | None = None
    files: list[str] = Field(default_factory=list)
    format: Literal["csv", "json", "jsonl", "parquet"] | None = None
    time_column: str | None = None
    csv: CsvOptions = Field(default_factory=CsvOptions)
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    null_values: list[str] = Field(default_factory=list)
    record_path: str | list[str] | None = None
    columns: list[str] | None = None
    types: dict[str, str] = Field(default_factory=dict)
    owner: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> IngestSpec:
        if bool(self.sql) == bool(self.files):
            raise ValueError("Set exactly one source: either `sql` with `conn_id`, or `files`.")
        if self.sql:
            self._check_query(placeholders(self.sql))
        elif self.conn_id:
            raise ValueError(
                "`conn_id` is only used with `sql`. Remove `conn_id`; fsspec takes the credentials for `files` from "
                "the environment."
            )
        elif self.time_column and self.window is None:
            raise ValueError("`time_column` selects the rows of a window. Set `window`, or remove `time_column`.")
        if self.csv.sep is not None and self.delimiter not in (",", self.csv.sep):
            raise ValueError("`delimiter` and `sep` in `csv` are different. Remove `delimiter`.")
        return self

    def _check_query(self, used: set[str]) -> None:
        if not self.conn_id:
            raise ValueError("`sql` is set without a database. Set `conn_id` to the id of an Airflow connection.")
        if self.time_column:
            raise ValueError(
                "`time_column` is only used with `files`. Remove it, and select the rows of the window in `sql` with "
                ":start and :end."
            )
        if self.window is not None and used != {"start", "end"}:
            raise ValueError(
                "`window` is set, but `sql` does not use both :start and :end, so every window would have the same "
                "rows. Add a condition such as WHERE t >= :start AND t < :end."
            )
        if self.window is None and used:
            raise ValueError("`sql` uses :start or :end, but `window` is not set. Set `window`.")


class IngestResult(Result):
    """Result of ingestion.

    :param dataset: reference to the dataset of the window
    :param unchanged: ``True`` if the same rows had already been ingested for the window, so nothing was written
    :param notes: what readers of the data should know, one sentence each, such as rows that were skipped
    """

    dataset: DatasetRef
    unchanged: bool
    notes: list[str] = Field(default_factory=list)
