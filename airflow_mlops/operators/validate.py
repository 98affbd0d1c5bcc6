"""``ValidateOperator``, which validates a dataset, or a table or query of a database, with Great Expectations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.links import DataDocsLink
from airflow_mlops.operators.rendering import is_template
from airflow_mlops.operators.sharded import ShardedOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ValidateOperator(ShardedOperator):
    """Validates a dataset, or a table or query of a database, with a Great Expectations suite and publishes Data Docs.

    Either ``dataset`` is set, or ``conn_id`` with ``table`` or ``sql``. A table or query is validated in the database:
    Great Expectations runs queries there, in a transaction that cannot write, and only their results are read.

    To validate a large dataset in parallel, map the task over shards: ``ValidateOperator.partial(...,
    shards=8).expand(shard=list(range(8)))``. Each shard checks some of the rows with the expectations about single rows.
    The shard that finishes last checks all other expectations. Outcomes, Data Docs and datasets are those of a single
    task. Only the last shard returns them, fails if an expectation failed, and sends the events of the outlets.
    ``.output`` of the mapped task can be passed on like the output of a single task.

    :param dataset: the dataset to validate: the output of an upstream task, or ``{"name": ..., "window": ...}``.
        Several datasets with the same name are validated as one table
    :param conn_id: id of the Airflow connection to the database
    :param table: name of the table or view to validate, or ``SCHEMA.TABLE``
    :param sql: instead of a table, a query, or the path of a ``.sql`` file. The query may contain ``:start``
        (inclusive) and ``:end`` (exclusive) for the bounds of the window
    :param name: name of the validated rows of a database, in the Data Docs and for ``NAME_quarantine``; by default the
        name of the table without its schema. A query needs a name
    :param window: the time window of the query, such as ``2013-04`` or ``{{ partition_key }}``, in the time zone of the
        DAG's timetable
    :param suite: the suite as a dict, the path of its JSON file on the machine on which the step runs, or the import
        path ``package.module:function`` of a function that returns an ``ExpectationSuite``
    :param on_failure: what happens if an expectation with the severity ``critical`` (Great Expectations' default) is not
        met. ``fail`` fails the task. ``warn`` logs a warning, and the result is the whole dataset. ``quarantine`` writes
        the rows that do not meet such an expectation to the dataset ``NAME_quarantine``, together with the names of these
        expectations. The other rows are written to the dataset ``NAME_valid``, and the result refers to this dataset.
        With a database, only ``NAME_quarantine`` is written, and the result refers to no dataset. With ``quarantine``, an
        unmet expectation about the whole table still fails the task, because removing rows cannot meet the expectation.
        An unmet expectation with the severity ``warning`` or ``info`` is only logged, at this level, and listed in the
        result and the Data Docs
    :param shard: index of the shard to check, from 0; by default all rows are checked. With a database, shards are not
        possible
    :param shards: number of shards into which the rows are divided
    :raises SpecError: ``on_failure`` is unknown, there is not exactly one source, a query has no name, the ``.sql``
        file does not exist, or ``shards`` is set for a database
    """

    step = "validate"
    cacheable = True
    operator_extra_links = (DataDocsLink(),)
    file_suffixes: ClassVar[Mapping[str, tuple[str, ...]]] = {"sql": (".sql",)}
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql"}
    ui_color = "#fff3d6"

    def __init__(
        self,
        *,
        dataset: Any = None,
        conn_id: str | None = None,
        table: str | None = None,
        sql: str | None = None,
        name: str = "",
        window: Window | str | None = None,
        suite: str | dict[str, Any],
        on_failure: Literal["fail", "warn", "quarantine"] = "fail",
        shard: int | str | None = None,
        shards: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (dataset is None) == (conn_id is None) or (conn_id is not None and (table is None) == (sql is None)):
            raise SpecError(
                f"Task {self.task_id!r} needs exactly one source: set either dataset=, or conn_id= with table= or sql=."
            )
        if sql is not None and not name:
            raise SpecError(f"Task {self.task_id!r}: the rows of sql= have no name: set name=.")
        if conn_id is not None and shards is not None:
            raise SpecError(
                f"Task {self.task_id!r} has shards=, but the database of conn_id= validates all rows. Remove shards=."
            )
        if not is_template(on_failure) and on_failure not in ("fail", "warn", "quarantine"):
            raise SpecError(
                f"Task {self.task_id!r}: on_failure={on_failure!r} is unknown: use 'fail', 'warn' or 'quarantine'."
            )
        window = str(window) if isinstance(window, Window) else window
        self.assign_parameters(locals())

    def decision(self, result: dict[str, Any]) -> str | None:
        if rows := (result["quarantined"] or {}).get("rows"):
            return f"quarantined {counted(rows, 'row')}"
        failed = {outcome.get("severity", "critical") for outcome in result["outcomes"] if not outcome["success"]}
        return "warning: expectations failed" if failed & {"critical", "warning"} else None

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["dataset"] is None and result.get("shard") is not None:
            # Only the shard that completes the validation sends events.
            self.outlets = []
            return
        # The result of a database refers to no dataset.
        dataset = {"dataset": result["dataset"]} if result["dataset"] is not None else {}
        self.describe_outlets(context, {**dataset, "success": result["success"]})
