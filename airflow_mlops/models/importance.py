"""Compute permutation importance (L. Breiman, "Random Forests", 2001).

The importance of a feature is how much a metric degrades when the values of this feature are shuffled over the rows.
Correlated features share their importance, so each of these features may look unimportant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.errors import EvaluationError, MetricError
from airflow_mlops.metrics.catalog import Metric
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.metrics.values import measure_one
from airflow_mlops.models.scorer import Scorer

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

ROWS, SEED = 5_000, 0


def measure(
    model: Scorer,
    truth: NDArray[Any],
    take: Callable[[Sequence[str], NDArray[np.int64]], pa.Table],
    metric: Metric,
    weight: NDArray[np.float64] | None = None,
    columns: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, float]:
    """Measure the permutation importance of each feature on a random sample of at most :data:`ROWS` rows.

    :param model: the model, which predicts the sample again for each shuffled feature
    :param truth: the labels, shape (n,)
    :param take: function that takes column names and ascending row positions and returns these columns of these rows
    :param metric: the metric whose degradation is measured
    :param weight: the weight of each row in the metric, shape (n,); ``None`` if all rows have the same weight
    :param columns: the columns that the metric names, such as costs, each of shape (n,)
    :return: by feature name, the degradation of the metric in the unit of the metric. The dict is empty if the metric
        cannot be measured on the sample
    """
    contract, random = model.contract, np.random.default_rng(SEED)
    rows = np.sort(random.permutation(len(truth))[:ROWS])
    weight = None if weight is None else weight[rows]
    columns = {name: values[rows] for name, values in (columns or {}).items()}
    truth, sample = truth[rows], take([item.name for item in contract.features], rows)
    try:
        base = model.predict(sample)
        unshuffled = measure_one(metric.name, predicted(truth, base, contract, weight, columns))
        importances, predict = {}, model.shuffled(sample)
        for feature in contract.features:
            predictions = predict(feature.name, random.permutation(len(rows)))
            # A model often uses only some of many features.
            value = (
                unshuffled
                if _same(predictions, base)
                else measure_one(metric.name, predicted(truth, predictions, contract, weight, columns))
            )
            importances[feature.name] = metric.sign * (unshuffled - value)
    except (EvaluationError, MetricError):
        # A small sample may have one class only, or a custom metric may be undefined on it.
        return {}
    return importances


def _same(one: Predictions, other: Predictions) -> bool:
    pairs = zip(
        (one.prediction, one.score, one.probabilities),
        (other.prediction, other.score, other.probabilities),
        strict=True,
    )
    return all(first is second or np.array_equal(first, second) for first, second in pairs)  # type: ignore[arg-type]


def shares(importances: Mapping[str, float]) -> dict[str, float]:
    """Compute each feature's share of the total importance. A negative importance counts as 0.

    :param importances: the result of :func:`measure`
    :return: a share from 0 to 1 for each feature name. The dict is empty if no feature has a positive importance
    """
    counted = {name: value if value > 0 else 0.0 for name, value in importances.items()}
    total = sum(counted.values())
    return {name: value / total for name, value in counted.items()} if 0 < total < np.inf else {}
