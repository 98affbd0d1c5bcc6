"""Find the held-out rows that the training sets of all candidates have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import DatasetNotFoundError, SpecError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.row_identity import identity_columns, row_ids, shared_rows
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.training_data import TRAIN


def common_training_set(contracts: Sequence[ModelContract], part: str, store: ArtifactStore) -> Dataset:
    """Open the training set of the candidates. If there are several, their held-out rows must be the same.

    The training set with the most rows is opened. For each training set, BuildTrainingSetOperator has verified that no
    held-out row is a training row. No candidate was therefore trained on a held-out row.

    :param contracts: the contracts of the candidates
    :param part: name of the held-out split part, such as ``test``
    :param store: artifact store with the training sets
    :raises SpecError: the held-out rows of two training sets differ, or are not known to be the same
    :raises DatasetNotFoundError: a training set does not exist any more
    """
    refs = {item.dataset_id: DatasetRef(name=item.dataset_name, id=item.dataset_id, rows=0) for item in contracts}
    datasets = [open_dataset(store, ref) for ref in refs.values()]
    weights = sorted({item.sample_weight for item in contracts if item.sample_weight})
    largest = max(datasets, key=lambda dataset: (dataset.rows, dataset.manifest.id))
    for other in datasets:
        if other is not largest and (problem := _difference(largest, other, part, weights)):
            raise SpecError(
                f"The candidates were trained on different datasets, and {problem}, so their metrics cannot be compared. "
                'Build all training sets with the same held-out rows, for example with split={"method": "time", '
                '"test_size": "14D"} and windows with the same end, or set `dataset` to a dataset that contains none of their '
                "training rows."
            )
    return largest


def refuse_training_rows(
    contracts: Mapping[ModelVersionRef, ModelContract], dataset: Dataset, part: str, store: ArtifactStore
) -> None:
    """Check that no candidate was trained on the compared rows.

    Such a candidate would have an advantage over the others. Rows are therefore checked if the candidates have
    different training sets. A training set is not checked if it no longer exists or identifies rows by other columns.

    :param contracts: the contract of each candidate
    :param dataset: the dataset on which the candidates are compared
    :param part: the split part of this dataset
    :raises SpecError: a candidate was trained on some of the rows
    """
    own = dataset.manifest.id
    if len({contract.dataset_id for contract in contracts.values()}) < 2:
        return
    for ref, contract in contracts.items():
        if not contract.dataset_id or (contract.dataset_id == own and part != TRAIN):
            continue
        try:
            trained_on = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
            shared = shared_rows(dataset, part, trained_on, TRAIN) if TRAIN in trained_on.ref.parts else None
        except DatasetNotFoundError:
            continue
        if shared:
            raise SpecError(
                f"{ref} was trained on {shared:,} of the rows of the comparison, so it would have an advantage over the other "
                "candidates. Set `dataset` to a dataset that contains no training rows of the candidates, or remove `dataset` "
                "if their training sets have the same held-out rows."
            )


def _difference(first: Dataset, second: Dataset, part: str, weights: Sequence[str]) -> str | None:
    """Return a clause that explains how the held-out rows of two training sets differ; ``None`` if they are the same.

    :param weights: names of the columns with row weights
    """
    details, others = first.manifest.details, second.manifest.details
    if (details.get("label"), details.get("task")) != (others.get("label"), others.get("task")):
        return "their labels or ML tasks differ"
    # The hash of the row ids covers keys and event times.
    here, there = (((item.get("split") or {}).get("row_ids") or {}).get(part) for item in (details, others))
    if here is None or there is None:
        return f"it is unknown whether their split parts {part!r} have the same rows"
    if here != there:
        return f"the rows of their split parts {part!r} differ"
    if _contents(first, part) == _contents(second, part):
        return None
    column = _different_column(first, second, part, weights)
    return f"the values of {column!r} in their split parts {part!r} differ" if column else None


def _contents(dataset: Dataset, part: str) -> list[tuple[int, str]]:
    return [(file.rows, file.values) for file in dataset.files(part)]


def _different_column(first: Dataset, second: Dataset, part: str, weights: Sequence[str]) -> str | None:
    """Return the first column (label, feature or weight) whose values differ for the same keys; ``None`` if all agree."""
    keys = identity_columns(first)
    details = first.manifest.details
    if lacking := [name for name in weights if name not in second.manifest.column_names]:
        return lacking[0]
    compared = [details["label"], *details["features"], *weights]
    both = [name for name in compared if name in second.manifest.column_names]
    wanted = list(dict.fromkeys([*keys, *both]))
    here, there = first.table(part, wanted), second.table(part, wanted)
    for name in both:
        columns = list(dict.fromkeys([*keys, name]))
        found = [
            np.sort(row_ids(_comparable(table, name, other), columns))
            for table, other in ((here, there), (there, here))
        ]
        if not np.array_equal(found[0], found[1]):
            return str(name)
    return None


def _comparable(table: pa.Table, name: str, other: pa.Table) -> pa.Table:
    """Convert an integer column to floating point if it is floating point in the other table."""
    kind, target = table.schema.field(name).type, other.schema.field(name).type
    if pa.types.is_integer(kind) and pa.types.is_floating(target):
        return table.set_column(table.schema.get_field_index(name), name, table[name].cast(target))
    return table
