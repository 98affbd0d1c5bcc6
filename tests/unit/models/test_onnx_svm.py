"""Support vector machines predict the same after they are rewritten as matrix products."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.models.onnx.svm import multiply_kernels

X = np.random.default_rng(0).normal(size=(900, 6)).astype(np.float32)
SIGNAL = X[:, 0] - X[:, 1] * X[:, 2]
KERNELS = {
    "rbf": {"kernel": "rbf"},
    "narrow": {"kernel": "rbf", "gamma": 0.01, "C": 10},
    "poly": {"kernel": "poly", "degree": 2, "coef0": 1.0},
    "sigmoid": {"kernel": "sigmoid", "gamma": 0.05, "coef0": 0.2},
    "linear": {"kernel": "linear"},
}


def answers(fitted, rows=X):
    import onnxruntime
    from onnx import checker
    from skl2onnx import to_onnx

    options = {id(fitted): {"zipmap": False}} if hasattr(fitted, "classes_") else None
    model = multiply_kernels(to_onnx(fitted, rows[:1], options=options))
    checker.check_model(model)
    kinds = [node.op_type for node in model.graph.node]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return kinds, session.run(None, {"X": rows})


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_regression_predicts_like_scikit_learn(kernel):
    from sklearn import svm

    fitted = svm.SVR(**KERNELS[kernel]).fit(X[:800], SIGNAL[:800])
    kinds, (found,) = answers(fitted)
    assert "SVMRegressor" not in kinds
    assert found.shape == (900, 1)
    np.testing.assert_allclose(found[:, 0], fitted.predict(X), atol=5e-4)


def test_double_precision_is_more_accurate():
    from sklearn import svm

    fitted = svm.SVR().fit(X[:800], SIGNAL[:800])
    expected, rows = fitted.predict(X), X.astype(np.float64)
    single, double = (np.abs(answers(fitted, of)[1][0][:, 0] - expected).max() for of in (X, rows))
    # ONNX's attributes, and with them the support vectors' weights, are in single precision.
    assert double < 5e-7 < single
    calibrated = svm.SVC().fit(X[:800], SIGNAL[:800] > 0)
    kinds, (label, scores) = answers(calibrated, rows)
    assert "SVMClassifier" not in kinds
    assert scores.dtype == np.float64
    assert (label == calibrated.predict(X)).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("names", [[0, 1], ["early", "late"]])
def test_a_calibrated_binary_classifier_predicts_like_scikit_learn(kernel, names):
    from sklearn import svm
    from sklearn.calibration import CalibratedClassifierCV

    labels = np.array(names, dtype=object if isinstance(names[0], str) else None)[(SIGNAL > 0.3).astype(int)]
    fitted = CalibratedClassifierCV(svm.SVC(**KERNELS[kernel]), ensemble=False).fit(X[:800], labels[:800])
    kinds, (label, found) = answers(fitted)
    assert "SVMClassifier" not in kinds
    np.testing.assert_allclose(found, fitted.predict_proba(X), atol=1e-3)
    assert (label == fitted.predict(X)).all()


@pytest.mark.parametrize("names", [[0, 1], ["early", "late"]])
def test_a_bare_classifier_gives_the_label_and_the_decision(names):
    from sklearn import svm

    labels = np.array(names, dtype=object if isinstance(names[0], str) else None)[(SIGNAL > 0.3).astype(int)]
    fitted = svm.SVC().fit(X[:800], labels[:800])
    kinds, (label, found) = answers(fitted)
    assert "SVMClassifier" not in kinds
    np.testing.assert_allclose(found[:, 0], fitted.decision_function(X), atol=1e-4)
    assert (label == fitted.predict(X)).all()


@pytest.mark.parametrize("svc", [{"probability": True, "random_state": 0}, {}])
def test_three_classes_and_built_in_probabilities_are_not_rewritten(svc):
    from sklearn import svm

    fitted = svm.SVC(**svc).fit(X, np.digitize(SIGNAL, [-1, 0.5] if not svc else [0.5]))
    kinds, (label, _) = answers(fitted)
    assert "SVMClassifier" in kinds
    assert (label == fitted.predict(X)).mean() > 0.98
