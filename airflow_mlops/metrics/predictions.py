"""A model's predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for n rows.

    :param prediction: the predicted class label or value, shape (n,)
    :param score: float64, shape (n,): the probability of the positive class (binary), the largest probability
        (multiclass), or the value (regression). For a classifier without probabilities: 1 for the positive and 0 for the
        negative class (binary), or the position of the label among the classes of the model contract (multiclass)
    :param probabilities: float64, shape (n, k), in the order of the classes of the model contract; ``None`` for a
        regression and for a classifier without probabilities
    """

    prediction: NDArray[Any]
    score: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None
