"""Read rows from a database or from files, and write the rows as an immutable dataset."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import pyarrow as pa

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import EmptyWindowError, SchemaError, listed, named
from airflow_mlops.data.datasets import DatasetWriter, Manifest, neighbouring_manifest
from airflow_mlops.data.incoming.batches import rechunk
from airflow_mlops.data.incoming.types import ColumnTypes, declared_types
from airflow_mlops.data.incoming.unify import known_types, unified
from airflow_mlops.data.prefetch import prefetch
from airflow_mlops.data.types import find_type, is_same_kind
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.sources import Source, open_source
from airflow_mlops.stages.ingest.spec import IngestResult, IngestSpec

# Number of rows in a Parquet row group. This is half of the default, which saves 60 MB of memory and costs no time.
CHUNK_ROWS = 65_536
PROGRESS_ROWS = 1_000_000


def run(spec: IngestSpec, context: StepContext) -> IngestResult:
    """Read the rows of the source, and write the rows as a dataset. The dataset is visible after all rows are written.

    :raises EmptyWindowError: the source has no rows in the window
    :raises SchemaError: a column of a neighbouring window is absent or has a different type, or a value does not have
        the type of its column
    :raises SourceError: the source cannot be read
    """
    return ingest(open_source(spec, context.connection), spec, context)


def ingest(source: Source, spec: IngestSpec, context: StepContext) -> IngestResult:
    """Write the rows of a source as a dataset; see :func:`run`."""
    started = time.monotonic()
    earlier = neighbouring_manifest(context.store, spec.name, spec.window) if spec.window else None
    types = ColumnTypes(
        declared=declared_types(spec.types),
        earlier=known_types((column.name, find_type(column.type)) for column in earlier.columns) if earlier else {},
        window=earlier.window.label if earlier and earlier.window else "",
    )
    kept_as_text: list[str] = []
    with DatasetWriter(context.store, spec.name) as writer:
        with (
            prefetch(source.batches(types), source.cancel) as read,
            unified(_converted(read, spec, types), types, source.is_settled, kept_as_text.append) as batches,
        ):
            rows = _write(writer, _checked(batches, spec, types, earlier, context), context)
        if not rows:
            raise EmptyWindowError(" ".join([_no_rows(spec), *source.describe().get("notes", [])]))
        description = source.describe()
        notes = [*description.get("notes", []), *kept_as_text]
        manifest, unchanged = writer.commit(
            window=spec.window,
            owner=spec.owner,
            description=spec.description,
            source={**description, "notes": notes} if notes else description,
            provenance=context.provenance,
            check=context.require_unfinished,
            time_column=spec.time_column,
        )
    for note in notes:
        context.progress(note)
    context.processed(manifest.rows)
    return IngestResult(
        dataset=manifest.ref, unchanged=unchanged, notes=notes, summary=_summary(manifest, unchanged, started)
    )


def _converted(batches: Iterable[pa.RecordBatch], spec: IngestSpec, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
    """Yield the batches with the columns to ingest, converted to the declared types."""
    row = 0
    for batch in batches:
        if spec.columns is not None:
            batch = _select(batch, spec.columns)
        if not row:
            _check_declared(batch.schema, types)
        yield types.convert(batch, row)
        row += batch.num_rows


def _checked(
    batches: Iterable[pa.RecordBatch],
    spec: IngestSpec,
    types: ColumnTypes,
    earlier: Manifest | None,
    context: StepContext,
) -> Iterator[pa.RecordBatch]:
    """Yield the batches. Before the first batch, compare its columns with the columns of a neighbouring window."""
    first = True
    for batch in batches:
        if first and earlier is not None:
            _compare(earlier, types, batch.schema, spec, context)
        first = False
        yield batch


def _select(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    missing = [column for column in columns if column not in batch.schema.names]
    if missing:
        raise SchemaError(
            f"The source has no {named('column', missing)}. Correct `columns`. The columns of the source "
            f"are: {listed(batch.schema.names)}."
        )
    return batch.select(columns)


def _check_declared(schema: pa.Schema, types: ColumnTypes) -> None:
    unknown = [column for column in types.declared if column not in schema.names]
    if unknown:
        raise SchemaError(
            f"`types` declares the {named('column', unknown)}, which the source does not have. Correct "
            f"`types`. The columns are: {listed(schema.names)}."
        )


def _compare(earlier: Manifest, types: ColumnTypes, found: pa.Schema, spec: IngestSpec, context: StepContext) -> None:
    """Check that a window has the columns of a neighbouring window, with types of the same kind.

    Downstream steps read several windows of a dataset as one table, so the windows need compatible columns. If the user
    set ``columns``, absent columns are accepted. A type that the user declared in ``types`` is accepted.

    :param earlier: manifest of the dataset of the neighbouring window
    :param found: columns of the window that is ingested
    :raises SchemaError: a column disappeared or its type changed
    """
    assert earlier.window is not None  # neighbouring_manifest() finds only datasets with a window.
    before = {column.name: column.type for column in earlier.columns}
    now = set(found.names)
    where = f"Dataset {spec.name!r} in the window {earlier.window.label}"
    missing = [name for name in before if name not in now and spec.columns is None]
    if missing:
        raise SchemaError(
            f"{where} has the {named('column', missing)}, which the source no longer has. Restore "
            f"every column in the source, or ingest only the remaining columns with columns={found.names!r}."
        )
    changed = [
        (field, before[field.name])
        for field in found
        if field.name not in spec.types
        and before.get(field.name, "null") not in ("null", str(field.type))
        and not pa.types.is_null(field.type)
        and not (field.name in types.earlier and is_same_kind(types.earlier[field.name], field.type))
    ]
    if changed:
        what = ", ".join(f"{field.name!r} is {field.type}, but was {old}" for field, old in changed)
        fix = ", ".join(f"{field.name!r}: '{field.type}'" for field, _ in changed)
        # A struct whose field names contain special characters cannot be written as the name of a type.
        accept = f", or accept the new type with types={{{fix}}} and ingest the other windows again"
        can_accept = all(find_type(str(field.type)) == field.type for field, _ in changed)
        raise SchemaError(
            f"The type of a column differs from dataset {spec.name!r} in the window {earlier.window.label}: {what}. "
            f"Convert the column in the source{accept if can_accept else ''}."
        )
    new = [name for name in found.names if name not in before]
    if new:
        context.progress(f"The {named('column', new)} did not exist in the window {earlier.window.label}.")


def _write(writer: DatasetWriter, batches: Iterable[pa.RecordBatch], context: StepContext) -> int:
    rows, next_progress = 0, PROGRESS_ROWS
    for batch in rechunk(batches, CHUNK_ROWS):
        writer.write(batch)
        rows += batch.num_rows
        if rows >= next_progress:
            context.progress(f"Ingested {rows:,} rows so far.")
            next_progress += PROGRESS_ROWS
    return rows


def _no_rows(spec: IngestSpec) -> str:
    what = f"connection {spec.conn_id!r}" if spec.sql else ", ".join(spec.files)
    if spec.window is None:
        return f"The source of dataset {spec.name!r} ({what}) has no rows. Check the query or the files."
    return (
        f"The source of dataset {spec.name!r} ({what}) has no rows in the window {spec.window.label}. "
        "Check that the data has arrived, and that times without a time zone are in UTC."
    )


def _summary(manifest: Manifest, unchanged: bool, started: float) -> str:
    when = f" for {manifest.window.label}" if manifest.window else ""
    size = sum(file.bytes for file in manifest.files) / 1e6
    text = f"{counted(manifest.rows, 'row')} x {counted(len(manifest.columns), 'column')} of {manifest.name}{when}"
    if unchanged:
        return f"{text} are the same as before, so dataset {manifest.id[:12]} is unchanged."
    return f"Ingested {text} into dataset {manifest.id[:12]} ({size:.1f} MB, {time.monotonic() - started:.1f} s)."
