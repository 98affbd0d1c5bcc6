"""The metrics of models that predict a quantile of the label, such as the 90% quantile.

- ``pinball`` shows which model is best.
- ``quantile_coverage_gap`` shows whether the predictions are the intended quantile.

The pinball loss of a row is ``alpha * (label - prediction)`` if the label is above the prediction, and otherwise
``(1 - alpha) * (prediction - label)``. The mean loss is smallest for the true quantile (R. Koenker and G. Bassett, "Regression
Quantiles", Econometrica 1978). RMSE is smallest for the mean, so it does not judge a quantile.

The coverage of a quantile is the share of the labels that are at most the prediction. The coverage gap is the
absolute difference between the coverage and the nominal share ``alpha``. A model that predicts the same quantile for
all rows has almost no gap, so the gap cannot show which model is best.

A declaration names the quantile: ``{"metric": "pinball", "alpha": 0.9}``. Everywhere else, the name contains the quantile,
such as ``pinball_a0.9``, which is valid in MLflow.

This module imports no heavy library, because DAG files that declare gates import this module during parsing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

PINBALL, COVERAGE_GAP = "pinball", "quantile_coverage_gap"

NAMES = (PINBALL, COVERAGE_GAP)
"""The metrics whose declaration has ``alpha``."""

_METRIC = re.compile(rf"({'|'.join(NAMES)})_a(0\.\d+)")


def alpha_of(metric: str) -> float | None:
    """Return the quantile in the name of a pinball loss; ``None`` for other metrics."""
    return _alpha(PINBALL, metric)


def covered_alpha_of(metric: str) -> float | None:
    """Return the quantile in the name of a coverage gap; ``None`` for other metrics."""
    return _alpha(COVERAGE_GAP, metric)


def declared_quantiles(metrics: Iterable[str]) -> set[float]:
    """Return the quantiles in the names of metrics: pinball losses and coverage gaps."""
    found = (_alpha(kind, name) for name in metrics for kind in NAMES)
    return {alpha for alpha in found if alpha is not None}


def _alpha(kind: str, metric: str) -> float | None:
    found = _METRIC.fullmatch(metric)
    if found is None or found[1] != kind:
        return None
    alpha = float(found[2])
    # Another spelling of a number, such as a0.90, would be a second name for the same metric.
    return alpha if 0 < alpha < 1 and metric == name_of(alpha, kind) else None


def name_of(alpha: float, metric: str = PINBALL) -> str:
    """Return the name of the metric for a quantile, from 0.0001 to 0.9999.

    :param metric: one of :data:`NAMES`
    """
    return f"{metric}_a{alpha!r}"


def name_alpha(declared: Any) -> Any:
    """Replace a metric of :data:`NAMES` and its quantile in a declaration with the name of the metric.

    A declaration of another metric is returned unchanged.

    :param declared: the fields of a declaration, among others ``metric``
    :raises ValueError: ``alpha`` is missing, or not a number from 0.0001 to 0.9999
    """
    if not isinstance(declared, Mapping) or (metric := declared.get("metric")) not in NAMES:
        return declared
    value: Any = declared.get("alpha")
    try:
        # A template may render to the text of a number.
        alpha = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        alpha = math.nan
    # Smaller numbers are written with an exponent.
    if not 0.0001 <= alpha <= 0.9999:
        raise ValueError(
            f"alpha is {value!r}, but the alpha of {metric} must be a number from 0.0001 to 0.9999, such as 0.9 for the 90% quantile"
        )
    return {**{key: item for key, item in declared.items() if key != "alpha"}, "metric": name_of(alpha, metric)}
