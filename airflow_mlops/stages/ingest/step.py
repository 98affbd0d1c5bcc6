"""Ingest rows from a database or files into an immutable raw dataset."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import pyarrow as pa

from airflow_mlops.core.errors import EmptyWindowError, SchemaError
from airflow_mlops.data.datasets import DatasetWriter, Manifest, neighbouring_manifest
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.sources import open_source
from airflow_mlops.stages.ingest.sources.streams import prefetch, rechunk
from airflow_mlops.stages.ingest.sources.types import ColumnTypes, declared_types, find_type
from airflow_mlops.stages.ingest.spec import IngestResult, IngestSpec

# Rows of a Parquet row group. Half of the default takes 60 MB less memory and as much time.
CHUNK_ROWS = 65_536
PROGRESS_ROWS = 1_000_000


def run(spec: IngestSpec, context: StepContext) -> IngestResult:
    """Stream the rows of the source into a dataset. The dataset becomes visible when all rows are written.

    :raises EmptyWindowError: the source has no rows in the window
    :raises SchemaError: a column is missing or has another type than in another window
    :raises SourceError: the source cannot be read
    """
    started = time.monotonic()
    earlier = neighbouring_manifest(context.store, spec.name, spec.window) if spec.window else None
    types = ColumnTypes(
        declared=declared_types(spec.types),
        earlier=_known_types(earlier),
        window=earlier.window.label if earlier and earlier.window else "",
    )
    source = open_source(spec, context.connection)
    with DatasetWriter(context.store, spec.name) as writer:
        with prefetch(source.batches(types)) as batches:
            rows = _write(writer, _checked(batches, spec, types, earlier, context), context)
        if not rows:
            raise EmptyWindowError(_no_rows(spec))
        manifest, unchanged = writer.commit(
            window=spec.window,
            owner=spec.owner,
            description=spec.description,
            source=source.describe(),
            provenance=context.provenance,
        )
    if skipped := manifest.source.get("rows_without_time"):
        context.progress(f"Skipped {skipped:,} rows without a {spec.time_column}, since they belong to no window.")
    return IngestResult(dataset=manifest.ref, unchanged=unchanged, summary=_summary(manifest, unchanged, started))


def _known_types(earlier: Manifest | None) -> dict[str, pa.DataType]:
    """The column types of another window, without null columns and types that have no name."""
    found = {column.name: find_type(column.type) for column in earlier.columns} if earlier else {}
    return {name: kind for name, kind in found.items() if kind is not None and not pa.types.is_null(kind)}


def _checked(
    batches: Iterable[pa.RecordBatch],
    spec: IngestSpec,
    types: ColumnTypes,
    earlier: Manifest | None,
    context: StepContext,
) -> Iterator[pa.RecordBatch]:
    """The batches with the selected columns, converted to the declared types and compared with another window."""
    first = True
    for batch in batches:
        if spec.columns is not None:
            batch = _select(batch, spec.columns)
        batch = types.convert(batch)
        if first:
            _check_declared(batch.schema, types)
            if earlier is not None:
                _compare(earlier, batch.schema, spec, context)
            first = False
        yield batch


def _select(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    missing = [column for column in columns if column not in batch.schema.names]
    if missing:
        raise SchemaError(
            f"The source has no column {', '.join(map(repr, missing))}. Its columns are: {', '.join(batch.schema.names)}."
        )
    return batch.select(columns)


def _check_declared(schema: pa.Schema, types: ColumnTypes) -> None:
    unknown = [column for column in types.declared if column not in schema.names]
    if unknown:
        raise SchemaError(
            f"types={{...}} names the column {', '.join(map(repr, unknown))}, which does not exist. "
            f"The columns are: {', '.join(schema.names)}."
        )


def _compare(earlier: Manifest, found: pa.Schema, spec: IngestSpec, context: StepContext) -> None:
    """Compare the columns with another window, since readers of several windows need equal schemas.

    Columns that the user selected or declared are accepted as they are.

    :raises SchemaError: a column is missing or changed its type
    """
    assert earlier.window is not None  # neighbouring_manifest() looks only at windows
    before = {column.name: column.type for column in earlier.columns}
    where = f"Dataset {spec.name} in the window {earlier.window.label}"
    missing = [name for name in before if name not in found.names and spec.columns is None]
    if missing:
        raise SchemaError(
            f"{where} has the column {', '.join(map(repr, missing))}, which the source no longer has. Restore it in the source, "
            f"or select the columns to keep with columns={found.names!r}."
        )
    changed = [
        (field.name, before[field.name], str(field.type))
        for field in found
        if field.name not in spec.types and before.get(field.name, "null") not in ("null", str(field.type))
    ]
    if changed:
        what = ", ".join(f"{name!r} as {old}, but now it is {new}" for name, old, new in changed)
        fix = ", ".join(f"{name!r}: {new!r}" for name, _, new in changed)
        raise SchemaError(
            f"{where} has the column {what}. Convert it in the source, or accept the new type with types={{{fix}}} "
            "and ingest the other windows again."
        )
    new = [name for name in found.names if name not in before]
    if new:
        context.progress(
            f"Column {', '.join(map(repr, new))} is new: the window {earlier.window.label} does not have it."
        )


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
        return f"The source of {spec.name} ({what}) has no rows."
    return (
        f"The source of {spec.name} ({what}) has no rows in the window {spec.window.label}. "
        "Check that the data has arrived, and that its times are in UTC like the window."
    )


def _summary(manifest: Manifest, unchanged: bool, started: float) -> str:
    when = f" for {manifest.window.label}" if manifest.window else ""
    size = sum(file.bytes for file in manifest.files) / 1e6
    text = f"{manifest.rows:,} rows x {len(manifest.columns)} columns of {manifest.name}{when}"
    if unchanged:
        return f"{text} are the same as before, so dataset {manifest.id[:12]} is unchanged."
    return f"Ingested {text} into dataset {manifest.id[:12]} ({size:.1f} MB, {time.monotonic() - started:.1f} s)."
