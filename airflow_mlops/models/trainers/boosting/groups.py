"""The rows of a ranking, sorted by group, because the libraries need the rows of a group next to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.metrics.clusters import codes
from airflow_mlops.metrics.groups import wrong_relevance
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.boosting.encoding import Encoding
from airflow_mlops.models.trainers.boosting.rows import Chunks, Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


class GroupedRows(Rows):
    """Training rows or validation rows of a ranking. All rows are held in memory, as one chunk.

    :class:`~airflow_mlops.models.trainers.boosting.rows.Rows` explains the other parameters.

    :param given: code of the group of each of the n rows of all chunks, shape (n,)
    """

    def __init__(
        self,
        chunks: Chunks,
        encoding: Encoding,
        chosen: NDArray[np.bool_],
        labels: NDArray[np.float64],
        given: NDArray[np.int64],
    ) -> None:
        super().__init__(chunks, encoding, chosen, labels, None)
        self._rows = Rows(chunks, encoding, chosen, labels, None)
        self._order = np.argsort(given[chosen], kind="stable")
        self.groups = given[chosen][self._order]
        self.labels = self.labels[self._order]
        self._sorted: NDArray[np.float32] | None = None

    @property
    def fit_into_cache(self) -> bool:
        return True

    @property
    def spans(self) -> list[tuple[int, int]]:
        return [(0, len(self))]

    @property
    def chunks(self) -> list[int]:
        return [0]

    def matrix(self, chunk: int) -> NDArray[np.float32]:
        return self.all()

    def all(self) -> NDArray[np.float32]:
        if self._sorted is None:
            self._sorted = self._rows.all()[self._order]
            self._rows.drop_cache()
        return self._sorted

    def drop_cache(self) -> None:
        self._sorted = None


def read_groups(
    column: str, data: TrainingData, run: TrainingRun | None, weights: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Read the code of the group of each row, shape (n,).

    :param column: name of the column of the groups
    :param data: the labels of all rows
    :param run: the training set; ``None`` for rows in memory
    :param weights: the weights of the rows
    :raises SpecError: there is no training set with the column, or the rows have weights
    :raises TrainingError: the column is null in some rows, or the labels are not valid as relevance
    """
    if run is None:
        raise SpecError(
            f"A trainer with group={column!r} needs a training set with this column, and cannot be fitted to rows in memory."
        )
    if weights is not None:
        raise SpecError(
            f"The trainer has group={column!r}, and the rows have weights (Decay or `sample_weight`), which a ranking does not support. "
            "Remove one of the two."
        )
    name = run.dataset.manifest.name
    if column not in run.dataset.manifest.column_names:
        raise SpecError(
            f"The trainer has group={column!r}, which is not a column of training set {name!r}. Name the column in `keys` or `watched` of "
            "BuildTrainingSetOperator, or correct `group`."
        )
    values = run.dataset.table(run.part, [column]).column(column)
    if values.null_count:
        raise TrainingError(
            f"Column {column!r} of training set {name!r}, which names the groups of a ranking, is null in "
            f"{counted(values.null_count, 'row')}. Fill the nulls, or leave these rows out."
        )
    labels = np.asarray(data.labels, dtype=np.float64)
    if (wrong := wrong_relevance(labels)) is not None:
        raise TrainingError(
            f"A ranking cannot be trained on training set {name!r}, because {wrong}. Set the label to the relevance of each row."
        )
    if fractions := int((labels != np.floor(labels)).sum()):
        raise TrainingError(
            f"A ranking cannot be trained on training set {name!r}, because {fractions:,} of {len(labels):,} labels are not whole numbers. "
            "Round the label."
        )
    return codes(values)
