"""Calibrated probabilities: as scikit-learn computes them, the same in ONNX, and the same for every number of rows."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss, roc_auc_score

from airflow_mlops.core.base import parse
from airflow_mlops.core.contract import CalibrationMap
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.calibration import EDGE, STEP, calibrate, fit, require_rows
from airflow_mlops.models.onnx.calibration import append
from airflow_mlops.models.rules.calibration import METHODS, check_calibration
from airflow_mlops.stages.train.spec import TrainSpec


class Probabilities(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are its input."""

    def fit(self, X, y):  # noqa: N803
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, X):  # noqa: N803
        return X.argmax(axis=1)

    def predict_proba(self, X):  # noqa: N803
        return X


class LogOdds(Probabilities):
    predict_proba = None

    def decision_function(self, X):  # noqa: N803
        odds = np.log(X) - np.log(1 - X)
        return odds[:, 1] if X.shape[1] == 2 else odds


def by_sklearn(method, probabilities, codes, new, weight=None):
    """What scikit-learn makes of a classifier with these probabilities, without this package's functions."""
    model = LogOdds() if method == "sigmoid" else Probabilities()
    model.classes_ = np.arange(probabilities.shape[1])
    if method == "isotonic":
        probabilities = np.round(probabilities / STEP) * STEP
    rows = np.arange(len(codes))
    calibrated = CalibratedClassifierCV(FrozenEstimator(model), method=method, cv=[(rows, rows)])
    return calibrated.fit(probabilities, codes, sample_weight=weight).predict_proba(new)


def exported(classes, opset=18):
    """An ONNX model whose probabilities are its input, and that has a label, too."""
    nodes = [helper.make_node("Identity", ["x"], ["p"]), helper.make_node("ArgMax", ["x"], ["label"], axis=1)]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, [None, 1]),
        helper.make_tensor_value_info("p", TensorProto.DOUBLE, [None, classes]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, classes])]
    graph = helper.make_graph(nodes, "given", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def session(method, maps, classes, opset=18):
    return onnxruntime.InferenceSession(append(exported(classes, opset), method, maps, classes))


def by_onnx(method, maps, probabilities):
    (found,) = session(method, maps, probabilities.shape[1]).run(None, {"x": probabilities})
    return found


def rows(count, classes, seed=0, factor=1.0):
    """Probabilities that are too extreme by ``factor``, and the classes that occur."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(count, classes))
    true, given_ = (np.exp(scores * by) for by in (1.0, factor))
    true, given_ = (each / each.sum(axis=1, keepdims=True) for each in (true, given_))
    # The log-odds of smaller probabilities are equal.
    given_ = given_.clip(10 * EDGE)
    given_ /= given_.sum(axis=1, keepdims=True)
    codes = (random.random((count, 1)) > true.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    codes[:classes] = np.arange(classes)
    return given_, codes


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(METHODS), st.integers(2, 4), st.integers(0, 2**16), st.floats(0.3, 4), st.booleans())
def test_python_and_onnx_are_what_scikit_learn_computes(method, classes, seed, factor, ties):
    probabilities, codes = rows(120, classes, seed, factor)
    new = rows(60, classes, seed + 1, 4)[0]
    if ties:
        probabilities = np.round(probabilities, 1) + 0.01
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    maps = fit(method, probabilities, codes)
    found = calibrate(method, maps, new)
    np.testing.assert_allclose(found, by_sklearn(method, probabilities, codes, new), atol=1e-6)
    np.testing.assert_allclose(by_onnx(method, maps, new), found, atol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert [CalibrationMap.model_validate_json(each.model_dump_json()) for each in maps] == maps


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_probabilities_that_are_too_extreme_become_less_extreme(method, classes):
    given_, codes = rows(4_000, classes, 1, factor=3)
    new, truth = rows(4_000, classes, 2, factor=3)
    maps = fit(method, given_, codes)
    found = calibrate(method, maps, new)
    assert log_loss(truth, found.clip(1e-9)) < 0.9 * log_loss(truth, new)
    if method == "temperature":
        assert maps[0].slope == pytest.approx(1 / 3, abs=0.03)
    if classes == 2:
        before, after = roc_auc_score(truth, new[:, 1]), roc_auc_score(truth, found[:, 1])
        # An isotonic function is constant on each step, where ranks become equal.
        assert after == pytest.approx(before, abs=0.005 if method == "isotonic" else 0)
        order = np.argsort(new[:, 1])
        assert (np.diff(found[order, 1]) >= 0).all()


@pytest.mark.parametrize("method", ["sigmoid", "temperature"])
def test_calibrated_probabilities_stay_as_they_are(method):
    given_, codes = rows(20_000, 2, 3)
    np.testing.assert_allclose(calibrate(method, fit(method, given_, codes), given_), given_, atol=0.02)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_a_row_has_the_same_bits_in_every_batch(method, classes):
    given_, codes = rows(1_000, classes, 4, factor=3)
    runs = session(method, fit(method, given_, codes), classes)
    (whole,) = runs.run(None, {"x": given_})
    for size in (1, 3, 17):
        parts = [runs.run(None, {"x": given_[start : start + size]})[0] for start in range(0, 300, size)]
        np.testing.assert_array_equal(np.concatenate(parts)[:300], whole[:300])


EXTREME = np.array([[1.0, 0.0], [0.0, 1.0], [1 - 1e-9, 1e-9], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("method", "maps"),
    [
        ("sigmoid", [CalibrationMap(slope=2.5, intercept=-1)]),
        ("sigmoid", [CalibrationMap(slope=0.0, intercept=0.5)]),
        ("sigmoid", [CalibrationMap(slope=900.0, intercept=5_000)]),
        ("temperature", [CalibrationMap(slope=0.1)]),
        ("temperature", [CalibrationMap(slope=2e4)]),
        ("isotonic", [CalibrationMap(scores=[0.4], probabilities=[0.3])]),
        ("isotonic", [CalibrationMap(scores=[0.4, 0.6], probabilities=[0.0, 1.0])]),
    ],
)
def test_extreme_probabilities_and_functions(method, maps):
    with np.errstate(over="ignore"):
        expected = calibrate(method, maps, EXTREME)
    found = by_onnx(method, maps, EXTREME)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    # Probabilities that are closer to 0 than single precision can distinguish count as equal.
    if method != "isotonic":
        np.testing.assert_array_equal(found[0], found[2])
    assert np.finfo(np.float32).eps < EDGE


def test_the_powers_of_many_classes_do_not_vanish():
    given_ = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    for slope in (0.01, 1.0, 2e4):
        maps = [CalibrationMap(slope=slope)]
        np.testing.assert_allclose(
            by_onnx("temperature", maps, given_), calibrate("temperature", maps, given_), atol=1e-9
        )


def test_a_row_whose_classes_are_all_improbable_gets_equal_probabilities():
    never = [CalibrationMap(scores=[0.5], probabilities=[0.0])] * 3
    given_ = np.array([[0.2, 0.3, 0.5]])
    for found in (calibrate("isotonic", never, given_), by_onnx("isotonic", never, given_)):
        np.testing.assert_allclose(found, np.full((1, 3), 1 / 3))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*sample_weight")
def test_weights_are_those_of_scikit_learn(method, classes):
    random = np.random.default_rng(3)
    probabilities = random.dirichlet(np.ones(classes), 400)
    codes = np.array([random.choice(classes, p=row) for row in probabilities])
    weight = random.integers(1, 4, 400).astype(float)
    found = calibrate(method, fit(method, probabilities, codes, weight), probabilities)
    expected = by_sklearn(method, probabilities, codes, probabilities, weight)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if method != "sigmoid":
        # A sigmoid is fitted to targets that depend on the number of rows.
        repeated = np.repeat(np.arange(400), weight.astype(int))
        again = calibrate(method, fit(method, probabilities[repeated], codes[repeated]), probabilities)
        np.testing.assert_allclose(found, again, atol=1e-4)
    assert np.abs(found - calibrate(method, fit(method, probabilities, codes), probabilities)).max() > 1e-3


def test_rounding_of_equal_scores_in_single_precision_does_not_matter():
    random = np.random.default_rng(6)
    for trees in (100, 128, 300, 500):
        share = random.integers(0, trees + 1, 3_000) / trees
        codes = (random.random(3_000) < share**2).astype(np.int64)
        exact, rounded = (
            np.stack([1 - each, each], axis=1) for each in (share, share + random.uniform(-6e-8, 6e-8, 3_000))
        )
        maps = fit("isotonic", rounded, codes)
        found, expected = (calibrate("isotonic", maps, each) for each in (rounded, exact))
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 22])
def test_every_operator_set_that_converters_choose(opset):
    for classes in (2, 3):
        given_, codes = rows(1_000, classes, 5)
        for method in METHODS:
            maps = fit(method, given_, codes)
            runs = session(method, maps, classes, opset)
            # The label that was predicted without the calibration is not an output.
            assert len(runs.get_outputs()) == 1
            np.testing.assert_allclose(runs.run(None, {"x": given_})[0], calibrate(method, maps, given_), atol=1e-9)


@pytest.mark.parametrize(
    ("method", "labels", "message"),
    [
        (
            "isotonic",
            np.arange(999) % 2,
            "'isotonic' needs 1,000 .* but there are 999 .* use 'sigmoid' or 'temperature'",
        ),
        ("sigmoid", np.arange(99) % 2, r"'sigmoid' needs 100 .* but there are 99 \(random rows\). Use more rows, or"),
        ("temperature", (np.arange(200) < 9).astype(int), "10 of each class, but class 1 has 9"),
    ],
)
def test_too_few_rows_are_refused(method, labels, message):
    with pytest.raises(TrainingError, match=message):
        require_rows(method, labels, [0, 1], "random rows")
    require_rows(method, np.arange(1_000) % 2, [0, 1], "random rows")
    # Rows of a class that the model does not know do not count.
    with pytest.raises(TrainingError, match="there are 0"):
        require_rows(method, np.full(2_000, "other", object), ["early", "late"], "random rows")


@pytest.mark.parametrize("declared", ["isotonik", "", 0.3, True, {"method": "isotonic"}])
def test_a_method_that_does_not_exist_is_refused(declared):
    with pytest.raises(
        SpecError, match=r"^The calibration of task 'train' .* is not a calibration method: choose one of"
    ):
        check_calibration(declared, "The calibration of task 'train'")


@pytest.mark.parametrize("method", [None, *METHODS])
def test_a_method_is_stored_and_read_again(method):
    trainer = {"kind": "sklearn", "estimator": "sklearn.linear_model:LogisticRegression"}
    fields = {"dataset": {"name": "d", "id": "i", "rows": 1}, "model": "m", "trainer": trainer, "calibration": method}
    spec = parse(TrainSpec, fields, "Task 'train'")
    assert TrainSpec.model_validate_json(spec.model_dump_json()) == spec
    assert (spec.calibration and spec.calibration.method) == method
    if method is not None:
        check_calibration(method, "The calibration of task 'train'")
