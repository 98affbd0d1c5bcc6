"""The metric ``pinball`` of models that predict a quantile of the label, such as the 90% quantile.

The loss of a row is ``alpha * (label - prediction)`` if the label is above the prediction, and otherwise
``(1 - alpha) * (prediction - label)``. The mean loss is smallest for the true quantile (R. Koenker and G. Bassett, "Regression
Quantiles", Econometrica 1978). RMSE is smallest for the mean, so it does not judge a quantile.

A declaration names the quantile: ``{"metric": "pinball", "alpha": 0.9}``. Everywhere else, one name contains both, such as
``pinball_a0.9``, which is valid in MLflow.

This module imports no heavy library, because DAG files that declare gates import this module during parsing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PINBALL = "pinball"

_METRIC = re.compile(rf"{PINBALL}_a(0\.\d+)")


def alpha_of(metric: str) -> float | None:
    """Return the quantile that the name of a metric contains; ``None`` for other metrics."""
    found = _METRIC.fullmatch(metric)
    if found is None:
        return None
    alpha = float(found[1])
    # A second spelling, such as a0.90, would be a second name for the same metric.
    return alpha if 0 < alpha < 1 and metric == name_of(alpha) else None


def name_of(alpha: float) -> str:
    """Return the name of the metric for a quantile, from 0.0001 to 0.9999."""
    return f"{PINBALL}_a{alpha!r}"


def name_alpha(declared: Any) -> Any:
    """Replace ``pinball`` and its quantile in a declaration by the name of the metric.

    A declaration of another metric is returned unchanged.

    :param declared: the fields of a declaration, among others ``metric``
    :raises ValueError: ``alpha`` is missing, or not a number from 0.0001 to 0.9999
    """
    if not isinstance(declared, Mapping) or declared.get("metric") != PINBALL:
        return declared
    value = declared.get("alpha")
    # Smaller numbers are written with an exponent.
    if isinstance(value, bool) or not isinstance(value, float) or not 0.0001 <= value <= 0.9999:
        raise ValueError(
            f"alpha is {value!r}, but the alpha of {PINBALL} must be a number from 0.0001 to 0.9999, such as 0.9 for the 90% quantile"
        )
    return {**{key: item for key, item in declared.items() if key != "alpha"}, "metric": name_of(value)}
