"""Runs a Great Expectations suite on a dataset, sets failing rows apart, and publishes Data Docs."""

from __future__ import annotations

import importlib
import json
import logging
import os
import tempfile
from collections import Counter
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SpecError, ValidationError, one_line
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import Dataset, DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.validate.spec import ExpectationOutcome, ValidateResult, ValidateSpec

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

FAILED = "failed_expectations"
# Animations of Great Expectations' tutorial: 4 MB that no page of results needs.
_LEFT_OUT = (".gif",)


def run(spec: ValidateSpec, context: StepContext) -> ValidateResult:
    """Validate, and do with the failures as ``on_failure`` says.

    :raises SpecError: the suite cannot be read, or names an expectation that does not exist
    :raises ValidationError: an expectation could not be computed, or was not met and that may not pass
    """
    _quiet()
    dataset = open_dataset(context.store, spec.dataset)
    suite = load_suite(spec.suite)
    table = dataset.table()
    with tempfile.TemporaryDirectory() as site:
        found = _validate(suite, table, dataset.manifest.name, Path(site))
        docs_url = _publish(Path(site), context.store, dataset)
    _refuse_errors(found, suite.name)
    outcomes = [_outcome(result) for result in found.results]
    context.store.write_json(_outcomes_key(context.key), [outcome.model_dump() for outcome in outcomes])
    failed = [outcome for outcome in outcomes if not outcome.success]
    met = f"{len(outcomes) - len(failed)} of {len(outcomes)} expectations of suite {suite.name!r} are met"
    where = f"{dataset.manifest.name}{f' {spec.dataset.window.label}' if spec.dataset.window else ''}"
    if failed and spec.on_failure == "fail":
        raise ValidationError(f"{where}: {met}; not met: {_listed(failed)}. See the Data Docs at {docs_url}.")
    if spec.on_failure == "quarantine":
        return _quarantine(spec, context, dataset, table, found, outcomes, docs_url, f"{where}: {met}")
    if failed:
        context.progress(f"{where}: not met: {_listed(failed)}.")
    return ValidateResult(
        dataset=dataset.ref,
        success=not failed,
        outcomes=outcomes,
        docs_url=docs_url,
        summary=f"Validated {table.num_rows:,} rows of {where}: {met}{'; the failures are only a warning' if failed else ''}.",
    )


def read_outcomes(store: ArtifactStore, key: str) -> list[ExpectationOutcome]:
    """What the validation whose result has the key ``key`` found, also where it failed and has no result."""
    try:
        return [ExpectationOutcome.model_validate(found) for found in store.read_json(_outcomes_key(key))]
    except FileNotFoundError:
        return []


def _outcomes_key(key: str) -> str:
    return f"checkpoints/{key.removesuffix('.json')}/outcomes.json"


def _quiet() -> None:
    # A hundred lines about registering functions, at import, would bury what the task has to say.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    # Data Docs leave a cell out where their renderer fails, and log its traceback.
    logging.getLogger("great_expectations.render").setLevel(logging.CRITICAL)
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")


def load_suite(given: str | dict[str, Any]) -> ExpectationSuite:
    """The suite that ``given`` means: a JSON file, a dict, or a function that makes it.

    :raises SpecError: it cannot be had
    """
    from great_expectations import ExpectationSuite

    if isinstance(given, dict):
        return _from_dict(given, "The suite")
    if given.endswith(".json"):
        return _from_dict(_read_json(given), f"The suite {given}")
    module, _, name = given.partition(":")
    if not name:
        raise SpecError(
            f"suite={given!r} is neither a .json file nor an import path: write it as package.module:function."
        )
    try:
        suite = getattr(importlib.import_module(module), name)()
    except Exception as error:
        raise SpecError(f"The suite {given!r} cannot be made: {one_line(error)}.") from error
    if not isinstance(suite, ExpectationSuite):
        raise SpecError(f"{given!r} returned {type(suite).__name__}: return a great_expectations.ExpectationSuite.")
    return _unowned(suite.name, suite.expectations, suite.meta, suite.notes)


def _read_json(path: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"The suite {path} cannot be read where the step runs: {error.strerror}.") from None
    except ValueError as error:
        raise SpecError(f"The suite {path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise SpecError(f"The suite {path} holds a {type(content).__name__}, not an object with name and expectations.")
    return content


def _from_dict(content: dict[str, Any], what: str) -> ExpectationSuite:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    if not content.get("expectations"):
        raise SpecError(f"{what} has no expectations: there is nothing to validate.")
    try:
        # One by one: given all at once, a suite leaves out what it does not understand and only logs that.
        expectations = [ExpectationConfiguration(**given).to_domain_obj() for given in content["expectations"]]
        return _unowned(content.get("name") or "suite", expectations, content.get("meta"), content.get("notes"))
    except Exception as error:
        raise SpecError(f"{what} is not a suite of Great Expectations: {one_line(error)}.") from error


def _unowned(name: str, expectations: list[Any], meta: dict[str, Any] | None, notes: Any) -> ExpectationSuite:
    """A suite of copies. What Great Expectations stored has ids, and is taken to be another suite's."""
    from great_expectations import ExpectationSuite

    return ExpectationSuite(name=name, expectations=[copy(one) for one in expectations], meta=meta, notes=notes)


def _validate(suite: ExpectationSuite, table: pa.Table, name: str, site: Path) -> ExpectationSuiteValidationResult:
    """Run the suite and build the Data Docs of this one validation in ``site``."""
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig

    gx_context = gx.get_context(mode="ephemeral")
    gx_context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    for known in list(gx_context.get_site_names()):
        gx_context.delete_data_docs_site(known)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    gx_context.add_data_docs_site(
        "docs", {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}
    )
    asset = gx_context.data_sources.add_pandas("datasets").add_dataframe_asset(name)
    definition = gx.ValidationDefinition(
        name=name, data=asset.add_batch_definition_whole_dataframe("all"), suite=gx_context.suites.add(suite)
    )
    gx_context.validation_definitions.add(definition)
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[definition],
        actions=[UpdateDataDocsAction(name="docs")],
        result_format={"result_format": "COMPLETE"},
    )
    try:
        done = gx_context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table.to_pandas()})
    except Exception as error:
        raise ValidationError(f"Suite {suite.name!r} could not be run on dataset {name}: {one_line(error)}.") from error
    return next(iter(done.run_results.values()))


def _publish(site: Path, store: ArtifactStore, dataset: Dataset) -> str:
    """Copy the Data Docs into the artifact store; return the URL of the page with the results."""
    # Named by what was validated: one folder a dataset, in it a page for each time that it was validated.
    folder = f"docs/{dataset.manifest.name}/{dataset.manifest.id[:16]}"
    page = ""
    for file in sorted(path for path in site.rglob("*") if path.is_file() and path.suffix not in _LEFT_OUT):
        parts = file.relative_to(site).parts
        if parts[0] == "validations" and file.suffix == ".html":
            page = f"{folder}/{'/'.join(parts)}"
        store.write_bytes(f"{folder}/{'/'.join(parts)}", file.read_bytes())
    return store.url_of(page or f"{folder}/index.html")


def _refuse_errors(found: ExpectationSuiteValidationResult, suite: str) -> None:
    """:raises ValidationError: an expectation raised instead of answering"""
    for result in found.results:
        message = _exception(result)
        if message:
            raise ValidationError(
                f"{_title(result)} of suite {suite!r} could not be computed: {message.rstrip('.')}. "
                "Mend the suite, or the data if a column is gone."
            )


def _exception(result: ExpectationValidationResult) -> str:
    info = result.exception_info or {}
    # One such dict, or one for each metric that failed.
    entries = [info] if "raised_exception" in info else [entry for entry in info.values() if isinstance(entry, dict)]
    messages = [entry.get("exception_message") or "unknown error" for entry in entries if entry.get("raised_exception")]
    return " ".join(str(messages[0]).split()) if messages else ""


def _title(result: ExpectationValidationResult) -> str:
    config = result.expectation_config
    assert config is not None
    kwargs = config.kwargs
    about = [
        str(kwargs[key]) for key in ("column", "column_A", "column_B", "column_list", "column_set") if key in kwargs
    ]
    return f"{config.type}({', '.join(about)})"


def _outcome(result: ExpectationValidationResult) -> ExpectationOutcome:
    rows = "unexpected_index_list" in result.result
    return ExpectationOutcome(
        expectation=_title(result),
        success=bool(result.success),
        unexpected=int(result.result.get("unexpected_count") or 0) if rows else None,
    )


def _listed(failed: list[ExpectationOutcome]) -> str:
    return ", ".join(
        f"{item.expectation}{f' in {item.unexpected:,} rows' if item.unexpected is not None else ''}" for item in failed
    )


def _quarantine(
    spec: ValidateSpec,
    context: StepContext,
    dataset: Dataset,
    table: pa.Table,
    found: ExpectationSuiteValidationResult,
    outcomes: list[ExpectationOutcome],
    docs_url: str,
    told: str,
) -> ValidateResult:
    """Write the rows that failed, and those that did not, as two datasets."""
    failed = [outcome for outcome in outcomes if not outcome.success]
    if whole := [outcome for outcome in failed if outcome.unexpected is None]:
        raise ValidationError(
            f"{told}; {_listed(whole)} is about the whole table, so no rows can be set apart. See {docs_url}."
        )
    reasons: dict[int, list[str]] = {}
    for result in found.results:
        # A success may have unexpected rows too, as many as `mostly` allows: those stay.
        if not result.success:
            for row in result.result["unexpected_index_list"] or []:
                reasons.setdefault(int(row), []).append(_title(result))
    if len(reasons) == table.num_rows:
        raise ValidationError(f"{told}; every row failed, so nothing is left to go on with. See {docs_url}.")
    mask = pa.array([row in reasons for row in range(table.num_rows)], pa.bool_())
    bad = table.filter(mask)
    why = pa.array(["; ".join(reasons[row]) for row in sorted(reasons)], pa.string())
    counts = Counter(title for titles in reasons.values() for title in titles)
    details = {"suite": found.suite_name, "unexpected": dict(sorted(counts.items()))}
    good = table.filter(pc.invert(mask))
    kept = _write(spec, context, dataset, f"{dataset.manifest.name}_valid", good, details)
    name = f"{dataset.manifest.name}_quarantine"
    quarantined = _write(spec, context, dataset, name, bad.append_column(FAILED, why), details)
    return ValidateResult(
        dataset=kept,
        success=not failed,
        quarantined=quarantined,
        outcomes=outcomes,
        docs_url=docs_url,
        summary=f"{told}; kept {kept.rows:,} rows in {kept.name}, quarantined {quarantined.rows:,}"
        f"{f' ({_listed(failed)})' if failed else ''}.",
    )


def _write(
    spec: ValidateSpec, context: StepContext, dataset: Dataset, name: str, table: pa.Table, details: dict[str, Any]
) -> DatasetRef:
    manifest = dataset.manifest
    with DatasetWriter(context.store, name) as writer:
        writer.write(table)
        written, _ = writer.commit(
            window=manifest.window,
            owner=manifest.owner or spec.owner,
            description=manifest.description,
            source={"kind": "validation", "dataset": manifest.name},
            parents=[dataset.ref],
            details=details,
            provenance=context.provenance,
        )
    return written.ref
