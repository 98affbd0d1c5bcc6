"""Read the split parts (`train`, `test`) of a training set, and check them before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import THRESHOLD, ModelContract, Task
from airflow_mlops.core.errors import DatasetNotFoundError, TrainingError, named
from airflow_mlops.data.columns import reserved_message
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.row_weights import RowWeights
from airflow_mlops.data.sample_weights import check_column, numbers
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.trainers.base import FittedModel, TrainingData

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAIN, TEST = "train", "test"
# Number of rows that are checked before a training set is streamed.
SAMPLE_ROWS = 100_000


def read_part(dataset: Dataset, part: str | None, sample: int | None = None) -> TrainingData:
    """Read one split part of the training set, or all rows.

    :param dataset: the training set
    :param part: name of the split part, such as ``train``; ``None`` for all rows
    :param sample: approximate number of rows to read features from, spread over the split part; by default all rows.
        The labels are always read from all rows, and the weights are left out
    :raises TrainingError: the dataset is not a training set, the split part does not exist, or a label is invalid
    :raises WeightError: the column of weights is absent, is used for something else, or has values that are not weights
    """
    details, name = dataset.manifest.details, dataset.manifest.name
    label, task, names = details.get("label"), details.get("task"), list(details.get("features") or ())
    if not label or not task or not names:
        raise TrainingError(
            f"Dataset {name!r} is not a training set, because its manifest does not name a label, an ML task and features. "
            "Build it with BuildTrainingSetOperator and set `label`."
        )
    weights = RowWeights.of(dataset)
    weighted = weights.columns if weights and not sample else []
    if dataset.sample_weight is not None:
        check_column(dataset, dataset.sample_weight)
    try:
        table = dataset.table(part, [label] if sample else list(dict.fromkeys([*names, label, *weighted])))
    except DatasetNotFoundError:
        raise TrainingError(
            f"Training set {name!r} has no split part {part!r}. Set `split` in BuildTrainingSetOperator."
        ) from None
    where = f"split part {part!r}" if part else "all split parts"
    labels = label_values(table.column(label), task, f"Label {label!r} in {where} of {name!r}")
    row_weights = weights.weights(table, dataset, part) if weights and weighted else None
    sampled = numbers(table.column(weights.sample)) if weights and weights.sample and weighted else None
    classes = [] if task == "regression" else np.unique(labels).tolist()
    selected = _sample(dataset, part, names, sample) if sample else table.select(names).combine_chunks()
    features = feature_columns(selected.schema, names)
    positive = details.get("positive", classes[-1] if classes else None) if task == "binary" else None
    return TrainingData(
        task,
        label,
        features,
        selected,
        frame(selected, features),
        labels,
        classes,
        positive,
        weights=row_weights,
        metric_weights=sampled,
    )


def _sample(dataset: Dataset, part: str | None, names: list[str], rows: int) -> pa.Table:
    groups = dataset.row_groups(part)
    each = -(-rows // len(groups))
    # A slice would keep its whole row group in memory.
    found = [copy_of_first(dataset.read_row_group(group, names), each) for group in groups]
    return pa.Table.from_batches(found).combine_chunks()


def copy_of_first(rows: pa.RecordBatch, count: int) -> pa.RecordBatch:
    """Copy the first ``count`` rows, so that the other rows can be freed."""
    return rows.take(pa.array(np.arange(min(count, rows.num_rows))))


def label_values(column: pa.ChunkedArray, task: Task, where: str) -> NDArray[Any]:
    """Convert labels to float64 (regression) or to int64 or text (classification).

    :param column: the labels of n rows
    :param where: description of the label column, which starts the error message
    :return: shape (n,)
    :raises TrainingError: a label is null, infinite, too large, or not valid for the ML task
    """
    values = column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if missing := values.null_count:
        raise TrainingError(
            f"{where} is null in {missing:,} of {len(values):,} rows. Remove these rows from the training set."
        )
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int64())
    text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if text and task != "regression":
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=object)
    try:
        numbers = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        if pa.types.is_integer(values.type):
            bounds = pc.min_max(values).as_py()
            fix = "Rescale the label." if task == "regression" else "Convert the label to text."
            raise TrainingError(
                f"{where} contains {max(bounds.values(), key=abs)}, but double precision represents integers exactly only "
                f"up to 2**53. {fix}"
            ) from None
        raise TrainingError(
            f"{where} has the type {values.type}, which cannot be the label of a {task} task. Convert it, or set `task`."
        ) from None
    if bad := int((~np.isfinite(numbers)).sum()):
        raise TrainingError(
            f"{where} is NaN or infinite in {bad:,} of {len(numbers):,} rows. Remove these rows from the training set."
        )
    if task == "regression":
        if large := int((np.abs(numbers) > np.finfo(np.float32).max).sum()):
            raise TrainingError(
                f"{where} is beyond single precision (3.4e38), in which ONNX models predict, in {large:,} of "
                f"{len(numbers):,} rows. Correct the label, or remove these rows from the training set."
            )
        return np.asarray(numbers)
    if (large := np.abs(numbers) >= 2.0**63).any():
        raise TrainingError(
            f"{where} contains {numbers[large][0]:g}, which is too large for a class. Convert the label to text."
        )
    whole = numbers.astype(np.int64)
    if (whole != numbers).any():
        raise TrainingError(
            f"{where} has non-integer values, but the ML task is {task}. Set task='regression', or convert the label to "
            "integers or text."
        )
    return whole


def new_contract(dataset: Dataset, data: TrainingData, model: FittedModel) -> ModelContract:
    """Return the model contract of a model that was fitted to ``data``, without metrics.

    :param dataset: the training set
    :param data: the data that the model was fitted to
    :param model: the fitted model
    :raises ModelFormatError: the model does not choose the class by the probability of the positive class
    """
    binary = data.task == "binary"
    return ModelContract(
        task=data.task,
        label=data.label,
        features=data.features,
        classes=data.classes,
        positive=data.positive if binary else None,
        threshold=model.threshold(data.positive) if binary else THRESHOLD,
        dataset_name=dataset.manifest.name,
        dataset_id=dataset.manifest.id,
        timestamp=dataset.manifest.details.get("timestamp"),
        sample_weight=dataset.sample_weight,
    )


def check_parts(dataset: Dataset, parts: Mapping[str, TrainingData]) -> None:
    """Check that a model can be trained and measured on the split parts.

    :param dataset: the training set, which the errors name
    :param parts: the split part ``train``, and optionally others, by name
    :raises TrainingError: in these cases: a split part has no rows or infinite values; a feature has a reserved name,
        or no values in `train`; the labels do not fit the ML task; all rows of `train` with a weight above 0 have the
        same class; a binary split part has a label that does not occur in `train`; or a multiclass split part has no
        label that occurs in `train`
    """
    name, train = dataset.manifest.name, parts[TRAIN]
    if taken := reserved_message([feature.name for feature in train.features], f"Training set {name!r}"):
        raise TrainingError(taken)
    for part, data in parts.items():
        if not len(data.labels):
            raise TrainingError(
                f"Split part {part!r} of training set {name!r} has no rows. Use a longer window, or another split."
            )
        infinite = {
            feature.name: rows
            for feature in data.features
            if feature.kind != "string" and (rows := int(np.isinf(data.frame[feature.name].to_numpy()).sum()))
        }
        if infinite:
            raise TrainingError(
                f"Split part {part!r} of training set {name!r} has infinite values, or values beyond single precision "
                f"(3.4e38), in {_counts(infinite)}. Replace them with nulls, or remove these rows."
            )
    empty = [name for name in train.table.column_names if _all_missing(train, name)]
    if empty:
        raise TrainingError(
            f"Training set {name!r} has only nulls in split part {TRAIN!r} for the {named('feature', empty)}. "
            "Remove features without values from the training set, or fill them."
        )
    if train.task == "regression":
        return
    if len(train.classes) < 2:
        raise TrainingError(
            f"All {len(train.labels):,} rows of split part {TRAIN!r} of training set {name!r} have the label "
            f"{train.classes[0]!r}, but training needs two classes. Use a longer window."
        )
    if train.weights is not None and len(weighted := np.unique(train.labels[train.weights > 0]).tolist()) < 2:
        raise TrainingError(
            f"All rows of split part {TRAIN!r} of training set {name!r} with a weight above 0 have the label {weighted[0]!r}, but training "
            "needs two classes. Use a longer window, or other weights."
        )
    if train.task == "binary" and len(train.classes) > 2:
        raise TrainingError(
            f"Label {train.label!r} of training set {name!r} has {len(train.classes)} classes, but the ML task is binary. "
            "Set task='multiclass'."
        )
    for part, data in parts.items():
        # In a multiclass task, all rows of a rare class may be held out. They count as errors, see unseen_classes().
        if train.task == "binary" and (unknown := unseen_classes(train, data)):
            raise TrainingError(
                f"Split part {part!r} of training set {name!r} has the label {unknown[0]!r}, which does not occur in split "
                f"part {TRAIN!r}. Use a longer window, or another split."
            )
    seen = [data for part, data in parts.items() if part != TRAIN and set(data.classes) & set(train.classes)]
    if len(seen) < len(parts) - 1:
        raise TrainingError(
            f"No label of split part {TRAIN!r} of training set {name!r} occurs in another split part. Use a longer window, or "
            "another split."
        )


def unseen_classes(train: TrainingData, held_out: TrainingData) -> list[Any]:
    """Return the classes that occur only in held-out rows.

    The model cannot predict these classes, so its predictions for rows of these classes are always wrong.
    """
    return [value for value in held_out.classes if value not in train.classes]


def _counts(rows: dict[str, int]) -> str:
    return ", ".join(f"{name!r} ({count:,} row{'s' if count > 1 else ''})" for name, count in rows.items())


def _all_missing(data: TrainingData, name: str) -> bool:
    column = data.table.column(name)
    kind = next(feature.kind for feature in data.features if feature.name == name)
    return column.null_count == len(column) or (kind != "string" and bool(data.frame[name].isna().all()))
