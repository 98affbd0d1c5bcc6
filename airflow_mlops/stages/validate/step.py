"""Validate a dataset with Great Expectations.

If an expectation fails, the step fails the task, logs the failure, or quarantines the failing rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError, ValidationError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.datasets import Dataset, DatasetWriter, Manifest, make_current
from airflow_mlops.data.quarantine import quarantine_name, valid_name
from airflow_mlops.data.selection import coverage, quarantined_rows, select, window_of
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.shards import for_newer_round
from airflow_mlops.stages.validate import checkpoint, in_database, shards
from airflow_mlops.stages.validate.batches import run_in_batches, unexpected_rows
from airflow_mlops.stages.validate.divided import DividedRows
from airflow_mlops.stages.validate.outcomes import also_failed, critical, listed, log_not_critical, write_outcomes
from airflow_mlops.stages.validate.row_numbers import RowNumbers
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.spec import ExpectationOutcome, ValidateResult, ValidateSpec
from airflow_mlops.stages.validate.splitting import complete, count_failing, failing_for, split
from airflow_mlops.stages.validate.spread import SpreadRows
from airflow_mlops.stages.validate.suites import load_suite

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult
    from numpy.typing import NDArray


def run(spec: ValidateSpec, context: StepContext) -> ValidateResult:
    """Validate the dataset with the suite, publish the Data Docs, and handle failures as ``on_failure`` defines.

    If the spec names a database, the database validates its table or query, see
    :func:`airflow_mlops.stages.validate.in_database.run`.

    With ``shards``, check the rows of one shard. The task that checks the last missing shard completes the validation,
    with the results and the datasets of a single pass. All other tasks return a result without a dataset and without
    outcomes. See :mod:`airflow_mlops.stages.validate.shards`.

    If there are executors, ``shards`` is not set, and the rows do not fit into memory at once, the executors check and
    write the rows. The results are the same, see :mod:`airflow_mlops.stages.validate.spread`.

    :raises SpecError: the suite cannot be loaded, or contains an unknown expectation; the datasets have different
        names; or only some rows of a dataset are selected, and ``on_failure`` is not ``quarantine``
    :raises SchemaError: the windows of the dataset have columns of different types, or the suite names a column, and
        another column has the same name in different letter case
    :raises ValidationError: an expectation could not be computed; a critical expectation failed, and ``on_failure`` is
        ``fail``; or ``on_failure`` is ``quarantine``, and a failed critical expectation concerns the whole table or every
        row failed
    :raises DatasetCorruptError: files that an executor or another shard has written were deleted or changed
    """
    context = context.for_call()
    checkpoint.quiet_great_expectations()
    if spec.dataset is None:
        return in_database.run(spec, context)
    shard = shards.join(spec, context) if spec.shards is not None else None
    datasets = select(context.store, spec.dataset, kept=shard.kept if shard else context.kept)
    _check(datasets, spec)
    suite = load_suite(spec.suite)
    checkpoint.require_distinct(suite, (name for dataset in datasets for name in dataset.manifest.column_names))
    rows = Rows(datasets)
    if shard is None:
        context.processed(rows.count)
        spread = SpreadRows(rows, context) if context.executors is not None and not rows.fits else None
        return _validate(spec, context, suite, rows, spread)
    piece = shards.check(shard, rows, suite, write=spec.on_failure == "quarantine")
    if not shard.is_newest:
        context.progress(
            "Another shard was cleared, so all shards select the datasets again. This shard is checked again."
        )
        return run(for_newer_round(spec), context)
    context.processed(piece.checked)
    pieces = shard.pieces_to_commit()
    if pieces is None:
        return ValidateResult(
            success=None,
            docs_url=None,
            shard=shard.shard,
            summary=f"Checked {counted(piece.checked, 'row')} of {_label(datasets)}, shard {shard.shard} of {shard.shards}; the "
            "last shard completes the validation.",
        )
    if rows.fits:
        context.processed(rows.count)
    result = _validate(spec, context, suite, rows, None if rows.fits else shards.ShardedRows(rows, shard, pieces))
    return result.model_copy(update={"shard": shard.shard})


def _validate(
    spec: ValidateSpec, context: StepContext, suite: ExpectationSuite, rows: Rows, divided: DividedRows | None
) -> ValidateResult:
    """Complete the validation of all rows.

    :param divided: the rows, if other processes check them
    """
    datasets = rows.datasets
    name = datasets[0].manifest.name
    with temporary_folder("validation") as site:
        if rows.fits:
            found = checkpoint.run_suite(suite, rows.table(), name, site)
            failing = [RowNumbers(unexpected_rows(result)) for result in found.results]
        else:
            found, failing = run_in_batches(suite, rows, name, site, divided)
        ids = [dataset.manifest.id for dataset in datasets]
        identity = ids[0] if len(ids) == 1 else fingerprint(ids)
        docs_url = checkpoint.publish_data_docs(site, context.store, name, identity)
    checkpoint.require_computed(found, suite.name)
    outcomes = [checkpoint.outcome(result) for result in found.results]
    write_outcomes(context.store, context.key, outcomes)
    log_not_critical(outcomes)
    validation = _Validation(spec, datasets, rows, divided, found, failing, outcomes, docs_url)
    failed = validation.failed
    if failed and spec.on_failure == "fail":
        raise ValidationError(
            f"{validation.headline}. Failed: {listed(failed)}.{also_failed(outcomes)} See the Data Docs at {docs_url}."
        )
    if spec.on_failure == "quarantine":
        return _quarantine(validation, context)
    if failed:
        context.warn(f"{validation.headline}. Failed: {listed(failed)}.")
    return ValidateResult(
        dataset=datasets[0].ref if len(datasets) == 1 else [dataset.ref for dataset in datasets],
        success=not failed,
        outcomes=outcomes,
        docs_url=docs_url,
        summary=f"Validated {counted(rows.count, 'row')}. {validation.headline}"
        f"{'; `on_failure` is warn, so the task continues' if failed else ''}.{also_failed(outcomes)}",
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


@dataclass(frozen=True)
class _Validation:
    """Validated datasets with the same name, and the results of all expectations of the suite.

    :param divided: the rows, if other processes check them
    :param unexpected: for each result, the numbers of the rows that do not meet the expectation
    """

    spec: ValidateSpec
    datasets: Sequence[Dataset]
    rows: Rows
    divided: DividedRows | None
    found: ExpectationSuiteValidationResult
    unexpected: list[RowNumbers]
    outcomes: list[ExpectationOutcome]
    docs_url: str

    @property
    def name(self) -> str:
        """Return the name of the datasets."""
        return self.datasets[0].manifest.name

    @property
    def failed(self) -> list[ExpectationOutcome]:
        """Return the failed expectations to which ``on_failure`` applies."""
        return critical(self.outcomes)

    @property
    def headline(self) -> str:
        """Return how many expectations passed, such as ``flights 2013-04: 6 of 7 expectations of suite 'x' passed``."""
        passed = f"{sum(outcome.success for outcome in self.outcomes)} of {len(self.outcomes)}"
        return f"{_label(self.datasets)}: {passed} expectations of suite {self.found.suite_name!r} passed"

    @property
    def reasons(self) -> list[tuple[str, RowNumbers]]:
        """Return the failed critical expectations about rows, each with the numbers of the rows that do not meet it."""
        # An expectation with `mostly` may pass although some rows do not meet it. Such rows are not quarantined.
        both = zip(self.outcomes, self.unexpected, strict=True)
        return [(outcome.expectation, rows) for outcome, rows in both if critical([outcome])]

    def failing(self, first: int, count: int) -> tuple[NDArray[np.bool_], pa.Array]:
        """Return which rows fail, and for each failing row the names of the failed expectations as one text.

        :param first: number of the first row
        :param count: number of rows
        """
        return failing_for(self.reasons, first, count)


def _label(datasets: Sequence[Dataset]) -> str:
    """Return the name of the datasets with their window, such as ``flights 2013-04``."""
    name, window = datasets[0].manifest.name, window_of(datasets)
    return f"{name} {window.label}" if window else name


def _quarantine(validation: _Validation, context: StepContext) -> ValidateResult:
    """Write the rows that meet all critical expectations as one dataset, and the failing rows as a second dataset.

    :raises ValidationError: a failed critical expectation concerns the whole table, or every row failed
    """
    if about_table := [outcome for outcome in validation.failed if outcome.unexpected is None]:
        raise ValidationError(
            f"{validation.headline}. The failed expectation {listed(about_table)} concerns the whole table, so there "
            f"are no failing rows to quarantine. See the Data Docs at {validation.docs_url}."
        )
    rows, reasons = validation.rows, validation.reasons
    failed_rows = count_failing(reasons, rows.count)
    if rows.count and failed_rows == rows.count:
        raise ValidationError(
            f"{validation.headline}. Every row failed, so no valid rows are left: {listed(validation.failed)}. Correct the "
            f"source or the suite. See the Data Docs at {validation.docs_url}."
        )
    counts: Counter[str] = Counter()
    for title, found in reasons:
        if len(found):
            counts[title] += len(found)
    details = {"suite": validation.found.suite_name, "unexpected": dict(sorted(counts.items()))}
    name = validation.name
    with (
        DatasetWriter(context.store, valid_name(name)) as valid_writer,
        DatasetWriter(context.store, quarantine_name(name)) as quarantine_writer,
    ):
        if validation.divided is not None:
            written = validation.divided.split(validation.failing, valid_writer, quarantine_writer)
        else:
            writers = (valid_writer, quarantine_writer)
            written = split(rows.batches(), validation.failing, *writers, files=not rows.fits)
        complete(valid_writer, quarantine_writer, written, rows.schema)
        quarantined = _commit(validation, context, quarantine_writer, details)
        # Monitoring reports how many rows of a window were not scored.
        lost = failed_rows + sum(map(quarantined_rows, validation.datasets))
        valid = _commit(validation, context, valid_writer, details | ({"quarantined": lost} if lost else {}))
        # Both datasets exist before one of them becomes current. Otherwise, a failed write of the second one would leave
        # the new rows of one dataset next to the old rows of the other.
        make_current(context.store, quarantined)
        make_current(context.store, valid)
    return ValidateResult(
        dataset=valid.ref,
        success=not validation.failed,
        quarantined=quarantined.ref,
        outcomes=validation.outcomes,
        docs_url=validation.docs_url,
        summary=f"{validation.headline}. Wrote {counted(valid.rows, 'row')} to {valid.name} and quarantined {counted(quarantined.rows, 'row')}"
        f"{f': {listed(validation.failed)}' if validation.failed else ''}.{also_failed(validation.outcomes)}",
    )


def _commit(validation: _Validation, context: StepContext, writer: DatasetWriter, details: dict[str, Any]) -> Manifest:
    manifest = validation.datasets[-1].manifest
    columns = {dataset.time_column for dataset in validation.datasets}
    written, _ = writer.commit(
        window=window_of(validation.datasets),
        owner=manifest.owner or validation.spec.owner,
        description=manifest.description,
        source={"kind": "validation", "dataset": manifest.name},
        parents=[dataset.ref for dataset in validation.datasets],
        details={**coverage(validation.datasets), **details},
        provenance=context.provenance,
        time_column=columns.pop() if len(columns) == 1 else None,
        current=False,
        check=context.require_unfinished,
    )
    return written
