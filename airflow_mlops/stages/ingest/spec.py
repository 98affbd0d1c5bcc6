"""Spec and result of the stage ``ingest``."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.databases.bounds import placeholders
from airflow_mlops.stages.ingest.csv_options import CsvOptions, Texts

_SQL_FILE = re.compile(r"\S+\.sql", re.IGNORECASE)


class IngestSpec(Spec):
    """Parameters of ingestion, which reads rows from a database query or from files, and writes the rows as a dataset.

    Set either ``conn_id`` and ``sql``, or ``files``.

    :param name: name of the dataset to write
    :param window: time window of the rows; ``None`` (default) for a snapshot
    :param conn_id: id of the Airflow connection to the database
    :param sql: SQL query. It selects the rows of the window with the placeholders ``:start`` (included) and ``:end``
        (not included)
    :param files: fsspec URLs of files, folders or zip archives, which may contain glob patterns
    :param format: format of the files; by default derived from the suffix of each file name
    :param time_column: column of the files with the time of each row. Only the rows with a time in ``window`` are
        ingested
    :param csv: options of the CSV format, such as the separator and the encoding
    :param delimiter: short form of the option ``sep`` in ``csv``
    :param null_values: short form of the option ``na_values`` in ``csv``
    :param record_path: key of the array of records in a JSON file; for a nested array, the list of keys from the
        outermost to the innermost
    :param columns: columns to ingest; by default all columns
    :param types: Arrow type by column, for example ``{"dep_delay": "float64", "time_hour": "timestamp[us, tz=UTC]"}``;
        by default the type comes from the source. A time without a time zone is a local time in the zone of the
        declared type
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
    null_values: Texts = Field(default_factory=list)
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
            raise ValueError(
                "`time_column` is set, but `window` is not. `time_column` selects the rows of a window. Set `window`, or "
                "remove `time_column`."
            )
        if self.columns is not None and (
            twice := sorted({name for name in self.columns if self.columns.count(name) > 1})
        ):
            raise ValueError(f"`columns` contains {', '.join(map(repr, twice))} more than once. Name each column once.")
        if self.csv.sep is not None and self.delimiter not in (",", self.csv.sep):
            raise ValueError("`delimiter` and `sep` in `csv` are different. Remove `delimiter`.")
        return self

    def _check_query(self, used: set[str]) -> None:
        assert self.sql is not None
        # IngestOperator has replaced the names of files that exist when the DAG is parsed by the contents of the files.
        if _SQL_FILE.fullmatch(self.sql.strip()):
            raise ValueError(
                f"`sql` is {self.sql.strip()!r}, which is the name of a file and not a query. Write the name without a "
                "template, so that the file next to the DAG file is read, or write the query itself."
            )
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

    :param dataset: reference to the dataset, of the ingested window if ``window`` is set
    :param unchanged: ``True`` if the same rows had already been ingested for the window. No dataset was written then
    :param notes: sentences for the user about the data, for example how many malformed rows were skipped
    """

    dataset: DatasetRef
    unchanged: bool
    notes: list[str] = Field(default_factory=list)
