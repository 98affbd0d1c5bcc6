"""Multiply the weights of training rows by the weights of their classes (``class_weight=``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from airflow_mlops.core.errors import SpecError, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def with_class_weight(
    rule: Literal["balanced"] | dict[str, float],
    labels: NDArray[Any],
    classes: list[Any],
    weights: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Return the weight of each row, multiplied by the weight of its class.

    With ``balanced``, the sum of the weights is the same for each class, and the sum of all weights is unchanged. With
    a mapping, classes that the mapping does not name have the weight 1.

    :param rule: ``balanced``, or a mapping from class (as text) to weight
    :param labels: the label of each row, shape (n,)
    :param classes: the distinct labels, sorted; empty for a regression
    :param weights: the weight of each row, shape (n,); ``None`` if all rows have the weight 1
    :return: weights, shape (n,)
    :raises SpecError: the ML task is a regression, or the mapping names an unknown class
    :raises TrainingError: ``rule`` is ``balanced``, and the weights of all rows of a class are 0
    """
    if not classes:
        raise SpecError("`class_weight` is set, but a regression model has no classes. Remove `class_weight`.")
    number = np.searchsorted(np.asarray(classes), labels)
    rows = np.ones(len(labels)) if weights is None else weights
    if not isinstance(rule, dict):
        sums = np.bincount(number, weights=rows, minlength=len(classes))
        if not sums.all():
            raise TrainingError(
                f"`class_weight` cannot be balanced, because all rows of the class {classes[int(np.argmin(sums))]!r} have the "
                "weight 0. Use a longer half-life, or give the weight of each class."
            )
        factors = sums.sum() / (len(classes) * sums)
    else:
        known = [str(item) for item in classes]
        if unknown := [name for name in rule if name not in known]:
            raise SpecError(
                f"`class_weight` names the class {unknown[0]!r}, which the training rows do not have. Their classes are "
                f"{', '.join(known[:10])}{', …' if len(known) > 10 else ''}."
            )
        factors = np.array([rule.get(name, 1.0) for name in known])
    return np.asarray(rows * factors[number])
