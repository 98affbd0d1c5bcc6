"""The confusion matrix of labelled predictions, and metrics that are computed from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airflow_mlops.metrics.formulas import influence
from airflow_mlops.metrics.realised.labelled import Floats, Labelled, Outcomes
from airflow_mlops.metrics.rows import Rows

BY_CELL = ("balanced_accuracy", "f1", "f1_macro", "precision", "recall")
"""Metrics that the confusion matrix determines."""

Integers = npt.NDArray[np.int64]

_SHIFT = 32
# Matrices with at most this many cells are counted without sorting.
_DENSE = 1 << 20


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of labelled predictions, without cells that have no rows. It has m cells.

    :param keys: ``2**32`` times the code of the label, plus the code of the predicted class, ascending, shape (m,).
        Binary: 1 for the positive class
    :param mass: sum of the weights of the rows of each cell, or their number, shape (m,)
    :param squares: as ``mass``, for the squared weights
    :param is_binary: whether the ML task is binary
    :param is_weighted: whether the rows have weights
    """

    keys: Integers
    mass: Floats
    squares: Floats
    is_binary: bool
    is_weighted: bool

    @property
    def truth(self) -> Integers:
        """Return the code of the label of each cell, shape (m,)."""
        return self.keys >> _SHIFT

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Return whether the prediction of each cell is correct, shape (m,)."""
        return np.asarray(self.truth == self._predicted)

    @property
    def _predicted(self) -> Integers:
        return self.keys & (1 << _SHIFT) - 1

    def influence(self, metric: str) -> tuple[float, Floats]:
        """Compute a metric, and its derivative with respect to the weight of a row of each cell.

        :param metric: one of :data:`BY_CELL`
        :return: the metric and the derivatives, shape (m,)
        """
        kind = bool if self.is_binary else np.int64
        truth, predicted = self.truth.astype(kind), self._predicted.astype(kind)
        rows = Rows("binary" if self.is_binary else "multiclass", truth, predicted, None, self.mass)
        value, found = influence(metric, rows)
        return value, found / self.mass

    def cells(self, part: Outcomes) -> Integers:
        """Return the number of the cell of each row of a part, from 0, shape (n,)."""
        truth, predicted = _codes(part)
        return np.searchsorted(self.keys, (truth << _SHIFT) + predicted).astype(np.int64)


def confusion(outcomes: Labelled) -> Confusion:
    """Count the rows of each label and predicted class. Memory does not grow with the number of rows."""
    found = [_Part(np.empty(0, np.int64), np.empty(0), np.empty(0))]
    is_binary, is_weighted = True, False
    for part in outcomes.parts():
        is_binary, is_weighted = part.codes is None, part.weight is not None
        found.append(_counted(part))
        # New parts wait until they have more cells than the merged part. All merges together then take linear time.
        if sum(len(item.keys) for item in found[1:]) > max(_DENSE, len(found[0].keys)):
            found = [_merged(found)]
    whole = _merged(found)
    return Confusion(whole.keys, whole.mass, whole.squares, is_binary, is_weighted)


@dataclass(frozen=True)
class _Part:
    keys: Integers
    mass: Floats
    squares: Floats


def _codes(part: Outcomes) -> tuple[Integers, Integers]:
    if part.codes is not None:
        return part.codes[0].astype(np.int64), part.codes[1].astype(np.int64)
    return part.truth.astype(np.int64), (part.truth == part.right).astype(np.int64)


def _counted(part: Outcomes) -> _Part:
    truth, predicted = _codes(part)
    side = 1 + max(int(truth.max(initial=0)), int(predicted.max(initial=0)))
    if side**2 <= _DENSE:
        cells, places = np.arange(side**2), truth * side + predicted
        keys = (cells // side << _SHIFT) + cells % side
    else:
        keys, places = np.unique((truth << _SHIFT) + predicted, return_inverse=True)
    size, weight = len(keys), part.weight
    mass = np.bincount(places, weight, size).astype(float)
    squares = mass if weight is None else np.bincount(places, np.square(weight), size).astype(float)
    some = mass > 0
    return _Part(keys[some], mass[some], squares[some])


def _merged(parts: Iterable[_Part]) -> _Part:
    items = list(parts)
    keys, places = np.unique(np.concatenate([item.keys for item in items]), return_inverse=True)
    mass, squares = (
        np.bincount(places, np.concatenate([getattr(item, name) for item in items]), len(keys)).astype(float)
        for name in ("mass", "squares")
    )
    return _Part(keys, mass, squares)
