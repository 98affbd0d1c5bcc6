"""Encode features for a network: standardised numeric features, and category codes for text features."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import FeatureColumn, Task
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.inputs import column, numbers, texts
from airflow_mlops.models.trainers.torch.reader import Batch, Share, class_indices
from airflow_mlops.models.trainers.vocabulary import most_frequent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset


@dataclass(frozen=True)
class Encoding:
    """Converts rows to the inputs of a network. The encoding is learned from the split part ``train`` in one pass.

    :param task: the ML task (binary, multiclass, regression)
    :param label_name: name of the label column
    :param features: names and kinds of the features
    :param classes: class labels; empty for a regression
    :param means: mean of each numeric feature over its values that are not null, shape (number of numeric features,)
    :param scales: standard deviation of each numeric feature, same shape; 1 for a constant feature
    :param vocabularies: for each text feature, the sorted list of its most frequent texts in the training data. The
        category code of a text is the position of the text in this list plus 1
    :param label: regression: mean and standard deviation of the label; classification: (0, 1)
    :param rows: number of training rows
    :param repeatable: whether a row always gives the same inputs; always ``True``
    """

    task: Task
    label_name: str
    features: list[FeatureColumn]
    classes: list[Any]
    means: NDArray[np.float32]
    scales: NDArray[np.float32]
    vocabularies: list[list[str]]
    label: tuple[float, float]
    rows: int
    repeatable: bool = True

    @property
    def numeric(self) -> list[str]:
        return [feature.name for feature in self.features if feature.kind != "string"]

    @property
    def textual(self) -> list[str]:
        return [feature.name for feature in self.features if feature.kind == "string"]

    @property
    def columns(self) -> list[str]:
        return [*self.numeric, *self.textual, self.label_name]

    @property
    def shape(self) -> dict[str, Any]:
        return {
            "numbers": 2 * len(self.numeric),
            "texts": [len(known) + 1 for known in self.vocabularies],
            "outputs": max(1, len(self.classes)),
        }

    @classmethod
    def learn(
        cls,
        dataset: Dataset,
        part: str | None,
        label: str,
        task: Task,
        features: Sequence[FeatureColumn],
        classes: list[Any],
    ) -> Encoding:
        """Learn the encoding in one pass over the training rows.

        :param dataset: the training set
        :param part: name of the split part to read; ``None`` for all rows
        :param label: name of the label column
        :param task: the ML task (binary, multiclass, regression)
        :param features: names and kinds of the features
        :param classes: class labels; empty for a regression
        :raises TrainingError: a feature has infinite values, or values beyond single precision
        """
        numeric = [feature.name for feature in features if feature.kind != "string"]
        textual = [feature.name for feature in features if feature.kind == "string"]
        # The last column is the label. Only the label of a regression is standardised, like a feature.
        moments = _Moments(len(numeric) + 1)
        counts: list[Counter[str]] = [Counter() for _ in textual]
        rows = 0
        for batch in dataset.batches(part, [*numeric, *textual, label]):
            rows += batch.num_rows
            for place, name in enumerate(numeric):
                values = numbers(column(batch, name), name).astype(np.float64)
                if np.isinf(values).any():
                    raise TrainingError(
                        f"Feature {name!r} in {f'split part {part!r}' if part else 'a split part'} of training set {dataset.manifest.name!r} has infinite "
                        "values, or values beyond single precision (3.4e38). Replace them with nulls, or remove these rows."
                    )
                moments.add(place, values)
            if task == "regression":
                moments.add(len(numeric), _label_values(batch, label))
            for counter, name in zip(counts, textual, strict=True):
                found = pc.value_counts(texts(column(batch, name), name).dictionary_decode()).to_pylist()
                counter.update({item["values"]: item["counts"] for item in found})
        means, scales = moments.means, moments.scales()
        return cls(
            task=task,
            label_name=label,
            features=list(features),
            classes=classes,
            means=means[:-1].astype(np.float32),
            scales=scales[:-1].astype(np.float32),
            vocabularies=[most_frequent(counter) for counter in counts],
            label=(float(means[-1]), float(scales[-1])) if task == "regression" else (0.0, 1.0),
            rows=rows,
        )

    def inputs(self, data: pa.RecordBatch | pa.Table) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Encode rows.

        :return: two arrays. The first is float32 of shape (n, 2 * number of numeric features) and contains the
            standardised values (0 for a null), followed by an indicator of nulls for each numeric feature. The second
            is int64 of shape (n, number of text features) and contains category codes (0 for a text that is not in the
            vocabulary)
        """
        encoded = np.zeros((data.num_rows, 2 * len(self.numeric)), dtype=np.float32)
        for place, name in enumerate(self.numeric):
            values = numbers(column(data, name), name)
            missing = np.isnan(values)
            encoded[:, place] = np.where(missing, 0, (values - self.means[place]) / self.scales[place])
            encoded[:, len(self.numeric) + place] = missing
        indices = np.zeros((data.num_rows, len(self.textual)), dtype=np.int64)
        for place, (name, known) in enumerate(zip(self.textual, self.vocabularies, strict=True)):
            found = texts(column(data, name), name)
            codes = pc.index_in(found.dictionary, pa.array(known, found.dictionary.type))
            dictionary_indices = pc.fill_null(codes, -1).to_numpy(zero_copy_only=False) + 1
            if len(dictionary_indices):
                indices[:, place] = dictionary_indices[found.indices.to_numpy()]
        return encoded, indices

    def batch(self, data: pa.RecordBatch, share: Share, *, even: bool) -> Batch:
        if share.processes > 1:
            data = data.take(pa.array(share.indices(data.num_rows, even=even), pa.int64()))
        return Batch(self.inputs(data), self._labels(data))

    def _labels(self, data: pa.RecordBatch) -> NDArray[Any]:
        if self.task == "regression":
            mean, scale = self.label
            return ((_label_values(data, self.label_name) - mean) / scale).astype(np.float32)
        return class_indices(data, self.label_name, self.classes)


class _Moments:
    """Computes mean and standard deviation of several columns, batch by batch.

    Source: T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
    1979.
    """

    def __init__(self, columns: int) -> None:
        self._count, self.means, self._squares = (np.zeros(columns) for _ in range(3))

    def add(self, place: int, values: NDArray[np.float64]) -> None:
        """Add values of the column at position ``place``. NaN is ignored."""
        known = values[~np.isnan(values)]
        if not len(known):
            return
        difference = known.mean() - self.means[place]
        self._count[place] += len(known)
        count = self._count[place]
        self.means[place] += difference * len(known) / count
        self._squares[place] += ((known - known.mean()) ** 2).sum()
        self._squares[place] += difference**2 * len(known) * (count - len(known)) / count

    def scales(self) -> NDArray[np.float64]:
        """Compute the standard deviation of each column; 1 for a column that is constant up to rounding."""
        deviations = np.sqrt(self._squares / np.maximum(self._count, 1))
        return np.where(deviations > 1e-12 * np.maximum(1, np.abs(self.means)), deviations, 1.0)


def _label_values(data: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    return np.asarray(pc.cast(column(data, name), pa.float64()).to_numpy(zero_copy_only=False))
