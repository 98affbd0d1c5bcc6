"""Great Expectations' SQL engine for a table or query of a database.

Great Expectations' own assets are not used, because version 1.24 changes queries: it doubles each ``%`` and replaces
``:name`` in a string by ``NULL``. It also refuses queries that begin with ``WITH``, and converts the schema of a table
to lower case. Temporary tables are never created, because the transaction is read-only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, MutableMapping, Sequence
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from great_expectations.core.batch import BatchMarkers
from great_expectations.datasource.fluent.sql_datasource import SQLDatasource
from great_expectations.execution_engine.sqlalchemy_batch_data import SqlAlchemyBatchData
from great_expectations.execution_engine.sqlalchemy_execution_engine import SqlAlchemyExecutionEngine
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData

from airflow_mlops.stages.validate.relation import Relation
from airflow_mlops.stages.validate.sqlite_times import mark_bounds

_WRITABLE = (str, int, float, bytes, date, time, UUID)


class _Unknown(sa.types.UserDefinedType[Any]):
    """The type of a column of a query."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the name of the type in SQL."""
        return ""


def _writable(value: Any) -> Any:
    """Return a value that Great Expectations can compare with the numbers of the suite, and write as JSON."""
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, (list, dict)):
        return json.dumps(value, default=str, ensure_ascii=False)
    return value if value is None or isinstance(value, _WRITABLE) else str(value)


def _restore_integers(arguments: MutableMapping[str, Any], end: float) -> None:
    """Convert large whole bounds to integers. A database would round the integers of a column to compare them with a float.

    :param arguments: arguments of an expectation
    :param end: end of the range of integers that the database accepts
    """
    for name in ("min_value", "max_value"):
        value = arguments.get(name)
        if isinstance(value, float) and 2**53 <= abs(value) < end:
            arguments[name] = int(value)


def _give_one_type(arguments: MutableMapping[str, Any]) -> None:
    """Convert the numbers of a list of values to one type, that of the widest number first.

    SQLAlchemy derives the type of all values from the first one. In PostgreSQL with the driver psycopg, 2.5 after 1 would
    become the integer 2, and a large integer after a small one would be out of range.

    :param arguments: arguments of an expectation
    """
    values = arguments.get("value_set")
    if not isinstance(values, (list, set, tuple)):
        return
    numbers: list[Any] = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if any(isinstance(value, float) for value in numbers):
        is_exact = all(isinstance(value, float) or float(value) == value for value in numbers)
        numbers = [float(value) if is_exact else Decimal(repr(value)) for value in numbers]
    others = [value for value in values if isinstance(value, bool) or not isinstance(value, (int, float))]
    arguments["value_set"] = [*sorted(numbers, key=abs, reverse=True), *others]


class RelationEngine(SqlAlchemyExecutionEngine):
    """An execution engine whose only data is a table or query.

    :param relation: the table or query
    :param names: names of its columns
    """

    def __init__(self, relation: Relation, names: Sequence[str]) -> None:
        super().__init__(engine=relation.database.engine, create_temp_table=False)
        self._relation, self._names = relation, names

    def get_batch_data_and_markers(self, batch_spec: Any) -> tuple[SqlAlchemyBatchData, BatchMarkers]:
        """Return the table or query, whatever the batch spec contains."""
        table = self._relation.table
        if table is None:
            data = SqlAlchemyBatchData(execution_engine=self, query=self._relation.text, create_temp_table=False)
            # Without the columns, Great Expectations reads all rows of the query to find their names.
            columns: Any = [sa.column(name, _Unknown()) for name in self._names]
            data.selectable.selected_columns = sa.select(*columns).selected_columns
        else:
            data = SqlAlchemyBatchData(
                execution_engine=self,
                selectable=sa.select(sa.text("*")).select_from(table),
                create_temp_table=False,
                source_table_name=sa.quoted_name(table.name, None),
                source_schema_name=table.schema,
            )
        return data, BatchMarkers({"ge_load_time": datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")})

    def resolve_metrics(self, metrics_to_resolve: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        """Compute metrics. Bounds are converted here, because a stored suite has only numbers and times as text."""
        metrics_to_resolve = list(metrics_to_resolve)
        is_sqlite = self.engine.dialect.name == "sqlite"
        for metric in metrics_to_resolve:
            _restore_integers(metric.metric_value_kwargs, 2**63 if is_sqlite else math.inf)
            _give_one_type(metric.metric_value_kwargs)
            if is_sqlite:
                mark_bounds(metric.metric_value_kwargs)
        return super().resolve_metrics(metrics_to_resolve, *args, **kwargs)

    def execute_query(self, query: Any) -> Any:
        """Run a query.

        Decimals become numbers, because ``Decimal("1.1")`` does not equal the number 1.1 of a suite. Values that cannot
        be written as JSON, such as intervals, become text.
        """
        result = super().execute_query(query)
        keys = SimpleResultMetaData(list(result.keys()))
        return IteratorResult(keys, (tuple(map(_writable, row)) for row in result))

    def add_batch(self, context: Any, name: str) -> Any:
        """Add the table or query to a project of Great Expectations.

        :param context: the project
        :param name: name of the validated rows
        :return: the batch definition
        """
        # The connection string is never used. The real one may contain a password.
        source = SQLDatasource(name="database", connection_string=f"{self._relation.database.dialect}://")
        source._engine, source._cached_connection_string = self.engine, source.connection_string
        source._execution_engine = self
        source._cached_execution_engine_kwargs = source.dict(
            exclude=source._get_exec_engine_excludes(), config_provider=source._config_provider, exclude_unset=False
        )
        # Data Docs show this query. Great Expectations accepts only queries that begin with SELECT.
        shown = self._relation.sql
        if not shown[:7].upper().startswith("SELECT") or not shown[6:7].isspace():
            shown = f"SELECT * FROM (\n{shown}\n) AS mlops_rows"  # noqa: S608 - shown only
        asset = context._add_fluent_datasource(datasource=source).add_query_asset(name, query=shown)
        return asset.add_batch_definition_whole_table("all")
