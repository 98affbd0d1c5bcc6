"""Copy the rows of a database that do not meet an expectation to a dataset, in bounded memory.

The database finds the rows with the conditions of Great Expectations. Their types are those of IngestOperator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SchemaError, SourceError, ValidationError
from airflow_mlops.data.databases.queries.alchemy import AlchemyQuery
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.incoming.types import ColumnTypes
from airflow_mlops.data.incoming.unify import unified
from airflow_mlops.data.prefetch import prefetch
from airflow_mlops.data.quarantine import FAILED_EXPECTATIONS, quarantine_name
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.validate import checkpoint
from airflow_mlops.stages.validate.outcomes import also_failed, critical, listed
from airflow_mlops.stages.validate.spec import ValidateResult
from airflow_mlops.stages.validate.validation import Validation

if TYPE_CHECKING:
    import sqlalchemy as sa
    from great_expectations.core import ExpectationValidationResult

# Metrics whose condition needs another query. The condition of any other metric needs only the columns of one row.
_REPEATED = ("column_values.unique", "compound_columns.unique")
_FLAG, _REPEATS = "mlops_failed", "mlops_repeats"


def quarantine(validation: Validation, context: StepContext) -> ValidateResult:
    """Write the failing rows to the dataset ``NAME_quarantine``.

    :raises ValidationError: a failed critical expectation concerns the whole table, every row failed, or the condition of
        an expectation is not known
    """
    failed, headline = validation.failed, validation.headline
    if about_table := [outcome for outcome in failed if outcome.unexpected is None]:
        raise ValidationError(
            f"{headline}. The failed expectation {listed(about_table)} concerns the whole table, so there are no failing "
            f"rows to quarantine. See the Data Docs at {validation.docs_url}."
        )
    if validation.rows and any(outcome.unexpected == validation.rows for outcome in failed):
        raise _no_row_left(validation)
    name = quarantine_name(validation.spec.rows_name)
    with DatasetWriter(context.store, name) as writer:
        rows = 0
        for batch in _failing_rows(validation):
            writer.write(batch)
            rows += batch.num_rows
        if rows and rows == validation.rows:
            raise _no_row_left(validation)
        validation.relation.database.require_running()
        manifest, _ = writer.commit(
            window=validation.spec.window,
            owner=validation.spec.owner,
            description="",
            source={"kind": "validation", "conn_id": validation.spec.conn_id, "sql": validation.relation.sql},
            details={
                "suite": validation.suite,
                "unexpected": {outcome.expectation: outcome.unexpected for outcome in failed},
            },
            provenance=context.provenance,
            check=context.require_unfinished,
        )
    return ValidateResult(
        success=not failed,
        quarantined=manifest.ref,
        outcomes=list(validation.outcomes),
        docs_url=validation.docs_url,
        summary=f"{headline}. Quarantined {counted(rows, 'row')} in {name}{f': {listed(failed)}' if failed else ''}."
        f"{also_failed(validation.outcomes)}",
    )


def _no_row_left(validation: Validation) -> ValidationError:
    return ValidationError(
        f"{validation.headline}. Every row failed, so no valid rows are left: {listed(validation.failed)}. Correct the "
        f"source or the suite. See the Data Docs at {validation.docs_url}."
    )


class _Reason(NamedTuple):
    """A failed expectation.

    :param title: type and columns of the expectation
    :param domain: condition of the rows that the expectation concerns
    :param condition: condition of the rows that do not meet the expectation; ``None`` if they have repeated keys
    :param keys: columns of the keys
    """

    title: str
    domain: sa.ColumnElement[bool]
    condition: sa.ColumnElement[bool] | None
    keys: Sequence[sa.ColumnElement[Any]]


def _failing_rows(validation: Validation) -> Iterator[pa.RecordBatch]:
    """Yield the rows that do not meet a failed critical expectation, with the column ``failed_expectations``."""
    from sqlalchemy import exc

    database = validation.relation.database
    both = zip(validation.results, validation.outcomes, strict=True)
    reasons = [_reason(validation, result) for result, outcome in both if critical([outcome])]
    if not reasons:
        # A quarantine without rows replaces an earlier one of the same window.
        names = [*validation.columns.names, FAILED_EXPECTATIONS]
        yield pa.RecordBatch.from_arrays([*(pa.nulls(0) for _ in names[1:]), pa.array([], pa.string())], names=names)
        return
    query, types = AlchemyQuery(_query(validation, reasons), None, database.info), ColumnTypes()
    titles, counts = [reason.title for reason in reasons], [0] * len(reasons)
    width = len(validation.columns.names)
    try:
        with database.connect() as connection:
            rows = _with_titles(query.read(connection, types), width, titles, counts)
            with (
                prefetch(rows, database.cancel) as read,
                unified(
                    (types.convert(batch, 0) for batch in read), types, query.is_settled, lambda _: None
                ) as batches,
            ):
                yield from batches
    except exc.SQLAlchemyError as error:
        raise database.error(error) from None
    except SchemaError as error:
        raise SchemaError(
            f"The failing rows cannot be written to {quarantine_name(validation.spec.rows_name)}: {error} "
            "ValidateOperator has no `types`: convert the column in `sql`, for example with CAST, or set "
            "on_failure='warn' or 'fail'."
        ) from None
    if counts != [outcome.unexpected for outcome in validation.failed]:
        raise SourceError(
            f"The table or query of connection {validation.spec.conn_id!r} does not have as many failing rows as Great "
            "Expectations has counted. The rows have probably changed in the meantime. A retry validates them again."
        )


def _with_titles(
    batches: Iterator[pa.RecordBatch], width: int, titles: Sequence[str], counts: list[int]
) -> Iterator[pa.RecordBatch]:
    """Replace the columns after ``width``, which say whether a row fails for each reason, by ``failed_expectations``.

    :param counts: number of rows for each reason, to which the rows are added
    """
    for batch in batches:
        fails = np.array([column.to_numpy(zero_copy_only=False) for column in batch.columns[width:]]).astype(bool)
        counts[:] = [before + int(found) for before, found in zip(counts, fails.sum(axis=1), strict=True)]
        kinds, kind = np.unique(fails, axis=1, return_inverse=True)
        texts = ["; ".join(title for title, failed in zip(titles, column, strict=True) if failed) for column in kinds.T]
        reasons = pa.array([texts[number] for number in kind.ravel()], pa.string())
        names = [*batch.schema.names[:width], FAILED_EXPECTATIONS]
        yield pa.RecordBatch.from_arrays([*batch.columns[:width], reasons], names=names)


def _query(validation: Validation, reasons: Sequence[_Reason]) -> str:
    """Return the query for the failing rows."""
    import sqlalchemy as sa

    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in validation.columns.names]
    rows = validation.relation.rows()
    counts = []
    for number, reason in enumerate(reasons):
        if reason.condition is None:
            concerned = sa.case((reason.domain, 1), else_=0)
            counts.append(sa.func.sum(concerned).over(partition_by=reason.keys).label(f"{_REPEATS}_{number}"))
    if counts:
        rows = sa.select(*columns, *counts).select_from(rows).subquery("mlops_counted")
    conditions = [
        sa.and_(reason.domain, sa.column(f"{_REPEATS}_{number}") > 1 if reason.condition is None else reason.condition)
        for number, reason in enumerate(reasons)
    ]
    flags = [sa.case((condition, 1), else_=0).label(f"{_FLAG}_{number}") for number, condition in enumerate(conditions)]
    query = sa.select(*columns, *flags).select_from(rows).where(sa.or_(*conditions))
    # The style "named" does not double each `%`. The query has no parameters.
    dialect = copy(validation.relation.database.engine.dialect)
    dialect.paramstyle, dialect.positional = "named", False
    dialect.identifier_preparer = dialect.preparer(dialect)
    return str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _reason(validation: Validation, result: ExpectationValidationResult) -> _Reason:
    """Return the condition with which Great Expectations counted the unexpected rows.

    :raises ValidationError: Great Expectations has no such condition
    """
    import sqlalchemy as sa

    config = result.expectation_config
    assert config is not None
    title = checkpoint.title(result)
    expectation: Any = config.to_domain_obj()
    names = {name.casefold(): name for name in validation.columns.names}
    found = checkpoint.columns(config.kwargs)
    columns: list[sa.ColumnClause[Any]] = [sa.column(names.get(name.casefold(), name)) for name in found]
    repeated = expectation.map_metric in _REPEATED
    domain = [*_row_condition(validation, config.kwargs), *_not_ignored(expectation, columns)]
    if repeated and (len(columns) == 1 or validation.relation.database.dialect != "mysql"):
        # Great Expectations joins the rows with their keys, and null equals nothing. In MySQL, it counts the rows of each
        # key instead, and null is a key.
        domain += [column.is_not(None) for column in columns]
    condition = None if repeated else _condition(validation, expectation.map_metric, config, title)
    return _Reason(title, sa.and_(sa.literal_column("1") == sa.literal_column("1"), *domain), condition, columns)


def _condition(validation: Validation, metric: str, config: Any, title: str) -> sa.ColumnElement[bool]:
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.registry import get_metric_kwargs
    from great_expectations.validator.metric_configuration import MetricConfiguration
    from great_expectations.validator.metrics_calculator import MetricsCalculator

    try:
        kwargs = get_metric_kwargs(f"{metric}.condition", configuration=config)
        wanted = MetricConfiguration(
            f"{metric}.condition",
            metric_domain_kwargs=kwargs["metric_domain_kwargs"],
            metric_value_kwargs=kwargs["metric_value_kwargs"],
        )
        found: sa.ColumnElement[bool] = MetricsCalculator(validation.engine).get_metric(wanted)[0]
    except GreatExpectationsError:
        raise ValidationError(
            f"{validation.headline}. Great Expectations has no condition in SQL for {title}, so the failing rows are not "
            f"known. Set on_failure='warn' or 'fail'. See the Data Docs at {validation.docs_url}."
        ) from None
    return found


def _row_condition(validation: Validation, kwargs: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    """Return the condition that an expectation has for the rows that it concerns."""
    if kwargs.get("row_condition") is None:
        return []
    names = ("batch_id", "row_condition", "condition_parser")
    records: Any = validation.engine.get_domain_records({name: kwargs[name] for name in names if name in kwargs})
    return [records.whereclause]


def _not_ignored(expectation: Any, columns: Sequence[sa.ColumnElement[Any]]) -> list[sa.ColumnElement[bool]]:
    """Return the condition of the rows that an expectation about several columns does not ignore."""
    import sqlalchemy as sa

    ignored = str(getattr(expectation.ignore_row_if, "value", expectation.ignore_row_if)) if len(columns) > 1 else ""
    if ignored in ("all_values_are_missing", "both_values_are_missing"):
        return [sa.or_(*(column.is_not(None) for column in columns))]
    if ignored in ("any_value_is_missing", "either_value_is_missing"):
        return [sa.and_(*(column.is_not(None) for column in columns))]
    return []
