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
    :param score: float64, shape (n,): the positive class's probability (binary), the value (regression) or the
        largest probability (multiclass). For a classifier without probabilities: 1 for the positive class and 0 for the
        other (binary), or the label's position among the contract's classes (multiclass)
    :param probabilities: float64, shape (n, k), in the order of the contract's classes; ``None`` for regression and for
        a classifier without probabilities
    """

    prediction: NDArray[Any]
    score: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None
