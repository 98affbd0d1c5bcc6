"""Validate a table or a query where the rows are: Great Expectations' SQL engine runs the suite in the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError, ValidationError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.prefetch import run_cancellable
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.validate import checkpoint
from airflow_mlops.stages.validate.database import Database
from airflow_mlops.stages.validate.failing_rows import quarantine
from airflow_mlops.stages.validate.implicit_conversions import checked_columns, require_same_kinds
from airflow_mlops.stages.validate.outcomes import also_failed, listed, log_not_critical, write_outcomes
from airflow_mlops.stages.validate.relation import Columns, Relation
from airflow_mlops.stages.validate.spec import ValidateResult, ValidateSpec
from airflow_mlops.stages.validate.sqlite_kinds import stored_kinds
from airflow_mlops.stages.validate.sqlite_times import require_comparable
from airflow_mlops.stages.validate.suites import load_suite
from airflow_mlops.stages.validate.times import time_bounded_column, with_bounds
from airflow_mlops.stages.validate.validation import Validation, about_rows

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationValidationResult

_ABOUT_TYPES = ("expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list")
_COUNTS = ("element_count", "unexpected_count", "missing_count")


def run(spec: ValidateSpec, context: StepContext) -> ValidateResult:
    """Validate the table or query with the suite, and handle failures as ``on_failure`` defines.

    :raises SpecError: the suite cannot be loaded; or the database rejects a query, for example because the table does
        not exist
    :raises SchemaError: the query returns two columns with the same name; the suite names a column, and another
        column has the same name in different letter case; an expectation compares a column of an SQLite database with
        a date or time, but the column has other values; or a compared column of an SQLite database has both text and
        numbers
    :raises SourceError: the database cannot be reached, or failed for a reason that may pass
    :raises ValidationError: an expectation could not be computed; a critical expectation failed, and ``on_failure`` is
        ``fail``; or ``on_failure`` is ``quarantine``, and a failed critical expectation concerns the whole table or every
        row failed
    """
    assert spec.conn_id is not None  # validated by the spec
    suite = load_suite(spec.suite)
    database = Database(context.connection(spec.conn_id))
    try:
        relation = Relation(spec, database)
        return run_cancellable(lambda: _validate(spec, context, suite, relation), database.cancel)
    finally:
        database.close()


def _validate(spec: ValidateSpec, context: StepContext, suite: ExpectationSuite, relation: Relation) -> ValidateResult:
    columns = _columns(relation)
    checkpoint.require_distinct(suite, columns.names)
    checkpoint.require_exact_names(suite, columns.names)
    validation = _run_suite(spec, context, suite, relation, columns)
    write_outcomes(context.store, context.key, validation.outcomes)
    log_not_critical(validation.outcomes)
    if validation.rows is not None:
        context.processed(validation.rows)
    failed = validation.failed
    if failed and spec.on_failure == "fail":
        raise ValidationError(
            f"{validation.headline}. Failed: {listed(failed)}.{also_failed(validation.outcomes)} See the Data Docs at "
            f"{validation.docs_url}."
        )
    if spec.on_failure == "quarantine":
        return quarantine(validation, context)
    if failed:
        context.warn(f"{validation.headline}. Failed: {listed(failed)}.")
    count = f"Validated {counted(validation.rows, 'row')}. " if validation.rows is not None else ""
    return ValidateResult(
        success=not failed,
        outcomes=list(validation.outcomes),
        docs_url=validation.docs_url,
        summary=f"{count}{validation.headline}{'; `on_failure` is warn, so the task continues' if failed else ''}."
        f"{also_failed(validation.outcomes)}",
    )


def _columns(relation: Relation) -> Columns:
    """Return the columns of the table or query. This also shows whether the database can be reached.

    :raises SpecError: the database rejects the query
    :raises SourceError: the database cannot be reached
    """
    with _database_errors(relation.database):
        return relation.describe()


@contextmanager
def _database_errors(database: Database) -> Iterator[None]:
    from sqlalchemy import exc

    try:
        yield
    except exc.SQLAlchemyError as error:
        raise database.error(error) from None


def _run_suite(
    spec: ValidateSpec, context: StepContext, suite: ExpectationSuite, relation: Relation, columns: Columns
) -> Validation:
    from airflow_mlops.stages.validate.sql_engine import RelationEngine

    typed = [one for one in suite.expectations if one.expectation_type in _ABOUT_TYPES]
    if typed and relation.table is None:
        raise SpecError(
            f"The suite {suite.name!r} has the expectation {typed[0].expectation_type}, but the types of the columns of a "
            "query are not known. Set `table` instead of `sql`, or remove the expectation."
        )
    compared = [name for one in suite.expectations if (name := time_bounded_column(one)) is not None]
    times = columns.time_bounds(compared)
    kinds = columns.kinds
    if relation.database.dialect == "sqlite":
        with _database_errors(relation.database), relation.database.connect() as connection:
            names = [name for name in dict.fromkeys(compared) if name in times]
            require_comparable(connection, relation.rows(), names)
            by_case = {name.casefold(): name for name in columns.names if kinds.get(name) != "times"}
            checked = [by_case[name.casefold()] for name in checked_columns(suite) if name.casefold() in by_case]
            kinds |= stored_kinds(connection, relation.rows(), checked)
    require_same_kinds(suite, kinds)
    suite = with_bounds(suite, times)
    engine = RelationEngine(relation, columns.names)
    with temporary_folder("validation") as site:
        # With more than a summary, Great Expectations returns the values of all rows that do not meet an expectation.
        session = checkpoint.Session(suite, spec.rows_name, site, engine.add_batch, "SUMMARY")
        try:
            identifier, found = session.run()
        except ValidationError:
            _require_no_failure(relation.database)
            raise
        if any(checkpoint.was_not_computed(result) for result in found.results):
            _require_no_failure(relation.database)
        for result in found.results:
            _correct(result)
        session.write_data_docs(identifier, found)
        identity = fingerprint([spec.conn_id, relation.sql])
        docs_url = checkpoint.publish_data_docs(site, context.store, spec.rows_name, identity)
    checkpoint.require_computed(found, suite.name)
    outcomes = [checkpoint.outcome(result, about_rows) for result in found.results]
    return Validation(spec, relation, columns, engine, found.results, outcomes, suite.name, docs_url)


def _require_no_failure(database: Database) -> None:
    """Check that no query failed. Great Expectations only says that an expectation could not be computed.

    :raises MLOpsError: a query failed
    """
    if database.failure is not None:
        raise database.error(database.failure)


def _correct(result: ExpectationValidationResult) -> None:
    """Correct the details of a result for the Data Docs."""
    details = result.result
    # Great Expectations counts only the values of the sample.
    details.pop("partial_unexpected_counts", None)
    for name in _COUNTS:
        # MySQL returns sums as decimals.
        if details.get(name) is not None:
            details[name] = int(details[name])
