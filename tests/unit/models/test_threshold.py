"""The decision threshold of scikit-learn's threshold classifiers, for either positive class."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.models.scorer import from_values
from airflow_mlops.models.threshold import threshold, without_threshold


def rows(labels):
    random = np.random.default_rng(3)
    frame = pd.DataFrame({"x": random.normal(size=400), "y": random.normal(size=400)})
    truth = frame["x"] + random.logistic(size=400) > 1
    return frame, np.array(labels, dtype=object if isinstance(labels[0], str) else None)[truth.astype(int)]


def fixed(**params):
    return FixedThresholdClassifier(LogisticRegression(), **params)


def tuned(scoring):
    return TunedThresholdClassifierCV(LogisticRegression(), scoring=scoring, thresholds=15, cv=2)


ESTIMATORS = {
    "plain": lambda labels: LogisticRegression(),
    "fixed": lambda labels: fixed(threshold=0.3),
    "of the first class": lambda labels: fixed(threshold=0.3, pos_label=labels[0]),
    "automatic": lambda labels: fixed(),
    "in a pipeline": lambda labels: make_pipeline(StandardScaler(), fixed(threshold=0.7)),
    "around a pipeline": lambda labels: FixedThresholdClassifier(
        make_pipeline(StandardScaler(), LogisticRegression()), threshold=0.7
    ),
    "tuned": lambda labels: tuned("balanced_accuracy"),
    "tuned for the first class": lambda labels: tuned(make_scorer(f1_score, pos_label=labels[0])),
    "searched": lambda labels: GridSearchCV(fixed(threshold=0.3), {"estimator__C": [0.1, 1]}, cv=2),
}


@pytest.mark.parametrize("labels", [[0, 1], ["bad", "good"]])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_contract_predicts_the_estimators_own_labels(name, labels):
    frame, truth = rows(labels)
    estimator = ESTIMATORS[name](labels).fit(frame, truth)
    for positive in labels:
        contract = ModelContract(
            task="binary", label="y", features=[], classes=labels, positive=positive, dataset_name="d", dataset_id="0",
            threshold=threshold(estimator, labels, positive, "it"),
        )  # fmt: skip
        found = from_values(estimator.predict_proba(frame), contract)
        assert (found.prediction == estimator.predict(frame)).all()
        other = contract.with_positive(next(label for label in labels if label != positive))
        assert (from_values(estimator.predict_proba(frame), other).prediction == found.prediction).all()
    inner = without_threshold(estimator)
    np.testing.assert_array_equal(inner.predict_proba(frame), estimator.predict_proba(frame))


def test_a_threshold_on_the_decision_function_is_refused():
    frame, truth = rows([0, 1])
    estimator = fixed(threshold=0.3, response_method="decision_function").fit(frame, truth)
    with pytest.raises(ModelFormatError, match="decision_function.*response_method"):
        threshold(estimator, [0, 1], 1, "it")
