"""Files with the predictions of several models for the same rows, in the artifact store.

A file has these columns for each model, where N is the number of its version::

    score_N            the scores
    prediction_N       the predicted labels; absent if they equal the scores, as in a regression
    probabilities_N    for each row, the list of its probabilities; only multiclass

See :class:`airflow_mlops.metrics.predictions.Predictions`. The metadata of ``score_N`` say whether the model has
probabilities. No manifest lists the files. ``airflow mlops clean`` deletes old ones that no evaluation has deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.data.datasets.manifest import FileEntry
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions, of_score
from airflow_mlops.stages.evaluate.candidates import Candidate

if TYPE_CHECKING:
    from numpy.typing import NDArray

# airflow_mlops.data.leftovers deletes old files in this folder.
FOLDER = "checkpoints/scores"
_PROBABILITIES = b"mlops.probabilities"


def write(store: ArtifactStore, part: str, found: Sequence[tuple[Candidate, Predictions]]) -> FileEntry:
    """Write the predictions of several models as one file.

    :param part: name of the split part with the rows
    :param found: the models with their predictions for the same rows. The version of each model occurs once
    :raises EvaluationError: the labels of a model have different types
    """
    columns = [column for candidate, predictions in found for column in _columns(candidate, predictions)]
    table = pa.table([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))
    key = f"{FOLDER}/{uuid.uuid4().hex}.parquet"
    labels = [field.name for field, _ in columns if not field.name.startswith(("score_", "probabilities_"))]
    with store.create(key) as file:
        # Scores are mostly distinct, so a dictionary of them only costs time.
        with pq.ParquetWriter(
            file, table.schema, compression="zstd", compression_level=1, use_dictionary=labels
        ) as writer:
            writer.write_table(table)
        written, sha256 = file.bytes, file.sha256
    return FileEntry(path=key, part=part, rows=table.num_rows, bytes=written, sha256=sha256)


def read(store: ArtifactStore, file: FileEntry, candidate: Candidate) -> Predictions:
    """Read the predictions of one model.

    :param candidate: the model. Its contract must have the positive class that it had when the file was written
    """
    number = candidate.ref.version
    score_name, prediction_name, shares_name = (f"{name}_{number}" for name in ("score", "prediction", "probabilities"))
    with store.open(file.path) as opened, pq.ParquetFile(opened, pre_buffer=False) as parquet:
        present = [name for name in (score_name, prediction_name, shares_name) if name in parquet.schema_arrow.names]
        has_probabilities = parquet.schema_arrow.field(score_name).metadata[_PROBABILITIES] == b"true"
        # Threads of Arrow may still hold objects of Python when the process ends. This aborts the process.
        table = parquet.read(present, use_threads=False)
    score = table[score_name].to_numpy()
    prediction = _values(table[prediction_name]) if prediction_name in present else score
    if not has_probabilities:
        return Predictions(prediction, score, None)
    if shares_name not in present:
        return of_score(prediction, score, candidate.contract)
    shares = table[shares_name].combine_chunks().flatten().to_numpy()
    return Predictions(prediction, score, shares.reshape(len(score), -1))


def _columns(candidate: Candidate, found: Predictions) -> list[tuple[pa.Field, pa.Array]]:
    number, shares = candidate.ref.version, found.probabilities
    has_probabilities = {_PROBABILITIES: b"true" if shares is not None else b"false"}
    columns = [(pa.field(f"score_{number}", pa.float64(), metadata=has_probabilities), pa.array(found.score))]
    if not _equal(found.prediction, found.score):
        labels = _labels(candidate, found.prediction)
        columns.append((pa.field(f"prediction_{number}", labels.type), labels))
    # The probabilities of a binary model follow from the score.
    if shares is not None and candidate.contract.task != "binary":
        rows, classes = shares.shape
        ends = pa.array(np.arange(0, (rows + 1) * classes, classes), pa.int64())
        lists = pa.LargeListArray.from_arrays(ends, pa.array(np.ascontiguousarray(shares).ravel()))
        columns.append((pa.field(f"probabilities_{number}", lists.type), lists))
    return columns


def _labels(candidate: Candidate, prediction: NDArray[Any]) -> pa.Array:
    if prediction.dtype.kind != "O":
        return pa.array(prediction)
    try:
        # An object that is NaN means a missing label, like None.
        labels = pa.array(prediction, from_pandas=True)
    except pa.ArrowException as error:
        raise EvaluationError(
            f"{candidate.ref} predicted labels of several types, which shards cannot store ({error}). Evaluate it without "
            "`shards`."
        ) from error
    # Each label is then one object in memory, and not one object for each row.
    return labels.dictionary_encode() if pa.types.is_string(labels.type) else labels


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    if not pa.types.is_dictionary(column.type):
        found: NDArray[Any] = column.to_numpy()
        return found
    parts = [np.empty(0, object)]
    for chunk in column.chunks:
        labels = np.array([*chunk.dictionary.to_pylist(), None], dtype=object)
        parts.append(labels[chunk.indices.fill_null(len(labels) - 1).to_numpy()])
    return np.concatenate(parts)


def _equal(one: NDArray[Any], other: NDArray[np.float64]) -> bool:
    return one is other or (one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True))
