"""Validates a dataset with Great Expectations.

If an expectation fails, the step fails the task, logs the failure, or quarantines the failing rows.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError, ValidationError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import Dataset, DatasetWriter
from airflow_mlops.data.quarantine import FAILED_EXPECTATIONS, quarantine_name, valid_name
from airflow_mlops.data.selection import coverage, select, window_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.types import concatenated
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.validate import checkpoint
from airflow_mlops.stages.validate.spec import ExpectationOutcome, ValidateResult, ValidateSpec
from airflow_mlops.stages.validate.suites import load_suite

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult


def run(spec: ValidateSpec, context: StepContext) -> ValidateResult:
    """Validate the dataset with the suite, publish the Data Docs, and handle failures as ``on_failure`` defines.

    :raises SpecError: the suite cannot be loaded, or contains an unknown expectation; the datasets have different names;
        or only some rows of a dataset are selected, and ``on_failure`` is not ``quarantine``
    :raises SchemaError: the windows of the dataset have columns of different types
    :raises ValidationError: an expectation could not be computed; an expectation failed, and ``on_failure`` is
        ``fail``; or ``on_failure`` is ``quarantine``, and a failed expectation concerns the whole table or every row
        failed
    """
    context = context.for_call()
    checkpoint.quiet_great_expectations()
    datasets = select(context.store, spec.dataset, kept=context.kept)
    _check(datasets, spec)
    suite, name = load_suite(spec.suite), datasets[0].manifest.name
    table = concatenated(
        [dataset.table() for dataset in datasets],
        f"The windows of dataset {name!r}",
        "Ingest the windows again with equal types.",
    )
    with tempfile.TemporaryDirectory() as site:
        found = checkpoint.run_suite(suite, table, name, Path(site))
        docs_url = checkpoint.publish_data_docs(Path(site), context.store, datasets)
    checkpoint.require_computed(found, suite.name)
    outcomes = [checkpoint.outcome(result) for result in found.results]
    context.store.write_json(_outcomes_key(context.key), [outcome.model_dump() for outcome in outcomes])
    validation = _Validation(spec, datasets, table, found, outcomes, docs_url)
    failed = validation.failed
    if failed and spec.on_failure == "fail":
        raise ValidationError(f"{validation.headline}. Failed: {_listed(failed)}. See the Data Docs at {docs_url}.")
    if spec.on_failure == "quarantine":
        return _quarantine(validation, context)
    if failed:
        context.progress(f"{validation.headline}. Failed: {_listed(failed)}.")
    return ValidateResult(
        dataset=datasets[0].ref if len(datasets) == 1 else [dataset.ref for dataset in datasets],
        success=not failed,
        outcomes=outcomes,
        docs_url=docs_url,
        summary=f"Validated {counted(table.num_rows, 'row')}. {validation.headline}"
        f"{'; on_failure is warn, so the task continues' if failed else ''}.",
    )


def _check(datasets: Sequence[Dataset], spec: ValidateSpec) -> None:
    """Check that the datasets can be validated as one table.

    :raises SpecError: the datasets have different names; or only some rows of a dataset are selected, and downstream
        tasks would read all of its rows
    """
    if len(names := sorted({dataset.manifest.name for dataset in datasets})) > 1:
        raise SpecError(
            f"The datasets {', '.join(names)} are given to one validation, but only datasets with the same name are validated "
            "together. Use one task for each name."
        )
    parts = [dataset for dataset in datasets if dataset.window != dataset.manifest.window]
    if parts and spec.on_failure != "quarantine":
        window = parts[0].manifest.window
        raise SpecError(
            f"The selected window contains only a part of dataset {names[0]!r}{f' {window.label}' if window else ''}, but "
            f"tasks after this one would read the whole dataset. Select whole windows, or set on_failure='quarantine', "
            f"which writes the validated rows to {names[0]}_valid."
        )


def read_outcomes(store: ArtifactStore, key: str) -> list[ExpectationOutcome]:
    """Read the results of all expectations of a validation, also of a validation that failed.

    :param key: key of the validation's result in the artifact store
    :return: the results; empty if the validation stored no results
    """
    try:
        return [ExpectationOutcome.model_validate(found) for found in store.read_json(_outcomes_key(key))]
    except FileNotFoundError:
        return []


def _outcomes_key(key: str) -> str:
    return f"checkpoints/{key.removesuffix('.json')}/outcomes.json"


@dataclass(frozen=True)
class _Validation:
    """Validated datasets with one name, and the results of all expectations of the suite."""

    spec: ValidateSpec
    datasets: Sequence[Dataset]
    table: pa.Table
    found: ExpectationSuiteValidationResult
    outcomes: list[ExpectationOutcome]
    docs_url: str

    @property
    def name(self) -> str:
        """Return the name of the datasets."""
        return self.datasets[0].manifest.name

    @property
    def failed(self) -> list[ExpectationOutcome]:
        """Return the expectations that failed."""
        return [outcome for outcome in self.outcomes if not outcome.success]

    @property
    def headline(self) -> str:
        """Return how many expectations passed, such as ``flights 2013-04: 6 of 7 expectations of suite 'x' passed``."""
        window = window_of(self.datasets)
        name = f"{self.name} {window.label}" if window else self.name
        passed = f"{len(self.outcomes) - len(self.failed)} of {len(self.outcomes)}"
        return f"{name}: {passed} expectations of suite {self.found.suite_name!r} passed"

    def reasons(self) -> dict[int, list[str]]:
        """Return for each failing row, by its number from 0, the expectations that the row does not meet."""
        reasons: dict[int, list[str]] = {}
        for result in self.found.results:
            # An expectation with `mostly` may pass although some rows do not meet it. Such rows are not quarantined.
            if not result.success:
                for row in result.result["unexpected_index_list"] or []:
                    reasons.setdefault(int(row), []).append(checkpoint.title(result))
        return reasons


def _listed(failed: list[ExpectationOutcome]) -> str:
    return ", ".join(map(_with_count, failed))


def _with_count(outcome: ExpectationOutcome) -> str:
    if outcome.unexpected is None:
        return outcome.expectation
    return f"{outcome.expectation} in {counted(outcome.unexpected, 'row')}"


def _quarantine(validation: _Validation, context: StepContext) -> ValidateResult:
    """Write the rows that meet all expectations as one dataset, and the failing rows as a second dataset.

    :raises ValidationError: a failed expectation concerns the whole table, or every row failed
    """
    if about_table := [outcome for outcome in validation.failed if outcome.unexpected is None]:
        raise ValidationError(
            f"{validation.headline}. The failed expectation {_listed(about_table)} concerns the whole table, so there "
            f"are no failing rows to quarantine. See the Data Docs at {validation.docs_url}."
        )
    table, reasons = validation.table, validation.reasons()
    if len(reasons) == table.num_rows:
        raise ValidationError(
            f"{validation.headline}. Every row failed, so no valid rows are left. See the Data Docs at "
            f"{validation.docs_url}."
        )
    failing = pa.array([row in reasons for row in range(table.num_rows)], pa.bool_())
    texts = pa.array(["; ".join(reasons[row]) for row in sorted(reasons)], pa.string())
    counts = Counter(title for titles in reasons.values() for title in titles)
    details = {"suite": validation.found.suite_name, "unexpected": dict(sorted(counts.items()))}
    name = validation.name
    valid = _write(validation, context, valid_name(name), table.filter(pc.invert(failing)), details)
    bad = table.filter(failing).append_column(FAILED_EXPECTATIONS, texts)
    quarantined = _write(validation, context, quarantine_name(name), bad, details)
    return ValidateResult(
        dataset=valid,
        success=not validation.failed,
        quarantined=quarantined,
        outcomes=validation.outcomes,
        docs_url=validation.docs_url,
        summary=f"{validation.headline}. Wrote {counted(valid.rows, 'row')} to {valid.name} and quarantined {counted(quarantined.rows, 'row')}"
        f"{f': {_listed(validation.failed)}' if validation.failed else ''}.",
    )


def _write(
    validation: _Validation, context: StepContext, name: str, table: pa.Table, details: dict[str, Any]
) -> DatasetRef:
    manifest = validation.datasets[-1].manifest
    columns = {dataset.time_column for dataset in validation.datasets}
    with DatasetWriter(context.store, name) as writer:
        writer.write(table)
        written, _ = writer.commit(
            window=window_of(validation.datasets),
            owner=manifest.owner or validation.spec.owner,
            description=manifest.description,
            source={"kind": "validation", "dataset": manifest.name},
            parents=[dataset.ref for dataset in validation.datasets],
            details={**details, **coverage(validation.datasets)},
            provenance=context.provenance,
            time_column=columns.pop() if len(columns) == 1 else None,
        )
    return written.ref
