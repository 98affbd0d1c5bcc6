"""Read the decision threshold of scikit-learn's TunedThresholdClassifierCV and FixedThresholdClassifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_mlops.core.contract import THRESHOLD, opposite_threshold
from airflow_mlops.core.errors import ModelFormatError


def threshold(estimator: Any, classes: Sequence[Any], positive: Any, name: str) -> float:
    """Return the decision threshold, the smallest probability of ``positive`` for which the estimator predicts it.

    :param estimator: a fitted classifier with ``predict_proba``, or a pipeline or search with such a classifier as its
        last step
    :param classes: the two labels, in the order of the probability columns
    :param positive: label of the positive class
    :param name: name of the model in errors
    :raises ModelFormatError: the estimator applies its threshold to ``decision_function`` instead of probabilities
    """
    chosen = _deciding(estimator)
    if chosen is None:
        return THRESHOLD
    # scikit-learn uses the first method of its list that exists, and predict_proba exists.
    method = chosen._get_response_method()
    if "predict_proba" not in method:
        raise ModelFormatError(
            f"{name} applies its threshold to decision_function, but scoring needs a threshold on probabilities. Set "
            "response_method='predict_proba' in its TunedThresholdClassifierCV or FixedThresholdClassifier."
        )
    tuned = hasattr(chosen, "best_threshold_")
    value = chosen.best_threshold_ if tuned else chosen.threshold
    value = THRESHOLD if value == "auto" else float(value)
    label = chosen._curve_scorer._get_pos_label() if tuned else chosen.pos_label
    if (classes[-1] if label is None else label) == positive:
        return value
    return opposite_threshold(value)


def without_threshold(estimator: Any) -> Any:
    """Return the classifier whose probabilities ``estimator`` compares with a threshold.

    If no classifier in ``estimator`` sets a threshold, the classifier itself is returned. The ONNX export returns the
    probabilities of the returned classifier, and scoring applies the threshold of the model contract.
    """
    from sklearn.pipeline import Pipeline

    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = without_threshold(last)
        return estimator if inner is last else Pipeline([*estimator.steps[:-1], (name, inner)])
    if _sets_threshold(estimator):
        return without_threshold(getattr(estimator, "estimator_", estimator.estimator))
    if type(estimator).__name__ == "FrozenEstimator":
        return without_threshold(estimator.estimator)
    return estimator


def _deciding(estimator: Any) -> Any:
    """Return the classifier that sets the threshold of ``estimator``; ``None`` if no classifier sets a threshold."""
    from sklearn.pipeline import Pipeline

    while not _sets_threshold(estimator):
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif type(estimator).__name__ == "FrozenEstimator":
            estimator = estimator.estimator
        else:
            return None
    return estimator


def _sets_threshold(estimator: Any) -> bool:
    from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV

    return isinstance(estimator, (TunedThresholdClassifierCV, FixedThresholdClassifier))
