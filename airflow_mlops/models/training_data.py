"""Read and check the parts of a training set for training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import DatasetNotFoundError, TrainingError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.trainers.base import TrainingData

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAIN, TEST = "train", "test"
# Number of rows that are checked before a training set is streamed.
SAMPLE_ROWS = 100_000


def read_part(dataset: Dataset, part: str, sample: int | None = None) -> TrainingData:
    """Read one part of the training set.

    :param sample: approximate number of rows whose features to read, spread over the part; by default all. All labels
        are read in any case
    :raises TrainingError: the dataset is not a training set, the part does not exist, or a label is invalid
    """
    details, name = dataset.manifest.details, dataset.manifest.name
    label, task, names = details.get("label"), details.get("task"), list(details.get("features") or ())
    if not label or not task or not names:
        raise TrainingError(
            f"Dataset {name} is not a training set, because its manifest names no label, task or features: "
            "build it with BuildTrainingSetOperator and a label."
        )
    try:
        table = dataset.table(part, [label] if sample else [*names, label])
    except DatasetNotFoundError:
        raise TrainingError(f"Training set {name} has no part {part!r}: build it with a split.") from None
    labels = label_values(table.column(label), task, f"Label {label!r} in part {part!r} of {name}")
    classes = [] if task == "regression" else np.unique(labels).tolist()
    table = _sample(dataset, part, names, sample) if sample else table.select(names).combine_chunks()
    features = feature_columns(table.schema, names)
    return TrainingData(task, label, features, table, frame(table, features), labels, classes)


def _sample(dataset: Dataset, part: str, names: list[str], rows: int) -> pa.Table:
    groups = dataset.row_groups(part)
    each = -(-rows // len(groups))
    return pa.Table.from_batches(
        [dataset.read_row_group(group, names).slice(0, each) for group in groups]
    ).combine_chunks()


def label_values(column: pa.ChunkedArray, task: Task, where: str) -> NDArray[Any]:
    """Convert labels: to float64 for a regression, to int64 or text for classes.

    :param where: name of the column, for the error
    :raises TrainingError: a label is missing, infinite, or not valid for the task
    """
    values = column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if missing := values.null_count:
        raise TrainingError(
            f"{where} is missing in {missing:,} of {len(values):,} rows: remove these rows before training."
        )
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int64())
    text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if text and task != "regression":
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=object)
    try:
        numbers = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        raise TrainingError(f"{where} is of type {values.type}, which cannot be the label of a {task} task.") from None
    if bad := int((~np.isfinite(numbers)).sum()):
        raise TrainingError(
            f"{where} is NaN or infinite in {bad:,} of {len(numbers):,} rows: remove these rows before training."
        )
    if task == "regression":
        return np.asarray(numbers)
    whole = numbers.astype(np.int64)
    if (whole != numbers).any():
        raise TrainingError(
            f"{where} has fractions, but the task is {task}: use task='regression', or convert the label to classes."
        )
    return whole


def check_parts(dataset: Dataset, parts: Mapping[str, TrainingData]) -> None:
    """Check the parts for data that no model can be trained on.

    :param parts: the part ``train``, and any others
    :raises TrainingError: the error names the part or the column
    """
    name, train = dataset.manifest.name, parts[TRAIN]
    for part, data in parts.items():
        if not len(data.labels):
            raise TrainingError(f"Part {part!r} of {name} has no rows.")
        infinite = {
            feature.name: rows
            for feature in data.features
            if feature.kind != "string" and (rows := int(np.isinf(data.frame[feature.name].to_numpy()).sum()))
        }
        if infinite:
            raise TrainingError(
                f"Part {part!r} of {name} has infinite values, or values beyond single precision, in "
                f"{_counts(infinite)}: replace them by nulls, which count as missing values, or remove these rows."
            )
    empty = [name for name in train.table.column_names if _all_missing(train, name)]
    if empty:
        raise TrainingError(
            f"Feature {', '.join(map(repr, empty))} of {name} has no value in any row of part {TRAIN!r}: "
            "remove it from the training set, or find out why it is empty."
        )
    if train.task == "regression":
        return
    if len(train.classes) < 2:
        raise TrainingError(
            f"All {len(train.labels):,} rows of part {TRAIN!r} of {name} have the label {train.classes[0]!r}: "
            "use a longer window."
        )
    if train.task == "binary" and len(train.classes) > 2:
        raise TrainingError(
            f"Label {train.label!r} of {name} has {len(train.classes)} classes, but the task is binary."
        )
    for part, data in parts.items():
        if unknown := [value for value in data.classes if value not in train.classes]:
            raise TrainingError(
                f"Part {part!r} of {name} has the label {unknown[0]!r}, which is not in part {TRAIN!r}: "
                "use a longer window, or another split."
            )


def _counts(rows: dict[str, int]) -> str:
    return ", ".join(f"{name!r} ({count:,} row{'s' if count > 1 else ''})" for name, count in rows.items())


def _all_missing(data: TrainingData, name: str) -> bool:
    column = data.table.column(name)
    kind = next(feature.kind for feature in data.features if feature.name == name)
    return column.null_count == len(column) or (kind != "string" and bool(data.frame[name].isna().all()))
