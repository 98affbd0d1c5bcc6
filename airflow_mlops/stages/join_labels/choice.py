"""Choose the label of each prediction that matches several rows of the dataset of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Found:
    """Pairs of a prediction and a label with equal keys.

    :param prediction: row number of the prediction of each pair, shape (n,)
    :param label: row number of the label of each pair, shape (n,)
    :param predictions: number of predictions, with and without a label
    """

    prediction: NDArray[np.int64]
    label: NDArray[np.int64]
    predictions: int

    @property
    def matched(self) -> NDArray[np.bool_]:
        """Return whether each prediction matches a row of the dataset of labels, shape (predictions,)."""
        return np.bincount(self.prediction, minlength=self.predictions) > 0

    @property
    def repeated(self) -> int:
        """Return the number of predictions that match several rows of the dataset of labels."""
        return int((np.bincount(self.prediction, minlength=self.predictions) > 1).sum())

    def choose(
        self, values: pa.Array, order: pa.Array | None, weight: pa.Array | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose one label for each prediction.

        If ``order`` is set, only the labels of each prediction with the greatest ``order`` are considered. Otherwise, a
        null label is ignored if the prediction also has a label that is not null. Of the remaining rows, the last one is
        chosen.

        :param values: the labels, one per row of the dataset of labels
        :param order: a number for each label. A later correction of a label has a greater number. ``None`` if the order
            of the corrections is unknown
        :param weight: the weight in the row of each label; ``None`` if the rows have no weights
        :return: for each prediction, the row number of the chosen label, or -1 if the prediction has no label; and the
            row numbers of the predictions whose remaining rows have different labels or different weights
        """
        kept = self
        if order is not None:
            kept = kept._with_the_greatest(order.to_numpy()[self.label])
        codes = _codes(values)
        if order is None:
            kept = kept._with_the_greatest((codes[kept.label] >= 0).astype(np.int64))
        row = np.full(self.predictions, -1)
        np.maximum.at(row, kept.prediction, kept.label)
        different = kept._different(codes)
        if weight is not None and len(codes):
            # Different weights do not matter if the chosen label is null.
            different |= kept._different(_codes(weight)) & (codes[row] >= 0)
        return row, np.flatnonzero((row >= 0) & different)

    def _different(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether the pairs of each prediction have different codes, shape (predictions,)."""
        greatest = np.full(self.predictions, -1)
        least = np.full(self.predictions, np.iinfo(np.int64).max)
        np.maximum.at(greatest, self.prediction, codes[self.label])
        np.minimum.at(least, self.prediction, codes[self.label])
        return least != greatest

    def _with_the_greatest(self, rank: NDArray[np.int64]) -> Found:
        """Return the pairs with the greatest ``rank`` among all pairs of the same prediction."""
        greatest = np.full(self.predictions, -1)
        np.maximum.at(greatest, self.prediction, rank)
        kept = rank == greatest[self.prediction]
        return Found(self.prediction[kept], self.label[kept], self.predictions)


def _codes(values: pa.Array) -> NDArray[np.int64]:
    """Return an integer code for each label. Equal labels have the same code; null and NaN have the code -1."""
    plain = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    if pa.types.is_floating(plain.type):
        # Adding 0.0 turns -0.0 into 0.0.
        plain = pc.add(plain.cast(pa.float64()), 0.0)
    codes = plain.dictionary_encode().indices
    missing = pc.is_null(plain, nan_is_null=True).to_numpy(zero_copy_only=False)
    return np.where(missing, -1, pc.fill_null(codes, 0).to_numpy(zero_copy_only=False).astype(np.int64))
