"""Run a suite of expectations with Great Expectations, and publish the Data Docs (HTML pages with the results)."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SchemaError, SpecError, ValidationError, one_line
from airflow_mlops.core.isolation import without
from airflow_mlops.core.secrets import mask
from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.validate.aggregates import with_suitable_integers
from airflow_mlops.stages.validate.frequencies import count_all
from airflow_mlops.stages.validate.numbers_as_text import with_whole_numbers
from airflow_mlops.stages.validate.pages import index_page, self_contained
from airflow_mlops.stages.validate.rendering_errors import rendering_errors
from airflow_mlops.stages.validate.spec import ExpectationOutcome
from airflow_mlops.stages.validate.times import frame_of, with_time_bounds

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

log = logging.getLogger("airflow_mlops.stages")
# The message of pandas for the truth of a comparison with null, in columns of the types Int64 and UInt64.
_NULL_OF_PANDAS = "boolean value of NA is ambiguous"
_INDEX = "index.html"
# Expectations about the names of columns.
_ABOUT_NAMES = frozenset({
    "expect_column_to_exist", "expect_table_columns_to_match_ordered_list", "expect_table_columns_to_match_set",
})  # fmt: skip
_VIEW = {"module_name": "airflow_mlops.stages.validate.escaped", "class_name": "EscapedPageView"}
_TABLE = {"module_name": "airflow_mlops.stages.validate.severity_column", "class_name": "SeverityTable"}
_SECTION = {"class_name": "ValidationResultsColumnSectionRenderer", "table_renderer": _TABLE}
_RESULTS = {"class_name": "ValidationResultsPageRenderer", "column_section_renderer": _SECTION}


def quiet_great_expectations() -> None:
    """Import Great Expectations without its usage analytics, and disable the log messages that do not help users."""
    # Importing Great Expectations logs about a hundred lines on registered functions.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    # Data Docs leave a table cell empty if its renderer fails, and log the traceback.
    logging.getLogger("great_expectations.render").setLevel(logging.CRITICAL)
    # The error of a query becomes the error of the task.
    logging.getLogger("great_expectations.execution_engine").setLevel(logging.CRITICAL)
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # Great Expectations imports them if they are installed, for data sources and stores that are not used here.
    with without("azure", "pyspark"):
        importlib.import_module("great_expectations")


class Session:
    """A suite in a project of Great Expectations that exists only in memory, with Data Docs in a folder.

    :param suite: the suite
    :param name: name of the validated rows
    :param site: existing folder for the HTML pages of the Data Docs
    :param add_batch: function that adds the validated rows to the project under a name; by default the rows are passed
        as a DataFrame to :meth:`run` and :meth:`check`
    :param result_format: how much of the results Great Expectations returns
    """

    def __init__(
        self,
        suite: ExpectationSuite,
        name: str,
        site: Path,
        add_batch: Callable[[Any, str], Any] | None = None,
        result_format: str = "COMPLETE",
    ) -> None:
        import great_expectations as gx
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        _repair_quantiles()
        self._name, self._suite_name = name, suite.name
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        config = {
            "class_name": "SiteBuilder",
            "store_backend": store,
            "site_index_builder": index,
            "site_section_builders": {
                "expectations": {"view": _VIEW},
                "validations": {"renderer": _RESULTS, "view": _VIEW},
            },
        }
        # Great Expectations converts its configuration to YAML after each change, so it is complete from the start.
        project = DataContextConfig(
            data_docs_sites={"docs": config},
            progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
            store_backend_defaults=InMemoryStoreBackendDefaults(),
        )
        self._context = gx.get_context(project_config=project, mode="ephemeral")
        self._batch = (add_batch or _add_dataframe)(self._context, name)
        self._format = {"result_format": result_format}
        self._suite = self._context.suites.add(suite)

    def run(self, frame: pd.DataFrame | None = None) -> tuple[Any, ExpectationSuiteValidationResult]:
        """Validate rows with the suite, and store the results under an identifier.

        :param frame: the rows, if they are a DataFrame
        :return: the identifier and the results
        :raises ValidationError: Great Expectations cannot run the suite
        """
        import great_expectations as gx

        definition = gx.ValidationDefinition(name=self._name, data=self._batch, suite=self._suite)
        self._context.validation_definitions.add(definition)
        checkpoint = gx.Checkpoint(name=self._name, validation_definitions=[definition], result_format=self._format)
        parameters = None if frame is None else {"dataframe": frame}
        with self._translated():
            done = self._context.checkpoints.add(checkpoint).run(batch_parameters=parameters)
        return next(iter(done.run_results.items()))

    def check(self, expectations: Sequence[Expectation], frame: pd.DataFrame) -> list[ExpectationValidationResult]:
        """Validate rows with some expectations. The results are not stored.

        :raises ValidationError: Great Expectations cannot run the expectations
        """
        import great_expectations as gx

        suite = gx.ExpectationSuite(name=self._suite_name, expectations=[*map(_copy_of, expectations)])
        # The query would be a text with the number of each unexpected row.
        result_format = {**self._format, "return_unexpected_index_query": False}
        with self._translated(), _without_fingerprints():
            found = self._batch.get_batch({"dataframe": frame}).validate(suite, result_format=result_format)
        return list(found.results)

    def write_data_docs(self, identifier: Any, results: ExpectationSuiteValidationResult) -> None:
        """Write the Data Docs. If a page cannot be written, a warning is logged, and the other pages are written.

        :param identifier: identifier from :meth:`run`
        :param results: results for the pages
        """
        from great_expectations.core.id_dict import BatchSpec

        # Data Docs show this name as the name of the data. Great Expectations does not set it for DataFrames.
        batch_spec = results.meta.get("batch_spec") or {}
        results.meta["batch_spec"] = BatchSpec({**batch_spec, "data_asset_name": self._name})
        # The pages do not need the lists of rows. With them, Great Expectations would show values only from a list of
        # all values, and would count that list.
        shown = copy(results)
        shown.results = [_without_rows(result) for result in results.results]
        self._context.validation_results_store.set(identifier, shown)
        # The index page is replaced by one of our own.
        with rendering_errors() as errors:
            self._context.build_data_docs(build_index=False)
        for error in errors:
            log.warning(
                "%s",
                mask(
                    f"A page of the Data Docs of {self._name!r} is missing, because Great Expectations could not write it: "
                    f"{one_line(error)}. The outcomes of the validation are complete."
                ),
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise ValidationError(
                f"Suite {self._suite_name!r} could not be run on {self._name!r}: {one_line(error)}. Correct the suite."
            ) from error


@contextmanager
def _without_fingerprints() -> Iterator[None]:
    """Validate DataFrames without their fingerprint, for which Great Expectations hashes all values twice."""
    from great_expectations.execution_engine import pandas_execution_engine

    largest = pandas_execution_engine.HASH_THRESHOLD
    pandas_execution_engine.HASH_THRESHOLD = 0
    try:
        yield
    finally:
        pandas_execution_engine.HASH_THRESHOLD = largest


def _copy_of(expectation: Expectation) -> Expectation:
    """Copy an expectation without its suite, whose expectations Great Expectations would all copy, too."""
    alone = expectation.copy()
    alone._save_callback = None
    return copy(alone)


def _without_rows(result: ExpectationValidationResult) -> ExpectationValidationResult:
    shown = copy(result)
    shown.result = {key: value for key, value in result.result.items() if key != "unexpected_index_list"}
    return shown


def _add_dataframe(context: Any, name: str) -> Any:
    asset = context.data_sources.add_pandas("datasets").add_dataframe_asset(name)
    return asset.add_batch_definition_whole_dataframe("all")


def run_suite(suite: ExpectationSuite, table: pa.Table, name: str, site: Path) -> ExpectationSuiteValidationResult:
    """Validate ``table`` with ``suite``, write the Data Docs to the folder ``site``, and return the results.

    :param table: rows of the dataset
    :param name: name of the dataset
    :param site: existing folder for the HTML pages of the Data Docs
    :raises ValidationError: Great Expectations cannot run the suite
    :raises SpecError: the bounds of an expectation do not fit a column of dates or times
    """
    suite = with_time_bounds(suite, table)
    session = Session(suite, name, site)
    facts = {name: ColumnFacts().with_values(table[name]) for name in table.column_names}
    frame = frame_of(table, with_whole_numbers(facts, suite))
    identifier, found = session.run(frame)
    # The session has given the expectations their ids.
    for expectation in suite.expectations:
        if (exact := with_suitable_integers(expectation, frame)) is not frame:
            (corrected,) = session.check([expectation], exact)
            if was_not_computed(corrected):
                # Pandas cannot evaluate a condition that computes with Python integers. The first result is kept.
                continue
            found.results = [corrected if _id(result) == expectation.id else result for result in found.results]
    count_passed(found)
    for result in found.results:
        count_all(result, frame)
    session.write_data_docs(identifier, found)
    return found


def _id(result: ExpectationValidationResult) -> str | None:
    config = result.expectation_config
    assert config is not None
    return config.id


def count_passed(found: ExpectationSuiteValidationResult) -> None:
    """Correct the numbers of passed and failed expectations, after results were replaced."""
    count = len(found.results)
    passed = sum(bool(result.success) for result in found.results)
    found.success = passed == count
    found.statistics |= {
        "successful_expectations": passed,
        "unsuccessful_expectations": count - passed,
        "success_percent": passed / count * 100 if count else None,
    }


def _repair_quantiles() -> None:
    """Repair two defects of the expectation about quantiles in Great Expectations 1.24.

    If a suite has several such expectations about a column, all get the quantiles of the first one, because the id of
    the metric does not depend on the quantiles. Results contain NumPy booleans, which cannot be written as JSON.
    """
    from great_expectations.expectations.core.expect_column_quantile_values_to_be_between import (
        ExpectColumnQuantileValuesToBeBetween as Quantiles,
    )
    from great_expectations.validator.metric_configuration import MetricConfiguration

    original, depend = Quantiles._validate, Quantiles.get_validation_dependencies
    if getattr(original, "is_repaired", False):
        return

    @functools.wraps(depend)
    def dependencies(*args: Any, **kwargs: Any) -> Any:
        found = depend(*args, **kwargs)
        given = found.metric_configurations["column.quantile_values"]
        # The id is computed when a configuration is created. Here, the quantiles are among its arguments.
        complete = MetricConfiguration(given.metric_name, given.metric_domain_kwargs, given.metric_value_kwargs)
        found.set_metric_configuration(given.metric_name, complete)
        return found

    @functools.wraps(original)
    def validate(*args: Any, **kwargs: Any) -> dict[str, Any]:
        found = original(*args, **kwargs)
        details = found["result"]["details"]
        details["success_details"] = [bool(item) for item in details["success_details"]]
        return {**found, "success": bool(found["success"])}

    validate.is_repaired = True  # type: ignore[attr-defined]
    Quantiles._validate = validate  # type: ignore[method-assign]
    Quantiles.get_validation_dependencies = dependencies  # type: ignore[method-assign]


def publish_data_docs(site: Path, store: ArtifactStore, name: str, identity: str) -> str:
    """Copy the Data Docs from ``site`` to the artifact store, and return the URL of the page with the results.

    If this page could not be written, the URL of the index page is returned, which says so.

    The copied pages need no internet access (:mod:`airflow_mlops.stages.validate.pages`).

    :param site: folder with the HTML pages
    :param name: name of the validated rows
    :param identity: identity of the validated rows. Rows with the same identity share a folder, with one page per
        validation
    """
    folder = f"docs/{name}/{identity[:16]}"
    results, suites = "", ""
    for file in sorted(site.rglob("*.html")):
        key = file.relative_to(site).as_posix()
        results = key if key.startswith("validations/") else results
        suites = key if key.startswith("expectations/") else suites
        store.write_bytes(f"{folder}/{key}", self_contained(file.read_text("utf-8")).encode())
    links = [("Validation results", results), ("Expectations of the suite", suites)]
    note = (
        ""
        if results
        else "The page with the validation results could not be written. The log of the task has the reason."
    )
    index = index_page(f"Data Docs of {name}", [(text, key) for text, key in links if key], note)
    store.write_bytes(f"{folder}/{_INDEX}", index.encode())
    return store.url_of(f"{folder}/{results or _INDEX}")


def require_distinct(suite: ExpectationSuite, names: Iterable[str]) -> None:
    """Check that Great Expectations, which ignores the letter case of names, reads the columns that the suite names.

    :param names: names of the columns; a name may occur several times
    :raises SchemaError: the suite names a column, and another column has the same name in different letter case
    """
    by_case: dict[str, list[str]] = {}
    for column in dict.fromkeys(names):
        by_case.setdefault(column.casefold(), []).append(column)
    for column in (
        found
        for expectation in suite.expectations
        # This expectation compares names exactly.
        if expectation.configuration.type != "expect_column_to_exist"
        for found in columns(expectation.configuration.kwargs)
    ):
        if len(same := by_case.get(column.casefold(), [])) > 1:
            raise SchemaError(
                f"The suite {suite.name!r} names column {column!r}, but the columns {' and '.join(map(repr, same))} differ only by letter "
                "case. Great Expectations ignores the case and could check the wrong column. Rename one of them in the source, or "
                "remove the expectation."
            )


def require_exact_names(suite: ExpectationSuite, names: Sequence[str]) -> None:
    """Check that expectations about the names of columns write the names as the database does.

    Great Expectations ignores the letter case of these names in some databases and compares it in others.

    :param names: names of the columns
    :raises SpecError: such an expectation names a column in different letter case
    """
    by_case = {name.casefold(): name for name in names}
    for expectation in suite.expectations:
        kwargs = expectation.configuration.kwargs
        listed_names = [kwargs.get("column"), *(kwargs.get("column_list") or ()), *(kwargs.get("column_set") or ())]
        for column in listed_names if expectation.configuration.type in _ABOUT_NAMES else ():
            actual = by_case.get(column.casefold()) if isinstance(column, str) and column not in names else None
            if actual is not None:
                raise SpecError(
                    f"The expectation {expectation.configuration.type} of suite {suite.name!r} names column {column!r}, but the "
                    f"name of the column is {actual!r}. Correct the letter case."
                )


def require_computed(found: ExpectationSuiteValidationResult, suite: str) -> None:
    """Check that Great Expectations computed every expectation.

    :param found: results of the suite
    :param suite: name of the suite, for the error message
    :raises ValidationError: an expectation raised an exception
    """
    for result in found.results:
        message = exception_message(result)
        if message:
            raise ValidationError(
                f"The expectation {title(result)} of suite {suite!r} could not be computed: {message.rstrip('.')}. {_remedy(message)}"
            )


def _remedy(message: str) -> str:
    if _NULL_OF_PANDAS in message:
        return (
            "A column has nulls and integers beyond 2^53, which pandas does not compare with numbers. Set ignore_row_if of the "
            "expectation to either_value_is_missing, or to any_value_is_missing for more than two columns."
        )
    return "Correct the suite, or the data if a column is absent."


def was_not_computed(result: ExpectationValidationResult) -> bool:
    """Return whether Great Expectations could not compute an expectation."""
    return bool(exception_message(result))


def outcome(
    result: ExpectationValidationResult, about_rows: Callable[[ExpectationValidationResult], bool] | None = None
) -> ExpectationOutcome:
    """Return the outcome of one expectation: whether it passed, its severity, and the number of rows that do not meet it.

    The number is ``None`` if the expectation concerns the whole table.

    :param about_rows: function that returns whether the expectation concerns rows; by default it does if the result
        lists rows
    """
    about_rows = about_rows or _lists_rows
    config = result.expectation_config
    assert config is not None
    return ExpectationOutcome(
        expectation=title(result),
        success=bool(result.success),
        unexpected=int(result.result.get("unexpected_count") or 0) if about_rows(result) else None,
        severity=config.severity.value,
    )


def _lists_rows(result: ExpectationValidationResult) -> bool:
    return "unexpected_index_list" in result.result


def columns(kwargs: Mapping[str, Any]) -> list[str]:
    """Return the columns that the arguments of an expectation name."""
    single = [kwargs[key] for key in ("column", "column_A", "column_B") if isinstance(kwargs.get(key), str)]
    several = [name for name in kwargs.get("column_list") or () if isinstance(name, str)]
    return [*single, *several]


def title(result: ExpectationValidationResult) -> str:
    """Return the type and columns of an expectation, such as ``expect_column_values_to_not_be_null(carrier)``."""
    config = result.expectation_config
    assert config is not None
    return title_of(config.type, config.kwargs)


def title_of(kind: str, kwargs: Mapping[str, Any]) -> str:
    """Return the type and columns of an expectation, in the format of :func:`title`.

    :param kind: type of the expectation
    :param kwargs: arguments of the expectation
    """
    columns = [
        str(kwargs[key]) for key in ("column", "column_A", "column_B", "column_list", "column_set") if key in kwargs
    ]
    return f"{kind}({', '.join(columns)})"


def exception_message(result: ExpectationValidationResult) -> str:
    """Return the message of the exception if Great Expectations could not compute an expectation; otherwise ``""``."""
    info = result.exception_info or {}
    # GX returns either one dict with the exception, or one such dict per metric that failed.
    entries = [info] if "raised_exception" in info else [entry for entry in info.values() if isinstance(entry, dict)]
    messages = [entry.get("exception_message") or "unknown error" for entry in entries if entry.get("raised_exception")]
    return " ".join(str(messages[0]).split()) if messages else ""
