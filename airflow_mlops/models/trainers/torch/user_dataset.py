"""Read rows through a user-defined ``torch.utils.data.Dataset``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Dataset, default_collate

from airflow_mlops.core import imports
from airflow_mlops.core.contract import FeatureColumn, Task
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.inputs import column, numbers
from airflow_mlops.models.trainers.torch.reader import Batch, Share, class_indices

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class UserDataset:
    """A reader that passes each row group to a user-defined Dataset and batches its items ``(input, label)``.

    :param path: import path of a class or function ``(rows, features, label, **params) -> torch.utils.data.Dataset``
    :param params: further arguments of the class or function
    :param task: the ML task (binary, multiclass, regression)
    :param label_name: name of the label column
    :param features: names and kinds of the features
    :param classes: class labels; empty for a regression
    :param label: mean and standard deviation of the label; always (0, 1), because labels are not standardised
    :raises SpecError: a feature is text
    """

    path: str
    params: dict[str, Any]
    task: Task
    label_name: str
    features: list[FeatureColumn]
    classes: list[Any]
    label: tuple[float, float] = (0.0, 1.0)
    # A Dataset may augment its items with random numbers.
    repeatable: bool = False

    def __post_init__(self) -> None:
        if textual := [feature.name for feature in self.features if feature.kind == "string"]:
            raise SpecError(
                f"The feature {textual[0]!r} is text, but a trainer with dataset={self.path!r} supports only numeric "
                "features. Convert it to numbers in the feature view, or remove `dataset`."
            )

    @property
    def columns(self) -> list[str]:
        return [*self.names, self.label_name]

    @property
    def names(self) -> list[str]:
        return [feature.name for feature in self.features]

    @property
    def shape(self) -> dict[str, Any]:
        return {}

    def inputs(self, data: pa.RecordBatch | pa.Table) -> tuple[NDArray[Any], ...]:
        items = self._items(self._rows(data), None)
        if len(items) != data.num_rows:
            raise TrainingError(
                f"The dataset {self.path!r} returned {len(items):,} items for {data.num_rows:,} rows to predict. With "
                "label=None it must return exactly one item for each row."
            )
        return self._collate(items, range(len(items)), 1)

    def batch(self, data: pa.RecordBatch, share: Share, *, even: bool) -> Batch:
        labels = (
            pc.cast(column(data, self.label_name), pa.float64())
            if self.task == "regression"
            else pa.array(class_indices(data, self.label_name, self.classes))
        )
        items = self._items(self._rows(data).append_column(self.label_name, labels), self.label_name)
        indices = share.indices(len(items), even=even)
        if not indices:
            return Batch((), np.empty(0))
        values, found = self._collate(items, indices, 2)
        return Batch((values,), found.astype(np.float32 if self.task == "regression" else np.int64))

    def _rows(self, data: pa.RecordBatch | pa.Table) -> pa.Table:
        return pa.table({name: numbers(column(data, name), name) for name in self.names})

    def _items(self, rows: pa.Table, label: str | None) -> Any:
        make: Any = imports.load(self.path, "dataset")
        try:
            items = make(rows, self.names, label, **self.params)
        except TypeError as error:
            raise SpecError(
                f"The dataset {self.path!r} cannot be created with dataset_params={self.params}: {error}. It is called "
                "with rows, features, label and the trainer's `dataset_params` as keyword arguments."
            ) from None
        if not isinstance(items, Dataset) or not hasattr(items, "__len__"):
            raise SpecError(
                f"The dataset {self.path!r} returned an object of type {type(items).__name__}, but it must return a "
                "torch.utils.data.Dataset with a length."
            )
        return items

    def _collate(self, items: Any, indices: Sequence[int], width: int) -> tuple[NDArray[Any], ...]:
        """Stack the items at ``indices`` into arrays.

        :param width: number of values that an item must have, 2 for (input, label) and 1 for an input
        """
        found = [items[index] for index in indices]
        actual = len(found[0]) if isinstance(found[0], list | tuple) else 1
        if actual != width:
            raise SpecError(
                f"An item of the dataset {self.path!r} has {actual} values. It must be a pair of input and label, or only "
                "the input if label is None."
            )
        columns = default_collate(found) if width > 1 else [default_collate(found)]
        return tuple(np.asarray(values) for values in columns)
