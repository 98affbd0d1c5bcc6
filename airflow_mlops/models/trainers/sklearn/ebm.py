"""Train and explain Explainable Boosting Machines (EBM).

The score of an EBM is a sum of terms, and each term is a function of one or a few features.

Source: H. Nori et al., "InterpretML: A Unified Framework for Machine Learning Interpretability", 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import FeatureColumn
from airflow_mlops.core.isolation import no_warnings
from airflow_mlops.models.explanation import Axis, Curve, Explanation, Surface, Term
from airflow_mlops.models.onnx.ebm import MISSING, bins
from airflow_mlops.models.trainers.base import TrainingData

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "interpret-core"
_CLASSES = ("ExplainableBoostingClassifier", "ExplainableBoostingRegressor")
# The explanation contains at most SHAPES shape functions. A function with more than SCORES scores (one for each bin and
# class) is left out.
SHAPES, SCORES = 12, 10_000
DIGITS = 6


def is_ebm(estimator: Any) -> bool:
    """Return whether ``estimator`` is an ExplainableBoostingClassifier or an ExplainableBoostingRegressor."""
    # InterpretML may not be installed, and importing it for every estimator would be slow.
    return any(
        kind.__module__.startswith("interpret.glassbox.") and kind.__name__ in _CLASSES
        for kind in type(estimator).__mro__
    )


def set_types(ebm: Any, features: Sequence[FeatureColumn]) -> None:
    """Set ``feature_types`` to the type of each feature (numeric or text), unless the user has set ``feature_types``.

    Otherwise the EBM would guess the type from the values.
    """
    if ebm.feature_types is None:
        ebm.set_params(feature_types=["nominal" if feature.kind == "string" else "continuous" for feature in features])


@contextmanager
def no_plot_warnings() -> Iterator[None]:
    """Suppress InterpretML's warnings about InterpretML's own plots. This package does not use these plots."""
    with no_warnings(
        "Missing values detected", "For multiclass we cannot currently visualize pairs", "Interactions with 3"
    ):
        yield


def explain(ebm: Any, data: TrainingData) -> Explanation:
    """Return the importance of all terms, and the shape functions of the most important terms.

    :param ebm: a fitted Explainable Boosting Machine
    :param data: the data that it was fitted to
    """
    importances = ebm.term_importances()
    order = np.argsort(-importances, kind="stable")
    outputs = data.classes if data.task == "multiclass" else data.classes[-1:] or [data.label]
    return Explanation(
        unit=_unit(ebm, data),
        outputs=outputs,
        intercept=_rounded(np.atleast_1d(ebm.intercept_)),
        terms=[
            _term(ebm, number, len(outputs), float(importances[number]), place < SHAPES)
            for place, number in enumerate(order.tolist())
        ],
    )


def _unit(ebm: Any, data: TrainingData) -> str:
    if data.task == "binary":
        return f"log-odds of {data.label} = {data.classes[-1]}"
    if data.task == "multiclass":
        return f"score of each class of {data.label} (softmax)"
    return f"logarithm of {data.label}" if ebm.link_ == "log" else data.label


def _term(ebm: Any, number: int, outputs: int, importance: float, shown: bool) -> Term:
    features = ebm.term_features_[number]
    scores = ebm.term_scores_[number]
    one, two = len(features) == 1, len(features) == 2 and outputs == 1
    shown = shown and scores.size <= SCORES
    return Term(
        name=ebm.term_names_[number],
        features=[ebm.feature_names_in_[feature] for feature in features],
        importance=_rounded(importance),
        curve=_curve(ebm, number, outputs) if shown and one else None,
        surface=_surface(ebm, number) if shown and two else None,
    )


def _curve(ebm: Any, number: int, outputs: int) -> Curve:
    (feature,) = ebm.term_features_[number]
    scores, errors = (
        np.zeros((outputs, len(ebm.bin_weights_[number]))) if table is None else np.reshape(table, (-1, outputs)).T
        for table in (ebm.term_scores_[number], ebm.standard_deviations_[number])
    )
    rows = ebm.bin_weights_[number]
    return Curve(
        axis=_axis(ebm, feature, 1),
        scores=_rounded(scores[:, 1:-1]),
        errors=_rounded(errors[:, 1:-1]),
        rows=_rounded(rows[1:-1]),
        missing=_rounded(scores[:, MISSING]) if rows[MISSING] > 0 else None,
    )


def _surface(ebm: Any, number: int) -> Surface:
    first, second = (_axis(ebm, feature, 2) for feature in ebm.term_features_[number])
    return Surface(first=first, second=second, scores=_rounded(ebm.term_scores_[number][1:-1, 1:-1]))


def _axis(ebm: Any, feature: int, width: int) -> Axis:
    name, known = ebm.feature_names_in_[feature], bins(ebm, feature, width)
    if not isinstance(known, dict):
        low, high = ebm.feature_bounds_[feature]
        return Axis(feature=name, edges=_rounded(np.concatenate([[low], known, [high]])))
    texts: list[list[str]] = [[] for _ in range(max(known.values(), default=0))]
    for text, place in known.items():
        texts[place - 1].append(text)
    return Axis(feature=name, texts=texts)


def _rounded(values: NDArray[np.float64] | float) -> Any:
    """Convert ``values`` to lists for JSON, rounded to :data:`DIGITS` significant digits."""
    if isinstance(values, np.ndarray):
        return [_rounded(value) for value in values] if values.ndim else _rounded(values.item())
    return float(f"{values:.{DIGITS}g}")
