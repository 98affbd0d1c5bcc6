"""Predict the rows of datasets with a model, batch by batch: all rows in a single pass, or one shard of the rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SchemaError, named
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data import row_spans
from airflow_mlops.data.columns import ADDED_COLUMNS
from airflow_mlops.data.datasets import Dataset, DatasetWriter, Manifest
from airflow_mlops.data.moments import UTC, as_utc, is_text
from airflow_mlops.data.predictions import log as predictions
from airflow_mlops.data.predictions.privacy import KEEP_ALL, Privacy, hashed_or_dropped
from airflow_mlops.data.selection import coverage, dates_detail
from airflow_mlops.data.types import common_schema, conformed
from airflow_mlops.metrics.catalog import realised
from airflow_mlops.metrics.columns import columns_of
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models.predicted import with_predictions
from airflow_mlops.models.scorer import Scorer
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score.attributions import with_attributions
from airflow_mlops.stages.score.shards import Piece, Round
from airflow_mlops.stages.shards import with_rows

if TYPE_CHECKING:
    from airflow_mlops.core.windows import Window
    from airflow_mlops.models.attributions import Explainer

BATCH_ROWS = 65_536
# Each attribution is a text and a number, so wide rows are scored in smaller batches.
_ATTRIBUTIONS = 2**21
_BATCHES, _FEWEST_ROWS = 16, 1_024

T = TypeVar("T")


@dataclass(frozen=True)
class Scoring:
    """The rows to score, and the dataset of their predictions.

    :param datasets: datasets to score
    :param version: model version that scores
    :param name: name of the dataset of predictions
    :param part: split part of ``datasets`` to score; ``None`` for all rows
    :param window: time window of the predictions; ``None`` if the datasets have no window
    :param privacy: columns to hash or drop before the rows are written
    :param shadow: whether the predictions are shadow predictions
    """

    datasets: Sequence[Dataset]
    version: ModelVersionRef
    name: str
    part: str | None
    window: Window | None
    context: StepContext
    privacy: Privacy = KEEP_ALL
    shadow: bool = False

    def all_rows(self, model: Scorer, explainer: Explainer | None = None) -> Manifest:
        """Predict all rows, and write the rows and predictions as a dataset.

        Reading, scoring and writing run at the same time on different batches. Memory use does not depend on the number
        of rows.

        :param model: the model
        :param explainer: computes the attributions that are written as well; by default none are written
        :return: manifest of the dataset of predictions
        """
        started = time.perf_counter()
        with self._writer() as writer:
            details = self._write(writer, model, explainer)
            return self._commit(writer, details, time.perf_counter() - started)

    def one_shard(self, shard: Round, load: Callable[[], tuple[Scorer, Explainer | None]]) -> Piece:
        """Predict the rows of a shard, and write them to files that no manifest lists yet.

        If an earlier try has scored the shard, its predictions are returned.

        :param load: function that loads the model, and the explainer if attributions are written
        """
        if (found := shard.piece()) is not None:
            return found
        model, explainer = load()
        started = time.perf_counter()
        with self._writer() as writer:
            details = self._write(writer, model, explainer, shard.shard, shard.shards)
            written = writer.finish()
        seconds = time.perf_counter() - started
        return shard.add(Piece(written=written, details=details, engine=model.engine, seconds=seconds))

    def dataset_of_shards(self, shard: Round) -> Manifest | None:
        """Commit the dataset if all shards are scored. No rows are copied: the dataset consists of the shards' files.

        :return: manifest of the dataset of predictions; ``None`` if a shard is not scored yet, or if another shard
            commits the dataset
        """
        pieces = shard.pieces_to_commit()
        if pieces is None:
            return None
        with self._writer() as writer:
            for piece in with_rows(pieces):
                writer.include(piece.written)
            return self._commit(writer, pieces[0].details, sum(piece.seconds for piece in pieces))

    @property
    def _slot(self) -> str:
        return predictions.slot(self.version, self.window, self.datasets, self.part)

    def _writer(self) -> DatasetWriter:
        return DatasetWriter(self.context.store, self.name, predictions.folder(self.window, self.version.version))

    def _write(
        self, writer: DatasetWriter, model: Scorer, explainer: Explainer | None, shard: int = 0, count: int = 1
    ) -> dict[str, Any]:
        """Predict the rows of a shard, and return the details for the manifest. By default, the shard has all rows.

        :param shard: index of the shard, from 0
        :param count: number of shards
        """
        carried = _carried_columns(self.datasets, model.contract, self.version)
        self.privacy.require(carried, self.datasets[0].manifest.name)
        predictions.claim(self.context.store, self.name, self._slot, self.datasets, self.part, self.context.provenance)
        details = _details(self.datasets, model, self.version, carried, self.privacy)
        if explainer is not None:
            details |= {"attribution_scale": explainer.scale, "attribution_method": explainer.method}
        timestamp = details["timestamp"]
        private = hashed_or_dropped(self.privacy.details)
        schema = _common(self.datasets, carried, timestamp)
        with ThreadPoolExecutor(2, "score") as threads:
            pending: Future[None] | None = None
            row = 0
            batches = self._batches(carried, shard, count)
            if explainer is not None:
                batches = _sliced(batches, max(1, _ATTRIBUTIONS // len(explainer.features)))
            for batch in _read_ahead(batches, threads):
                scored = _scored(batch.select(carried), model, self.version, explainer, private)
                try:
                    scored = _with_event_time(scored, timestamp, row)
                except SchemaError:
                    # The error message names the position of the row among the rows of all shards. The rows of earlier
                    # shards are counted only after an error.
                    _with_event_time(scored, timestamp, row + self._rows_before(timestamp, shard, count))
                    raise
                scored = _with_types(scored, schema, self.datasets[0])
                row += batch.num_rows
                if pending is not None:
                    pending.result()
                pending = threads.submit(writer.write, self.privacy.apply(scored))
            if pending is not None:
                pending.result()
            elif shard == 0:
                empty = _empty_batch(self.datasets[0], carried, model.contract, self.version, explainer, private)
                empty = _with_types(_with_event_time(empty, timestamp, 0), schema, self.datasets[0])
                writer.write(self.privacy.apply(empty))
        return details | ({"shadow": True} if self.shadow else {})

    def _batches(self, columns: Sequence[str], shard: int, count: int) -> Iterator[pa.RecordBatch]:
        size = batch_rows(self.datasets, self.part)
        for dataset, span in row_spans.spans(self.datasets, self.part, size, shard, count):
            yield from dataset.batches(self.part, columns, size, span)

    def _rows_before(self, column: str, shard: int, count: int) -> int:
        return sum(rows.num_rows for number in range(shard) for rows in self._batches([column], number, count))

    def _commit(self, writer: DatasetWriter, details: dict[str, Any], seconds: float) -> Manifest:
        return writer.commit(
            window=self.window,
            description=f"Predictions of {self.version}",
            source={
                "dataset": self.datasets[0].manifest.name,
                "part": self.part,
                "model": self.version.model,
                "model_version": self.version.version,
                "seconds": round(seconds, 3),
            },
            parents=[dataset.ref for dataset in self.datasets],
            details=details | coverage(self.datasets),
            provenance=self.context.provenance,
            check=self.context.require_unfinished,
            slots=[self._slot],
        )[0]


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
    """Predict all rows of ``datasets``, and write them with their predictions as the dataset ``name``.

    See :class:`Scoring`.
    """
    return Scoring(datasets, version, name, part, window, context, privacy, shadow).all_rows(model)


def _carried_columns(datasets: Sequence[Dataset], contract: ModelContract, version: ModelVersionRef) -> list[str]:
    """Return the names of the columns that are copied to the predictions.

    These columns are the keys, the event time and the features. Watched columns, the column of row weights, and the
    columns that metrics name are also copied, if all datasets have them. If the manifest of the first dataset names no
    keys, all columns of this dataset are copied.

    :raises SchemaError: a feature is absent, or a column has the name of a column that scoring adds
    """
    features = [feature.name for feature in contract.features]
    details = datasets[0].manifest.details
    present = datasets[0].manifest.column_names
    carried = present
    if "keys" in details:
        everywhere = [set(dataset.manifest.column_names) for dataset in datasets]
        others = {*contract.watched, contract.sample_weight, *columns_of(contract.metrics)}.intersection(*everywhere)
        wanted = {*details["keys"], details.get("timestamp"), *features, *others}
        carried = [name for name in present if name in wanted]
    for dataset in datasets:
        name, columns = dataset.manifest.name, dataset.manifest.column_names
        if missing := [feature for feature in features if feature not in columns]:
            raise SchemaError(
                f"Dataset {name!r} does not have the {named('feature', missing)} of {version}. "
                f"Score a dataset with all features. The columns of the dataset are: {', '.join(columns)}."
            )
    if taken := [name for name in carried if name in ADDED_COLUMNS]:
        raise SchemaError(
            f"Dataset {datasets[0].manifest.name!r} has the {named('column', taken)}, which "
            "scoring adds as well. Choose other names in the dataset."
        )
    return carried


def _common(datasets: Sequence[Dataset], carried: Sequence[str], timestamp: str | None) -> pa.Schema | None:
    """Return the copied columns with types that fit all datasets; ``None`` if there is only one dataset.

    :param timestamp: name of the event time column, which is read as a time if it is text
    :raises SchemaError: the types of a column have no common type
    """
    if len(datasets) == 1:
        return None

    def columns(dataset: Dataset) -> pa.Schema:
        schema = dataset.schema
        kinds = {name: schema.field(name).type for name in carried if name in schema.names}
        return pa.schema([(name, UTC if name == timestamp and is_text(kind) else kind) for name, kind in kinds.items()])

    return common_schema(map(columns, datasets), _what(datasets[0]), "Ingest the windows again with equal types.")


def _with_types(scored: pa.RecordBatch, schema: pa.Schema | None, dataset: Dataset) -> pa.RecordBatch:
    """Convert the first columns of ``scored``, which were copied, to the types of ``schema``.

    If ``schema`` is ``None``, ``scored`` is returned unchanged.

    :raises SchemaError: a value cannot be converted
    """
    if schema is None:
        return scored
    added = [scored.schema.field(place) for place in range(len(schema), scored.num_columns)]
    found: pa.RecordBatch = conformed(scored, pa.schema([*schema, *added]), _what(dataset))
    return found


def _what(dataset: Dataset) -> str:
    return f"The windows of dataset {dataset.manifest.name!r}"


def _scored(
    batch: pa.RecordBatch,
    model: Scorer,
    version: ModelVersionRef,
    explainer: Explainer | None = None,
    private: Collection[str] = (),
) -> pa.RecordBatch:
    """Return the rows with the columns that scoring adds.

    :param explainer: computes the attributions; ``None`` if they are not written
    :param private: names of hashed and dropped columns, which have no attributions
    """
    started = time.perf_counter()
    found = model.predict(batch)
    seconds = time.perf_counter() - started
    rows = batch.num_rows
    now = pa.scalar(datetime.now(timezone.utc), pa.timestamp("us", "UTC"))
    latency = pa.scalar(1000 * seconds / max(1, rows))
    scored = with_predictions(
        batch, model.contract, version, found.prediction, found.score, pa.repeat(now, rows), pa.repeat(latency, rows)
    )
    return scored if explainer is None else with_attributions(scored, batch, found, explainer, private)


def _empty_batch(
    dataset: Dataset,
    carried: Sequence[str],
    contract: ModelContract,
    version: ModelVersionRef,
    explainer: Explainer | None,
    private: Collection[str],
) -> pa.RecordBatch:
    """Return a batch of predictions without rows, which is written for a window without rows."""
    schema = pa.schema([dataset.schema.field(name) for name in carried]).remove_metadata()
    batch = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    times, latency = pa.array([], pa.timestamp("us", "UTC")), pa.array([], pa.float64())
    found = Predictions(np.empty(0), np.empty(0), np.empty((0, len(contract.classes))))
    scored = with_predictions(batch, contract, version, found.prediction, found.score, times, latency)
    return scored if explainer is None else with_attributions(scored, batch, found, explainer, private)


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
    datasets: Sequence[Dataset], model: Scorer, version: ModelVersionRef, carried: Sequence[str], privacy: Privacy
) -> dict[str, Any]:
    details = datasets[-1].manifest.details
    timestamp = details.get("timestamp") or (model.contract.timestamp if model.contract.timestamp in carried else None)
    if timestamp in hashed_or_dropped(privacy.details):
        timestamp = None
    return {
        "model": version.model,
        "model_version": version.version,
        "run_id": version.run_id,
        "engine": model.engine,
        "task": model.contract.task,
        "classes": model.contract.classes,
        "positive": model.contract.positive,
        "metrics": realised(model.contract.task, model.contract.metrics),
        "judged_by": model.contract.judged_by,
        "features": [feature.name for feature in model.contract.features],
        "keys": [key for key in details.get("keys", []) if key not in privacy.dropped],
        "timestamp": timestamp,
        **(dates_detail(datasets, timestamp) if timestamp else {}),
        **privacy.details,
    }


def batch_rows(datasets: Sequence[Dataset], part: str | None) -> int:
    """Return the number of rows in a batch. Small datasets have several batches, so that shards can divide them."""
    rows = sum(file.rows for dataset in datasets for file in dataset.files(part))
    return min(BATCH_ROWS, max(_FEWEST_ROWS, -(-rows // _BATCHES)))


def _sliced(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield ``batches`` in slices of at most ``rows`` rows."""
    for batch in batches:
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _read_ahead(items: Iterable[T], threads: ThreadPoolExecutor) -> Iterator[T]:
    """Yield ``items``. While the caller processes one item, a thread fetches the next item."""
    iterator = iter(items)
    upcoming = threads.submit(next, iterator, None)
    while (item := upcoming.result()) is not None:
        upcoming = threads.submit(next, iterator, None)
        yield item
