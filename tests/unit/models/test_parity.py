"""ONNX exports are compared with their models row by row, and use float64 if float32 is too coarse."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from airflow_mlops.core.contract import ModelContract, Parity
from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.models import parity
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.onnx import double, histograms
from airflow_mlops.models.onnx.histograms import round_down
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.parity import compare
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.trainers.sklearn import trainer as sklearn
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec
from tests.support.training import FEATURES, flights, stamped

LABELS = {"binary": [0, 1], "multiclass": ["early", "late", "on time"], "regression": []}
STAMPED = [*FEATURES, "announced"]


def contract(task="binary", features=(), threshold=0.5):
    return ModelContract(
        task=task, label="late", features=features, classes=LABELS[task], positive=1 if task == "binary" else None,
        threshold=threshold, dataset_name="d", dataset_id="0",
    )  # fmt: skip


# Measuring


def test_differences_and_label_flips_are_counted():
    expected = np.array([[0.8, 0.2], [0.52, 0.48], [0.45, 0.55], [0.5, 0.5]])
    answers = np.array([[0.8, 0.2], [0.49, 0.51], [0.45, 0.55], [0.5, 0.5]])
    found = compare(expected, answers, contract(), "float32")
    assert found.max_difference == pytest.approx(0.03)
    assert 0 < found.p99_difference < 0.03
    assert (found.rows, found.label_flips, found.near_threshold) == (4, 1, 2)
    moved = compare(expected, answers, contract(threshold=0.19), "float32")
    assert (moved.label_flips, moved.near_threshold) == (0, 1)
    assert str(found) == (
        "differs from the model by at most 0.03 (p99 0.029) on 4 held-out rows in float32; predicted labels that differ: 1; "
        "rows so close to the decision threshold that they may differ: 2"
    )


def test_the_margin_of_a_multiclass_row_is_that_of_its_two_likeliest_classes():
    expected = np.array([[0.5, 0.4, 0.1], [0.4, 0.36, 0.24], [0.1, 0.1, 0.8]])
    answers = expected + np.array([[0, 0, 0], [-0.03, 0.03, 0], [0, 0, 0]])
    found = compare(expected, answers, contract("multiclass"), "float32")
    assert (found.label_flips, found.near_threshold) == (1, 1)


def test_a_regression_has_no_label_flips():
    found = compare(np.array([[1e6], [0.0]]), np.array([[1e6 + 1], [0.0]]), contract("regression"), "float64")
    assert found == Parity(precision="float64", rows=2, max_difference=1, p99_difference=0.99)
    assert str(found).endswith("on 2 held-out rows in float64")


def grids(task):
    """Pairs of predictions that are multiples of 1/1024, so there are no rounding errors."""
    shape = st.integers(1, 30).map(lambda rows: (rows, len(LABELS[task])))
    cells = st.integers(0, 1024)
    return shape.flatmap(lambda size: st.tuples(*[arrays(np.int64, size, elements=cells)] * 2)).map(
        lambda pair: [values / 1024 for values in pair]
    )


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@given(data=st.data())
def test_only_rows_near_the_threshold_change_their_label(task, data):
    expected, answers = data.draw(grids(task))
    found = compare(expected, answers, contract(task), "float32")
    assert found.label_flips <= found.near_threshold <= found.rows == len(expected)
    assert 0 <= found.p99_difference <= found.max_difference <= 1
    same = compare(expected, expected, contract(task), "float32")
    assert (same.max_difference, same.label_flips, same.near_threshold) == (0, 0, 0)


@given(score=st.floats(0, 1), difference=st.floats(0, 1))
def test_a_row_is_near_the_threshold_if_the_largest_difference_could_flip_it(score, difference):
    # The second row determines the largest difference.
    expected = np.array([[1 - score, score], [1.0, 0.0]])
    answers = expected + np.array([[0, 0], [-difference, 0]])
    found = compare(expected, answers, contract(), "float32")
    largest = found.max_difference
    moved = (score - largest < 0.5 <= score) or (score < 0.5 <= score + largest)
    if moved and abs(abs(score - 0.5) - largest) > 1e-12:
        assert found.near_threshold >= 1


# Choosing the precision


def learned(task, table, names):
    features = feature_columns(table.schema, names)
    labels = table["late"].to_numpy()
    labels = labels.astype(int) if task == "binary" else labels
    return TrainingData(task, "late", features, table, frame(table, features), labels, LABELS[task])


def trained(estimator, task="binary", names=FEATURES, make=flights, rows=2_000, **params):
    train, test = (learned(task, make(count, task, seed), names) for count, seed in ((600, 1), (rows, 2)))
    return sklearn.fit(SklearnTrainerSpec(estimator=estimator, params=params), train, 0), train, test


def exported(model, train, test):
    lines: list[str] = []
    found = parity.export(model, contract(train.task, train.features), train, test, lines.append)
    return found, lines


@pytest.mark.parametrize(
    ("estimator", "task", "least"),
    [
        ("sklearn.linear_model.LogisticRegression", "binary", 1e-12),
        ("sklearn.naive_bayes.GaussianNB", "binary", 1e-9),
        ("sklearn.neighbors.KNeighborsClassifier", "binary", 1e-12),
        ("sklearn.linear_model.Ridge", "regression", 1e-9),
        ("sklearn.svm.SVR", "regression", 1e-5),
    ],
)
def test_float64_is_used_if_float32_is_too_coarse(estimator, task, least):
    model, train, test = trained(estimator, task, STAMPED, stamped)
    promised = contract(task, train.features)
    single = OnnxModel(model.to_onnx(train), promised).predict(test.table)
    expected = model.predict(test.frame)[:, -1]
    assert np.abs(single.score - expected).max() > 1e-3
    found, lines = exported(model, train, test)
    assert found.parity.precision == "float64"
    assert found.parity.max_difference < least
    assert not found.parity.label_flips
    (line,) = lines
    assert "in float32" in line
    assert line.endswith("The float64 export is used.")
    # The held-out part has missing numbers, and rows that were not compared.
    fresh = stamped(300, task, 7)
    answers = OnnxModel(found.content, promised).predict(fresh)
    assert fresh["announced"].null_count
    np.testing.assert_allclose(answers.score, model.predict(frame(fresh, train.features))[:, -1], atol=least)


def test_an_imputed_value_may_lie_between_two_float32_numbers():
    def make(rows, task, seed):
        table = flights(rows, task, seed)
        # The training values have no gaps, and there is no float32 number between the two values.
        known = np.where(np.arange(rows) % 2, 1.7e9, 1.7e9 + 128)
        gaps = np.full(rows, False) if seed == 1 else np.arange(rows) % 3 == 0
        return table.append_column("announced", pa.array(known, mask=gaps))

    model, train, test = trained("sklearn.linear_model.LogisticRegression", names=STAMPED, make=make, rows=300)
    found = exported(model, train, test)[0].parity
    assert found.precision == "float64"
    assert found.max_difference < 1e-12


def test_float32_is_used_if_it_is_precise_enough():
    model, train, test = trained("sklearn.linear_model.LogisticRegression")
    found, lines = exported(model, train, test)
    assert (found.parity.precision, found.parity.rows, lines) == ("float32", 2_000, [])
    assert found.content == model.to_onnx(train)
    assert found.predictions.score.shape == (2_000,)


def one_decimal(rows, task, seed):
    """Columns with one decimal, of which some were computed in single and some in double precision, as pandas mixes them."""
    random = np.random.default_rng(seed)
    tenths = random.integers(-200, 200, (rows, 4))
    single = tenths.astype(np.float32) * np.float32(0.1)
    values = np.where(random.random((rows, 4)) < 0.5, single, tenths / 10)
    late = values[:, 0] + 20 * np.sin(values[:, 1]) + random.logistic(size=rows)
    columns = {name: values[:, place] for place, name in enumerate("abcd")}
    return pa.table(
        {
            **columns,
            "late": {"binary": late > 0, "regression": late}.get(
                task, np.asarray(LABELS["multiclass"], object)[np.digitize(late, [-9, 9])]
            ),
        }
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize(
    "kind", ["DecisionTree", "ExtraTrees", "GradientBoosting", "HistGradientBoosting", "RandomForest"]
)
def test_rows_at_a_threshold_of_a_tree_do_not_change_sides(kind, task):
    folder = "tree" if kind == "DecisionTree" else "ensemble"
    estimator = f"sklearn.{folder}.{kind}{'Regressor' if task == 'regression' else 'Classifier'}"
    size = {"DecisionTree": {}, "HistGradientBoosting": {"max_iter": 20}}.get(kind, {"n_estimators": 20})
    model, train, test = trained(estimator, task, list("abcd"), one_decimal, rows=300, **size)
    found, _ = exported(model, train, test)
    assert found.beyond == 0


def test_the_thresholds_of_a_model_stay_as_they_were():
    model, train, _ = trained("sklearn.ensemble.HistGradientBoostingRegressor", "regression", list("abcd"), one_decimal)
    nodes = [item.nodes for trees in model.estimator[-1]._predictors for item in trees]
    before = [item["num_threshold"].copy() for item in nodes]
    model.to_onnx(train)
    assert all((item["num_threshold"] == known).all() for item, known in zip(nodes, before, strict=True))


@given(
    arrays(np.float64, 20, elements=st.floats(allow_nan=False)),
    arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False)),
)
def test_a_threshold_that_is_rounded_down_divides_single_precision_numbers_as_before(thresholds, values):
    with np.errstate(over="ignore"):
        near = np.concatenate([values, thresholds.astype(np.float32)])
        near = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
    rounded = round_down(thresholds)
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(near[:, None] <= rounded, near[:, None].astype(np.float64) <= thresholds)


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e9])
def test_the_tolerance_of_a_regression_is_relative_to_the_spread_of_its_labels(scale):
    def make(rows, task, seed):
        table = flights(rows, task, seed)
        place = table.schema.get_field_index("late")
        return table.set_column(place, "late", pa.array(table["late"].to_numpy() * scale))

    model, train, test = trained("sklearn.ensemble.GradientBoostingRegressor", "regression", make=make, rows=300)
    found, _ = exported(model, train, test)
    assert found.parity.label_deviation == pytest.approx(train.labels.std())
    assert f"{found.parity.max_difference / train.labels.std():.2g} of the labels' standard deviation" in str(
        found.parity
    )
    spread = train.labels.std()
    # A hundredth of the labels' spread is not a rounding error, even if it is a small number.
    with pytest.raises(ModelFormatError, match="too large for a rounding error"):
        exported(Shifted(model, lambda _: 0.01 * spread), train, test)
    assert exported(Shifted(model, lambda _: 0.0001 * spread), train, test)[0].is_faithful


def amounts(rows, task, seed):
    """Positive labels of which a few are much larger than all others."""
    table = flights(rows, task, seed)
    return table.set_column(
        table.schema.get_field_index("late"), "late", pa.array(np.exp(2 * table["late"].to_numpy()))
    )


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        ("sklearn.linear_model.GammaRegressor", {}),
        ("sklearn.ensemble.HistGradientBoostingRegressor", {"loss": "poisson", "max_iter": 10}),
    ],
)
def test_small_predictions_of_skewed_amounts_differ_less_than_large_ones(estimator, params):
    model, train, test = trained(estimator, "regression", make=amounts, rows=300, **params)
    spread, expected = train.labels.std(), model.predict(test.frame)
    assert np.median(expected) < 0.1 * spread
    found, lines = exported(model, train, test)
    assert (found.beyond, found.parity.precision, lines) == (0, "float32", [])
    with pytest.raises(ModelFormatError, match="too large for a rounding error"):
        exported(Shifted(model, lambda _: 0.001 * spread), train, test)
    # Each prediction may differ by a share of itself, so the large predictions may differ by more than that.
    shift = lambda found: np.minimum(0.0009 * found, 0.003 * spread)  # noqa: E731
    assert exported(Shifted(model, shift), train, test)[0].is_faithful


def test_labels_that_are_all_equal_leave_room_for_rounding():
    tolerance = parity._tolerance(np.array([[0.1]]), 0.0)
    assert 1e-7 < tolerance[0] < 1e-3


class Shifted:
    """A model whose predictions differ from those of its export.

    :param shift: function that computes the differences from the answers
    """

    def __init__(self, model, shift):
        self._model, self._shift = model, shift

    def __getattr__(self, name):
        return getattr(self._model, name)

    def predict(self, frame):
        found = self._model.predict(frame)
        return found + self._shift(found)


def test_labels_of_any_size_have_a_standard_deviation():
    assert parity.standard_deviation(np.array([1e-200, 3e-200])) == pytest.approx(1e-200)
    assert parity.standard_deviation(np.array([1e200, 3e200])) == pytest.approx(1e200)
    assert parity.standard_deviation(np.zeros(3)) == 0


def test_the_compared_rows_are_a_reproducible_sample(monkeypatch):
    model, train, test = trained("sklearn.naive_bayes.GaussianNB")
    whole = exported(model, train, test)[0]
    monkeypatch.setattr(parity, "ROWS", 500)
    one, other = (exported(model, train, test)[0] for _ in range(2))
    assert one.parity == other.parity
    assert one.parity.rows == 500
    assert one.parity.max_difference <= whole.parity.max_difference
    assert one.predictions.score.shape == (2_000,)
    # The first rows would not be a fair sample, since they may all be of one day.
    first = parity.compare(
        model.predict(test.frame.head(500)), whole.predictions.probabilities[:500], contract(), "float32"
    )
    assert one.parity != first


def test_a_forest_is_exported_in_float32_and_the_reason_is_logged(monkeypatch):
    model, train, test = trained("sklearn.ensemble.RandomForestClassifier", n_estimators=100)
    found, lines = exported(model, train, test)
    assert found.parity.precision == "float32"
    assert 0 < found.parity.label_flips <= found.parity.near_threshold < 100
    assert found.parity.max_difference < 1e-6
    assert lines == []
    monkeypatch.setattr(parity, "LEAPS", 0)
    found, (line,) = exported(model, train, test)
    assert line == f"The ONNX export of {model.name} {found.parity}; ONNX computes tree ensembles only in float32."


class Deviating:
    """A model whose predictions differ from those of its export in the first rows."""

    def __init__(self, model, rows, answer):
        self._model, self._rows, self._answer = model, rows, answer

    def __getattr__(self, name):
        return getattr(self._model, name)

    def predict(self, frame):
        found = self._model.predict(frame)
        found[frame.index < self._rows] = self._answer
        return found


@pytest.mark.parametrize(("rows", "answer", "accepted"), [(2, 0.2, True), (3, 0.2, False), (1, np.nan, False)])
def test_large_differences_are_accepted_only_in_few_rows(rows, answer, accepted):
    model, train, test = trained("sklearn.linear_model.LogisticRegression")
    model = Deviating(model, rows, answer)
    if accepted:
        found, lines = exported(model, train, test)
        assert (found.beyond, found.parity.precision) == (rows, "float32")
        # Float64 would not reduce the differences enough to be worth its time.
        assert lines == []
        return
    with pytest.raises(ModelFormatError, match=r"; in float64 it differs.*too large for a rounding error"):
        exported(model, train, test)


def test_an_export_that_fails_in_both_precisions_is_refused_with_both_reasons(monkeypatch):
    model, train, test = trained("sklearn.linear_model.LogisticRegression", names=STAMPED, make=stamped)
    # Without the custom conversion, ONNX Runtime has no Imputer for float64.
    nothing = {"custom_conversion_functions": {}, "custom_shape_calculators": {}}
    monkeypatch.setattr(double, "conversions", lambda: nothing)
    with pytest.raises(ModelFormatError, match=r"in float32; .*; it cannot be exported in float64 \(.*Imputer"):
        exported(model, train, test)


def test_an_export_without_the_link_of_its_loss_is_refused(monkeypatch):
    table = flights(300, "regression", seed=1)
    features = feature_columns(table.schema, FEATURES)
    counts = np.round(np.exp(table["late"].to_numpy() / 2 + 1)) + 1
    data = TrainingData("regression", "late", features, table, frame(table, features), counts, [])
    params = {"loss": "poisson", "max_iter": 5}
    estimator = "sklearn.ensemble.HistGradientBoostingRegressor"
    model = sklearn.fit(SklearnTrainerSpec(estimator=estimator, params=params), data, 0)
    exported = parity.export(model, contract("regression", features), data, data, print)
    assert exported.parity.max_difference < 1e-4
    monkeypatch.setattr(histograms, "_LOGARITHMIC", ())
    with pytest.raises(ModelFormatError, match="The difference is too large for a rounding error"):
        parity.export(model, contract("regression", features), data, data, print)
