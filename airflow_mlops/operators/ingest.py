"""``IngestOperator``, which reads rows from a database or from files into a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_mlops.core.base import choices
from airflow_mlops.core.errors import EmptyWindowError, FilesNotReadyError, MLOpsError, SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.rendering import is_template

if TYPE_CHECKING:
    from airflow.sdk import Context

# Key in the task state store. The value contains the key of the step call that waits for data, and the time at which
# the wait began.
_WAITING = "mlops.waiting"


_FORMATS = ("csv", "json", "jsonl", "parquet")


class IngestOperator(StepOperator):
    """Reads the rows of one time window from a database or from files into an immutable raw dataset.

    The dataset consists of Parquet files and a manifest with owner, description, source, window, schema, number of rows
    and SHA-256. Rows are streamed, so memory use does not grow with the data. The dataset becomes visible when all rows
    are written. Ingesting the same rows for the same window again gives the same dataset. The events of the task's
    asset outlets contain the field ``dataset`` of the result.

    :param name: name of the dataset
    :param window: the time window of the rows, such as ``2013-04`` or ``{{ partition_key }}``, in the time zone of the
        DAG's timetable; without it, the dataset is a snapshot
    :param conn_id: id of the Airflow connection to the database
    :param sql: the query, or the path of a ``.sql`` file. The query may contain ``:start`` (inclusive) and ``:end``
        (exclusive) for the bounds of the window
    :param files: instead of a query, one or several fsspec URLs or glob patterns. They name CSV, JSON or Parquet files,
        or folders or zip archives of such files. Folder names such as ``year=2024`` become columns
    :param format: file format: ``csv``, ``json``, ``jsonl`` or ``parquet``; by default derived from the suffix of the
        files
    :param time_column: name of the column with the times of the rows, as timestamps, dates or ISO 8601 text. Only rows
        within the window are ingested. By default, all rows of the files are ingested
    :param csv: format of the CSV files, as options of ``pandas.read_csv`` such as ``{"sep": ";", "decimal": ","}``; see
        :class:`~airflow_mlops.stages.ingest.csv_options.CsvOptions`
    :param delimiter: short form of the option ``sep`` in ``csv``
    :param null_values: short form of the option ``na_values`` in ``csv``: text or texts that mean null, in addition to
        an empty field
    :param record_path: key of the array with the records of a JSON file, or the list of keys that leads to it; by
        default the file is an array, or a sequence of objects
    :param columns: names of the columns to read; by default all
    :param types: Arrow types of columns by name, such as ``{"zip": "string", "price": "float64"}``
    :param data_owner: the owner of the data; by default the ``owner`` of the task
    :param description: description of the dataset
    :param on_empty: what to do if the source has no rows in the window, or no file exists yet. ``fail`` fails the task,
        and ``wait`` defers the task until there are rows
    :param poke_interval: with ``wait``, time between two checks of the source, as a ``timedelta`` or in seconds. Below
        10 seconds, Airflow 3.3 may fail the task, because its scheduler has not read yet that the task was deferred
    :param timeout: with ``wait``, time after which the task fails, as a ``timedelta`` or in seconds
    :raises SpecError: there is not exactly one source, the format is unknown, or the ``.sql`` file does not exist
    """

    step = "ingest"
    cacheable = True
    untemplated = StepOperator.untemplated | {"on_empty", "poke_interval", "timeout"}
    file_suffixes: ClassVar[Mapping[str, tuple[str, ...]]] = {"sql": (".sql",)}
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql"}
    ui_color = "#d5f0e3"

    files: Any
    data_owner: str | None
    on_empty: str
    poke_interval: timedelta
    timeout: timedelta

    def __init__(
        self,
        *,
        name: str,
        window: Window | str | None = None,
        conn_id: str | None = None,
        sql: str | None = None,
        files: str | Sequence[str] | None = None,
        format: str | None = None,  # noqa: A002 - the name in pandas, pyarrow and Spark
        time_column: str | None = None,
        csv: Mapping[str, Any] | None = None,
        delimiter: str = ",",
        null_values: str | Sequence[str] = (),
        record_path: str | Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
        data_owner: str | None = None,
        description: str = "",
        on_empty: Literal["fail", "wait"] = "fail",
        poke_interval: timedelta | float = timedelta(minutes=5),
        timeout: timedelta | float = timedelta(days=7),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (sql is None) == (files is None):
            raise SpecError(
                f"Task {self.task_id!r} needs exactly one source: set either sql= with conn_id=, or files=."
            )
        if not is_template(format) and format not in (None, *_FORMATS):
            raise SpecError(f"Task {self.task_id!r}: format={format!r} is unknown: {choices(format, _FORMATS)}.")
        if on_empty not in ("fail", "wait"):
            raise SpecError(f"Task {self.task_id!r}: on_empty={on_empty!r} is unknown: use 'fail' or 'wait'.")
        poke_interval, timeout = _duration(poke_interval), _duration(timeout)
        window = str(window) if isinstance(window, Window) else window
        self.assign_parameters(locals())

    def build_spec(self, context: Context) -> dict[str, Any]:
        fields = super().build_spec(context) | {"owner": self.data_owner or self.owner}
        return fields | {"files": [self.files]} if isinstance(self.files, str) else fields

    def step_failed(self, error: MLOpsError, context: Context) -> None:
        if self.on_empty != "wait" or not isinstance(error, (EmptyWindowError, FilesNotReadyError)):
            return
        waited = datetime.now(timezone.utc) - self._waiting_since(context)
        if waited >= self.timeout:
            raise EmptyWindowError(f"{error} The task has waited for {self.timeout}, the value of timeout=.") from None
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        self.log.info("%s The task checks the source again in %s.", error, self.poke_interval)
        self.defer(trigger=TimeDeltaTrigger(self.poke_interval), method_name="look_again")

    def _waiting_since(self, context: Context) -> datetime:
        call, _ = self._last_call
        assert call is not None  # the step has run
        states, now = context["task_state_store"], datetime.now(timezone.utc)
        # The step call of a cleared task has another key, so the timeout starts again.
        key, _, since = str(states.get(_WAITING) or "").partition(" ")
        if key == call.key:
            return datetime.fromisoformat(since)
        states.set(_WAITING, f"{call.key} {now.isoformat()}")
        return now

    def look_again(self, context: Context, event: Any, begun: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the step again after the task has waited for data, and return the result.

        :param event: payload of the event that resumes the task
        :param begun: location of the stored step call with which the task began
        """
        return self._run(context, None, begun)

    def finish(self, result: dict[str, Any], context: Context) -> None:
        dataset = result["dataset"]
        self.describe_outlets(context, {"dataset": dataset, "rows": dataset["rows"], "window": dataset["window"]})


def _duration(value: timedelta | float) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)
