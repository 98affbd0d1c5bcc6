"""Chooses the label of each prediction for which several rows of labels were found."""

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
    """The rows of labels that have the key of a prediction.

    :param prediction: row of the prediction of each pair, shape (n,)
    :param label: row of the label of each pair, shape (n,)
    :param predictions: number of predictions
    """

    prediction: NDArray[np.int64]
    label: NDArray[np.int64]
    predictions: int

    @property
    def repeated(self) -> int:
        """Return the number of predictions with several rows of labels."""
        return int((np.bincount(self.prediction, minlength=self.predictions) > 1).sum())

    def choose(self, values: pa.Array, order: pa.Array | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose a row of labels for each prediction.

        The rows with the greatest value of ``order`` are considered. If several rows are left and have the same label, the
        last one is chosen. Without ``order``, a null label is not yet known, and a row with a known label is chosen instead.

        :param values: all labels
        :param order: a number for each label that grows with each correction; ``None`` if there is no order
        :return: row of the label of each prediction, -1 without a label; and the predictions for which contradicting labels
            are left
        """
        kept = self
        if order is not None:
            kept = kept._with_the_greatest(order.to_numpy()[self.label])
        codes = _codes(values)
        if order is None:
            kept = kept._with_the_greatest((codes[kept.label] >= 0).astype(np.int64))
        row, greatest = (np.full(self.predictions, -1) for _ in range(2))
        least = np.full(self.predictions, np.iinfo(np.int64).max)
        np.maximum.at(row, kept.prediction, kept.label)
        np.maximum.at(greatest, kept.prediction, codes[kept.label])
        np.minimum.at(least, kept.prediction, codes[kept.label])
        return row, np.flatnonzero((row >= 0) & (least != greatest))

    def _with_the_greatest(self, rank: NDArray[np.int64]) -> Found:
        """Keep the pairs whose rank is the greatest of their prediction."""
        greatest = np.full(self.predictions, -1)
        np.maximum.at(greatest, self.prediction, rank)
        kept = rank == greatest[self.prediction]
        return Found(self.prediction[kept], self.label[kept], self.predictions)


def _codes(values: pa.Array) -> NDArray[np.int64]:
    """Return a code for each distinct label, and -1 for a label that is null or NaN."""
    plain = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    codes = plain.dictionary_encode().indices
    missing = pc.is_null(plain, nan_is_null=True).to_numpy(zero_copy_only=False)
    return np.where(missing, -1, pc.fill_null(codes, 0).to_numpy(zero_copy_only=False).astype(np.int64))
