"""Rows by way of the user's own ``torch.utils.data.Dataset``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Dataset as Items
from torch.utils.data import default_collate

from airflow_mlops.core import imports
from airflow_mlops.core.contract import FeatureColumn, Task
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.inputs import column, numbers
from airflow_mlops.models.trainers.torch.data import Batch, Share, class_indices

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class OwnRows:
    """Each row group becomes one Dataset of the user, whose items are ``(input, label)``.

    :param path: import path of a class or function ``(rows, features, label, **params) -> torch.utils.data.Dataset``
    """

    path: str
    params: dict[str, Any]
    task: Task
    label_name: str
    features: list[FeatureColumn]
    classes: list[Any]
    label: tuple[float, float] = (0.0, 1.0)
    # A Dataset may draw random numbers.
    repeatable: bool = False

    def __post_init__(self) -> None:
        if textual := [feature.name for feature in self.features if feature.kind == "string"]:
            raise SpecError(
                f"The dataset {self.path} is given rows whose feature {textual[0]!r} is text, which no tensor holds: "
                "make numbers of it in the feature view, or leave out dataset= and take numbers and texts as inputs."
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
                f"The dataset {self.path} makes {len(items):,} items of {data.num_rows:,} rows without labels: then "
                "it must make one of each, as these are the rows to be predicted."
            )
        return self._collated(items, range(len(items)), 1)

    def batch(self, data: pa.RecordBatch, share: Share, *, even: bool) -> Batch:
        labels = (
            pc.cast(column(data, self.label_name), pa.float64())
            if self.task == "regression"
            else pa.array(class_indices(data, self.label_name, self.classes))
        )
        items = self._items(self._rows(data).append_column(self.label_name, labels), self.label_name)
        places = share.places(len(items), even=even)
        if not places:
            return Batch((), np.empty(0))
        values, found = self._collated(items, places, 2)
        return Batch((values,), found.astype(np.float32 if self.task == "regression" else np.int64))

    def _rows(self, data: pa.RecordBatch | pa.Table) -> pa.Table:
        return pa.table({name: numbers(column(data, name), name) for name in self.names})

    def _items(self, rows: pa.Table, label: str | None) -> Any:
        make: Any = imports.load(self.path, "dataset")
        try:
            items = make(rows, self.names, label, **self.params)
        except TypeError as error:
            raise SpecError(
                f"The dataset {self.path} cannot be made with {self.params}: {error}. It takes rows, features and "
                "label, and the trainer's dataset_params."
            ) from None
        if not isinstance(items, Items) or not hasattr(items, "__len__"):
            raise SpecError(f"{self.path!r} made a {type(items).__name__}, which is no Dataset with a length.")
        return items

    def _collated(self, items: Any, places: Sequence[int], width: int) -> tuple[NDArray[Any], ...]:
        found = [items[place] for place in places]
        of_item = len(found[0]) if isinstance(found[0], list | tuple) else 1
        if of_item != width:
            raise SpecError(
                f"The dataset {self.path} gives items of {of_item} values: an item is a pair of input and label, or the "
                "input alone where label is None."
            )
        columns = default_collate(found) if width > 1 else [default_collate(found)]
        return tuple(np.asarray(values) for values in columns)
