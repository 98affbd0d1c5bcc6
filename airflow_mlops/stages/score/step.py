"""Predicts the rows of a dataset with the champion or another version, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import RegistryError, SchemaError
from airflow_mlops.core.references import ModelVersionRef, WrittenTable
from airflow_mlops.data import prediction_log as predictions
from airflow_mlops.data.columns import PREDICTION_COLUMNS
from airflow_mlops.data.databases.tables import open_table
from airflow_mlops.data.datasets import Dataset, DatasetWriter, Manifest
from airflow_mlops.data.moments import as_utc, is_text
from airflow_mlops.data.privacy import KEEP_ALL, Privacy, hashed_or_dropped
from airflow_mlops.data.selection import coverage, select, window_of
from airflow_mlops.models.champion import load_champion
from airflow_mlops.models.predicted import with_predictions
from airflow_mlops.models.scorer import Scorer
from airflow_mlops.overview import index
from airflow_mlops.registry import versions as models
from airflow_mlops.registry.client import connect
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score import table as writing
from airflow_mlops.stages.score.spec import ScoreResult, ScoreSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.core.windows import Window

BATCH_ROWS = 65_536

T = TypeVar("T")


def run(spec: ScoreSpec, context: StepContext) -> ScoreResult:
    """Predict the rows of the dataset with the champion or the given version, and write the predictions as a dataset.

    With ``write_to``, the predictions are read back from the committed dataset and written into the table. If the task
    ends between the two commits, it has no result yet, so its retry scores again and completes the table.

    :raises RegistryError: the model has no champion or no version with the alias, and ``on_missing`` is ``fail``; or the
        version does not exist
    :raises ModelCorruptError: the files of the version are not those that were promoted
    :raises ModelFormatError: the version cannot be loaded; or loading runs code that is stored in the model version,
        and ``allow_pyfunc`` is not set
    :raises SchemaError: a feature is absent from the dataset, or a column has the name of a column that scoring adds
    :raises TableError: the table of ``write_to`` cannot hold the predictions, or the database rejects them. The dataset of
        predictions exists
    """
    datasets = select(context.store, spec.dataset, kept=context.kept)
    window = spec.window or window_of(datasets)
    table = None
    if spec.write_to is not None:
        details = datasets[0].manifest.details
        kept = [key for key in details.get("keys") or [] if key not in spec.drop_columns]
        writing.check_rows(window, kept, datasets[0].manifest.name)
        table = open_table(context.connection(spec.write_to.conn_id), spec.write_to.table)
    client = connect(spec.mlflow, context.connection)
    version = _version(spec, client)
    if version is None:
        lacks = f"Model {spec.model!r} has no {spec.alias or models.CHAMPION} yet"
        if spec.on_missing == "skip":
            return ScoreResult(dataset=None, summary=f"No rows were scored. {lacks}.")
        what = "Promote a version" if spec.alias is None else "Set the alias in MLflow"
        raise RegistryError(f"{lacks}. {what}, or set on_missing='skip' to skip the task until then.")
    model = load_champion(client, context.store, version, context.progress, allow_pyfunc=spec.allow_pyfunc)
    started = time.perf_counter()
    manifest = score(
        datasets,
        model,
        version,
        name=spec.predictions,
        part=spec.part,
        window=window,
        context=context,
        privacy=Privacy.of(spec.hash_columns, spec.drop_columns, spec.hash_conn_id, context.connection),
        shadow=spec.shadow,
    )
    seconds = time.perf_counter() - started
    if not spec.shadow:
        index.update(context.store, spec.model, "scoring", manifest.name)
    when = f" of {manifest.window.label}" if manifest.window else ""
    context.processed(manifest.rows)
    written, into = None, ""
    if table is not None and spec.write_to is not None:
        rows = writing.write(table, Dataset(context.store, manifest))
        written = WrittenTable(**spec.write_to.model_dump(), rows=rows)
        into = f" Wrote {counted(rows, 'row')} to table {written.table!r} of connection {written.conn_id!r}."
    return ScoreResult(
        dataset=manifest.ref,
        scored_by=version,
        engine=model.engine,
        rows_per_second=round(manifest.rows / seconds, 1),
        summary=f"Scored {counted(manifest.rows, 'row')}{when} with {version} in {seconds:.1f} s on {model.engine}.{into}",
        written_to=written,
    )


def _version(spec: ScoreSpec, client: MlflowClient) -> ModelVersionRef | None:
    if spec.version is not None:
        return models.version(client, spec.model, spec.version)
    return models.by_alias(client, spec.model, spec.alias or models.CHAMPION)


def score(
    datasets: Sequence[Dataset],
    model: Scorer,
    version: ModelVersionRef,
    *,
    name: str,
    part: str | None,
    window: Window | None,
    context: StepContext,
    privacy: Privacy = KEEP_ALL,
    shadow: bool = False,
) -> Manifest:
    """Predict the rows of ``datasets``, and write the rows and predictions as the dataset ``name``.

    Reading, scoring and writing run at the same time on different batches. Memory use does not depend on the number of
    rows.

    :param datasets: datasets to score
    :param model: loaded model
    :param version: model version of ``model``
    :param name: name of the dataset of predictions
    :param part: split part of ``datasets`` to score; ``None`` for all rows
    :param window: time window of the predictions; ``None`` if the datasets have no window
    :param privacy: columns to hash or drop before the rows are written
    :param shadow: whether the predictions are shadow predictions
    :return: manifest of the dataset of predictions
    """
    started = time.perf_counter()
    carried = _carried_columns(datasets, model.contract, version)
    privacy.require(carried, datasets[0].manifest.name)
    slot = predictions.slot(version, window, datasets, part)
    predictions.claim(context.store, name, slot, datasets, part, context.provenance)
    folder = predictions.folder(window, version.version)
    details = _details(datasets[-1], model, version, carried, privacy) | ({"shadow": True} if shadow else {})
    rows = (batch for dataset in datasets for batch in dataset.batches(part, carried, BATCH_ROWS))
    with DatasetWriter(context.store, name, folder) as writer, ThreadPoolExecutor(2, "score") as threads:
        pending: Future[None] | None = None
        row = 0
        for batch in _read_ahead(rows, threads):
            scored = _with_event_time(_scored(batch.select(carried), model, version), details["timestamp"], row)
            row += batch.num_rows
            if pending is not None:
                pending.result()
            pending = threads.submit(writer.write, privacy.apply(scored))
        if pending is None:
            empty = _empty_batch(datasets[0], carried, model.contract, version)
            writer.write(privacy.apply(_with_event_time(empty, details["timestamp"], 0)))
        else:
            pending.result()
        return writer.commit(
            window=window,
            description=f"Predictions of {version}",
            source={
                "dataset": datasets[0].manifest.name,
                "part": part,
                "model": version.model,
                "model_version": version.version,
                "seconds": round(time.perf_counter() - started, 3),
            },
            parents=[dataset.ref for dataset in datasets],
            details=details | coverage(datasets),
            provenance=context.provenance,
            slots=[slot],
        )[0]


def _carried_columns(datasets: Sequence[Dataset], contract: ModelContract, version: ModelVersionRef) -> list[str]:
    """Return the names of the columns that are copied to the predictions.

    These columns are the keys, the event time, the features, and the watched columns that exist in all datasets. If the
    manifest of the dataset does not list keys, all columns are copied.

    :raises SchemaError: a feature is absent, or a column has the name of a column that scoring adds
    """
    features = [feature.name for feature in contract.features]
    details = datasets[0].manifest.details
    present = datasets[0].manifest.column_names
    carried = present
    if "keys" in details:
        everywhere = [set(dataset.manifest.column_names) for dataset in datasets]
        watched = set(contract.watched).intersection(*everywhere)
        wanted = {*details["keys"], details.get("timestamp"), *features, *watched}
        carried = [name for name in present if name in wanted]
    for dataset in datasets:
        name, columns = dataset.manifest.name, dataset.manifest.column_names
        if missing := [feature for feature in features if feature not in columns]:
            raise SchemaError(
                f"Dataset {name!r} has no column {', '.join(map(repr, missing))}, which is a feature of {version}. "
                f"Score a dataset with all features. The columns of the dataset are: {', '.join(columns)}."
            )
    if taken := [name for name in carried if name in PREDICTION_COLUMNS]:
        raise SchemaError(
            f"Dataset {datasets[0].manifest.name!r} has a column {', '.join(map(repr, taken))}, but scoring adds a "
            "column with this name. Rename the column in the dataset."
        )
    return carried


def _scored(batch: pa.RecordBatch, model: Scorer, version: ModelVersionRef) -> pa.RecordBatch:
    started = time.perf_counter()
    found = model.predict(batch)
    seconds = time.perf_counter() - started
    rows = batch.num_rows
    now = pa.scalar(datetime.now(timezone.utc), pa.timestamp("us", "UTC"))
    latency = pa.scalar(1000 * seconds / max(1, rows))
    return with_predictions(
        batch, model.contract, version, found.prediction, found.score, pa.repeat(now, rows), pa.repeat(latency, rows)
    )


def _empty_batch(
    dataset: Dataset, carried: Sequence[str], contract: ModelContract, version: ModelVersionRef
) -> pa.RecordBatch:
    """Return a batch of predictions without rows, which is written for a window without rows."""
    schema = pa.schema([dataset.schema.field(name) for name in carried]).remove_metadata()
    batch = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    times, latency = pa.array([], pa.timestamp("us", "UTC")), pa.array([], pa.float64())
    return with_predictions(batch, contract, version, np.empty(0), np.empty(0), times, latency)


def _with_event_time(batch: pa.RecordBatch, name: str | None, row: int) -> pa.RecordBatch:
    """Convert the event time column from text to UTC timestamps, as in the training set. Other types are not changed.

    :param name: name of the event time column; ``None`` if the column is absent, hashed or dropped
    :param row: number of rows in earlier batches, for the row number in error messages
    """
    index = batch.schema.get_field_index(name) if name else -1
    if index < 0 or not is_text(batch.schema.field(index).type):
        return batch
    times = as_utc(batch.column(index), f"The event time {name!r}", first_row=row)
    return batch.set_column(index, name, times)


def _details(
    dataset: Dataset, model: Scorer, version: ModelVersionRef, carried: Sequence[str], privacy: Privacy
) -> dict[str, Any]:
    details = dataset.manifest.details
    timestamp = details.get("timestamp") or (model.contract.timestamp if model.contract.timestamp in carried else None)
    return {
        "model": version.model,
        "model_version": version.version,
        "run_id": version.run_id,
        "engine": model.engine,
        "task": model.contract.task,
        "classes": model.contract.classes,
        "positive": model.contract.positive,
        "features": [feature.name for feature in model.contract.features],
        "keys": [key for key in details.get("keys", []) if key not in privacy.dropped],
        "timestamp": None if timestamp in hashed_or_dropped(privacy.details) else timestamp,
        **privacy.details,
    }


def _read_ahead(items: Iterable[T], threads: ThreadPoolExecutor) -> Iterator[T]:
    """Yield ``items``. While the caller processes one item, a thread fetches the next item."""
    iterator = iter(items)
    upcoming = threads.submit(next, iterator, None)
    while (item := upcoming.result()) is not None:
        upcoming = threads.submit(next, iterator, None)
        yield item
