"""Ingest rows into an immutable raw dataset."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import pyarrow as pa

from airflow_mlops.core.errors import EmptyWindowError, SchemaError
from airflow_mlops.data.datasets import DatasetWriter, Manifest, neighbouring_manifest
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.sources import open_source
from airflow_mlops.stages.ingest.sources.streams import prefetch, rechunk
from airflow_mlops.stages.ingest.sources.types import Types, declared_types, find_type
from airflow_mlops.stages.ingest.spec import IngestResult, IngestSpec

# A Parquet row group: half the size needs 60 MB less memory and takes no longer.
CHUNK_ROWS = 65_536
PROGRESS_ROWS = 1_000_000


def run(spec: IngestSpec, context: StepContext) -> IngestResult:
    """Stream the source into the dataset of its window; nothing shows before all of it is there.

    :raises EmptyWindowError: the source has no row in the window
    :raises SchemaError: a column is gone or changed its type since another window
    :raises SourceError: the source cannot be read
    """
    started = time.monotonic()
    earlier = neighbouring_manifest(context.store, spec.name, spec.window) if spec.window else None
    types = Types(
        declared=declared_types(spec.types),
        earlier=_known(earlier),
        window=earlier.window.label if earlier and earlier.window else "",
    )
    source = open_source(spec, context.connection)
    with DatasetWriter(context.store, spec.name) as writer:
        with prefetch(source.batches(types)) as batches:
            rows = _write(writer, _shaped(batches, spec, types, earlier, context), context)
        if not rows:
            raise EmptyWindowError(_nothing(spec))
        manifest, unchanged = writer.commit(
            window=spec.window,
            owner=spec.owner,
            description=spec.description,
            source=source.describe(),
            provenance=context.provenance,
        )
    if lost := manifest.source.get("rows_without_time"):
        context.progress(f"{lost:,} rows have no {spec.time_column}, so they belong to no window and were left out.")
    return IngestResult(dataset=manifest.ref, unchanged=unchanged, summary=_summary(manifest, unchanged, started))


def _known(earlier: Manifest | None) -> dict[str, pa.DataType]:
    """The column types of another window, but for those that say nothing or cannot be named."""
    found = {column.name: find_type(column.type) for column in earlier.columns} if earlier else {}
    return {name: kind for name, kind in found.items() if kind is not None and not pa.types.is_null(kind)}


def _shaped(
    batches: Iterable[pa.RecordBatch], spec: IngestSpec, types: Types, earlier: Manifest | None, context: StepContext
) -> Iterator[pa.RecordBatch]:
    """The batches with the columns that are kept, in the types they are kept in."""
    checked = False
    for batch in batches:
        if spec.columns is not None:
            batch = _select(batch, spec.columns)
        batch = types.convert(batch)
        if not checked:
            _check_declared(batch.schema, types)
            if earlier is not None:
                _compare(earlier, batch.schema, spec, context)
            checked = True
        yield batch


def _select(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    missing = [column for column in columns if column not in batch.schema.names]
    if missing:
        raise SchemaError(
            f"The source has no column {', '.join(map(repr, missing))}: it has {', '.join(batch.schema.names)}."
        )
    return batch.select(columns)


def _check_declared(schema: pa.Schema, types: Types) -> None:
    unknown = [column for column in types.declared if column not in schema.names]
    if unknown:
        raise SchemaError(
            f"types={{...}} names the column {', '.join(map(repr, unknown))}, which is not there: "
            f"there are {', '.join(schema.names)}."
        )


def _compare(earlier: Manifest, found: pa.Schema, spec: IngestSpec, context: StepContext) -> None:
    """Refuse what would break who reads both windows. What the user spelled out is taken as meant."""
    assert earlier.window is not None  # only windows have neighbours
    before = {column.name: column.type for column in earlier.columns}
    where = f"Dataset {spec.name} in the window {earlier.window.label}"
    gone = [name for name in before if name not in found.names and spec.columns is None]
    if gone:
        raise SchemaError(
            f"{where} has the column {', '.join(map(repr, gone))}, which the source no longer has: bring it back, "
            f"or name the columns to keep with columns={found.names!r}."
        )
    changed = [
        (field.name, before[field.name], str(field.type))
        for field in found
        if field.name not in spec.types and before.get(field.name, "null") not in ("null", str(field.type))
    ]
    if changed:
        what = ", ".join(f"{name!r} as {old}, and now it is {new}" for name, old, new in changed)
        fix = ", ".join(f"{name!r}: {new!r}" for name, _, new in changed)
        raise SchemaError(
            f"{where} has the column {what}: convert it in the source, or accept it with types={{{fix}}} "
            "and ingest the other windows again so that all agree."
        )
    new = [name for name in found.names if name not in before]
    if new:
        context.progress(f"New since the window {earlier.window.label}: column {', '.join(map(repr, new))}.")


def _write(writer: DatasetWriter, batches: Iterable[pa.RecordBatch], context: StepContext) -> int:
    rows, announced = 0, PROGRESS_ROWS
    for batch in rechunk(batches, CHUNK_ROWS):
        writer.write(batch)
        rows += batch.num_rows
        if rows >= announced:
            context.progress(f"{rows:,} rows so far.")
            announced += PROGRESS_ROWS
    return rows


def _nothing(spec: IngestSpec) -> str:
    what = f"connection {spec.conn_id!r}" if spec.sql else ", ".join(spec.files)
    if spec.window is None:
        return f"The source of {spec.name} ({what}) holds no row."
    return (
        f"The source of {spec.name} ({what}) holds no row in the window {spec.window.label}: "
        "check that the data is there by then and that the window is in UTC."
    )


def _summary(manifest: Manifest, unchanged: bool, started: float) -> str:
    when = f" for {manifest.window.label}" if manifest.window else ""
    size = sum(file.bytes for file in manifest.files) / 1e6
    text = f"{manifest.rows:,} rows x {len(manifest.columns)} columns of {manifest.name}{when}"
    if unchanged:
        return f"{text} are the same as before: dataset {manifest.id[:12]} is unchanged."
    return f"Ingested {text} into dataset {manifest.id[:12]} ({size:.1f} MB, {time.monotonic() - started:.1f} s)."
