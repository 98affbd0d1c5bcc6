"""Ingest a query or files into a raw dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.ingest.spec import IngestSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class IngestOperator(StepOperator):
    """Reads the rows of one time window from a database or from files into an immutable raw dataset.

    The dataset is Parquet and a manifest with owner, description, source, window, schema, rows and SHA-256. Rows are
    streamed, so memory stays flat, and nothing shows before all of them are there. The same window again
    with the same rows is the same dataset. Returns the dataset's reference, which is what ``dataset=`` of the other
    operators takes, and puts it into the events of the task's asset outlets.

    :param name: name of the dataset
    :param window: the time the rows belong to, in UTC, such as ``2013-04`` or ``{{ partition_key }}``; the dataset is a
        snapshot without a window if not given
    :param conn_id: Airflow connection of the database
    :param sql: the query, or the path of a ``.sql`` file; ``:start`` and ``:end`` are the window's bounds, the end
        excluded
    :param files: instead of a query, one or more fsspec URLs, globs allowed: CSV, JSON lines or Parquet
    :param format: ``csv``, ``jsonl`` or ``parquet``; seen from the files' suffix if not given
    :param time_column: the files' column by which rows belong to the window: timestamps, dates or ISO 8601 text.
        Without it all rows of the files belong to the window
    :param delimiter: what separates the cells of a CSV file
    :param null_values: what means a missing value in a CSV file, besides an empty cell
    :param columns: the columns to keep; all if not given
    :param types: Arrow types of columns by name, such as ``{"zip": "string", "price": "float64"}``
    :param data_owner: who is responsible for the data; the task's ``owner`` if not given
    :param description: what the data is
    """

    step: ClassVar[str] = "ingest"
    spec: ClassVar[type[IngestSpec]] = IngestSpec

    template_fields: Sequence[str] = (
        *StepOperator.template_fields,
        "name", "window", "conn_id", "sql", "files", "time_column", "columns", "data_owner", "description",
    )  # fmt: skip
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql"}
    ui_color = "#d5f0e3"

    def __init__(
        self,
        *,
        name: str,
        window: Window | str | None = None,
        conn_id: str | None = None,
        sql: str | None = None,
        files: str | Sequence[str] | None = None,
        format: str | None = None,  # noqa: A002 - what pandas, pyarrow and Spark call it
        time_column: str | None = None,
        delimiter: str = ",",
        null_values: Sequence[str] = (),
        columns: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
        data_owner: str | None = None,
        description: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (sql is None) == (files is None):
            raise SpecError(f"Task {self.task_id!r} needs one source: either sql= with conn_id=, or files=.")
        if format not in (None, "csv", "jsonl", "parquet"):
            raise SpecError(f"Task {self.task_id!r}: format={format!r} is not 'csv', 'jsonl' or 'parquet'.")
        self.name = name
        self.window = str(window) if isinstance(window, Window) else window
        self.conn_id = conn_id
        self.sql = sql
        self.files = files
        self.format = format
        self.time_column = time_column
        self.delimiter = delimiter
        self.null_values = null_values
        self.columns = columns
        self.types = types
        self.data_owner = data_owner
        self.description = description

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "name": self.name,
            "window": self.window,
            "conn_id": self.conn_id,
            "sql": self.sql,
            "files": [self.files] if isinstance(self.files, str) else list(self.files or ()),
            "format": self.format,
            "time_column": self.time_column,
            "delimiter": self.delimiter,
            "null_values": list(self.null_values),
            "columns": None if self.columns is None else list(self.columns),
            "types": dict(self.types or {}),
            "owner": self.data_owner or self.owner,
            "description": self.description,
        }

    def finish(self, result: dict[str, Any], context: Context) -> None:
        dataset = result["dataset"]
        self.describe_outlets(context, {"dataset": dataset, "rows": dataset["rows"], "window": dataset["window"]})
