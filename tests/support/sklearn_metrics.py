"""The metrics of scikit-learn under the names of this package, for rows with weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics


def by_scikit_learn(metric: str, truth: Any, predicted: Any, score: Any, weight: Any) -> float:
    """Return a metric of rows with weights.

    :param truth: the labels; class indices or booleans for a classification
    :param predicted: the predicted labels
    :param score: the predicted probabilities, or the values of a regression
    :param weight: the weights of the rows
    """
    options = {"sample_weight": weight}
    functions = {
        "roc_auc": lambda: metrics.roc_auc_score(truth, score, **options),
        "roc_auc_ovr": lambda: metrics.roc_auc_score(truth, score, multi_class="ovr", **options),
        "average_precision": lambda: metrics.average_precision_score(truth, score, **options),
        "log_loss": lambda: metrics.log_loss(truth, score, **options),
        "brier": lambda: metrics.brier_score_loss(truth, score, **options),
        "accuracy": lambda: metrics.accuracy_score(truth, predicted, **options),
        "balanced_accuracy": lambda: metrics.balanced_accuracy_score(truth, predicted, **options),
        "f1": lambda: metrics.f1_score(truth, predicted, **options),
        "f1_macro": lambda: metrics.f1_score(truth, predicted, average="macro", **options),
        "precision": lambda: metrics.precision_score(truth, predicted, **options),
        "recall": lambda: metrics.recall_score(truth, predicted, **options),
        "rmse": lambda: metrics.root_mean_squared_error(truth, score, **options),
        "mae": lambda: metrics.mean_absolute_error(truth, score, **options),
        "r2": lambda: metrics.r2_score(truth, score, **options),
        "poisson_deviance": lambda: metrics.mean_poisson_deviance(truth, score, **options),
        "tweedie_deviance_p1.5": lambda: metrics.mean_tweedie_deviance(truth, score, power=1.5, **options),
        "expected_cost_fp1_fn20": lambda: (
            np.average(predicted & ~truth, weights=weight) + 20 * np.average(truth & ~predicted, weights=weight)
        ),
    }
    return float(functions[metric]())
