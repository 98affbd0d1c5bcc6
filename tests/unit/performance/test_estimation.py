"""Performance estimated from the scores alone: coverage of the intervals, and the errors if nothing can be estimated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, measure
from airflow_mlops.performance.estimation import collect, estimate
from airflow_mlops.profiles.calibration import LossModel, ProbabilityCalibration, calibrate
from airflow_mlops.profiles.profile import ModelProfile, Profile

BINARY = ("roc_auc", "accuracy", "log_loss", "brier")


def expit(value):
    return 1 / (1 + np.exp(-value))


def classified(random, rows: int, shift: float = 0.0, bias: float = 0.0) -> Outcomes:
    """A model with all information and badly calibrated scores: too close to 0.5, too low, and bent.

    :param shift: how far the inputs have moved, in standard deviations
    :param bias: how far the truth has moved while the inputs stayed
    """
    signal = 1.5 * random.normal(shift, 1, rows) - 1
    truth = random.random(rows) < expit(signal + bias * signal)
    score = expit(0.5 * signal - 0.3 + 0.1 * np.maximum(0, signal))
    return Outcomes(truth, score, (score >= 0.5) == truth)


def valued(random, rows: int, shift: float = 0.0) -> Outcomes:
    """A regression with errors that grow with the prediction."""
    score = random.normal(shift, 1, rows)
    truth = score + random.normal(size=rows) * expit(score)
    return Outcomes(truth, score, np.zeros(rows, bool))


def estimated(metric: str, held_out: Outcomes, window: Outcomes, task="binary", threshold: float | None = 0.5):
    known = calibrate(task, held_out)
    return estimate(metric, collect([window.score], known), known, 0.95, threshold)


def test_the_interval_has_its_coverage_under_covariate_shift():
    windows, held = 250, dict.fromkeys(BINARY, 0)
    widths = []
    for seed in range(windows):
        random = np.random.default_rng(seed)
        known = calibrate("binary", classified(random, 1_500))
        window = classified(random, int(random.integers(500, 4_000)), shift=random.uniform(-1.2, 1.2))
        scores = collect([window.score], known)
        for metric in BINARY:
            one, true = estimate(metric, scores, known, 0.95, 0.5), measure(metric, window, 0.95).value
            held[metric] += one.low <= true <= one.high
            if metric == "roc_auc":
                widths.append(one.high - one.low)
    # 95% are expected, with a standard deviation of 1.4%; at least 90% are required.
    assert all(count / windows >= 0.92 for count in held.values()), held
    # The intervals must not be trivially wide.
    assert np.mean(widths) < 0.12


def test_the_interval_of_a_regression_loss_has_its_coverage():
    windows, held = 250, {"mae": 0, "rmse": 0}
    for seed in range(windows):
        random = np.random.default_rng(seed)
        known = calibrate("regression", valued(random, 2_000))
        window = valued(random, 2_000, shift=random.uniform(-1, 1))
        for metric in held:
            one = estimate(metric, collect([window.score], known), known, 0.95)
            held[metric] += one.low <= measure(metric, window, 0.95).value <= one.high
    assert all(0.92 <= count / windows <= 0.99 for count in held.values()), held


def test_the_accuracy_of_a_multiclass_model_is_estimated():
    random = np.random.default_rng(0)

    def draw(shift: float) -> Outcomes:
        most = 0.4 + 0.6 * expit(random.normal(shift, 1, 4_000))
        right = random.random(4_000) < most**2
        return Outcomes(right, most, right)

    window = draw(1.0)
    one = estimated("accuracy", draw(0.0), window, "multiclass", None)
    assert one.low <= window.right.mean() <= one.high
    assert one.value == pytest.approx(window.right.mean(), abs=0.03)


def test_concept_drift_does_not_show_in_the_estimate():
    random = np.random.default_rng(0)
    window = classified(random, 5_000, bias=-0.7)
    one = estimated("roc_auc", classified(random, 5_000), window)
    assert one.low > measure("roc_auc", window, 0.95).high


@pytest.mark.parametrize("metric", BINARY)
def test_the_estimate_on_the_held_out_rows_is_the_realised_value(metric):
    held_out = classified(np.random.default_rng(1), 20_000)
    assert estimated(metric, held_out, held_out).value == pytest.approx(
        measure(metric, held_out, 0.95).value, abs=0.004
    )


@given(st.lists(st.sampled_from([0.1, 0.25, 0.4, 0.6, 0.95]), min_size=15, max_size=60))
@settings(deadline=None, max_examples=50)
def test_the_area_is_that_of_all_pairs_of_rows_weighted_by_their_probabilities(score):
    known = calibrate("binary", classified(np.random.default_rng(0), 1_000))
    score = np.array([*score, 0.6, 0.6, 0.95, 0.95])
    p = known.probability(score)
    pairs = np.outer(p, 1 - p)
    np.fill_diagonal(pairs, 0)
    won = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    assert estimate("roc_auc", collect([score], known), known, 0.95).value == pytest.approx(
        (pairs * won).sum() / pairs.sum(), abs=1e-9
    )


@pytest.mark.parametrize("metric", BINARY)
def test_the_error_of_the_calibration_is_propagated_by_the_derivative_of_the_metric(metric):
    random = np.random.default_rng(0)
    known, window = calibrate("binary", classified(random, 2_000)), classified(random, 2_000)
    scores = collect([window.score], known)

    def with_(**fields):
        return estimate(metric, scores, known.model_copy(update=fields), 0.95, 0.5)

    gradient = []
    for index in range(len(known.coefficients)):
        moved = []
        for step in (1e-5, -1e-5):
            coefficients = [*known.coefficients]
            coefficients[index] += step
            moved.append(with_(coefficients=coefficients).value)
        gradient.append((moved[0] - moved[1]) / 2e-5)
    expected = np.asarray(gradient) @ np.asarray(known.covariance) @ np.asarray(gradient)
    certain = with_(covariance=np.zeros_like(known.covariance).tolist())
    whole = with_()
    found = ((whole.high - whole.low) ** 2 - (certain.high - certain.low) ** 2) / (2 * 1.959964) ** 2
    assert found == pytest.approx(expected, rel=0.01)


def test_the_calibration_is_that_of_a_logistic_regression_and_its_covariance():
    random = np.random.default_rng(0)
    signal = random.normal(size=80_000)
    truth = random.random(80_000) < expit(2 * signal - 1)
    known = calibrate("binary", Outcomes(truth, expit(signal), truth))
    points = expit(np.linspace(-2, 2, 9))
    np.testing.assert_allclose(known.probability(points), expit(2 * np.linspace(-2, 2, 9) - 1), atol=0.02)
    bent = random.random(80_000) < expit(2 * signal - 1 - 3 * np.maximum(0, signal))
    known = calibrate("binary", Outcomes(bent, expit(signal), bent))
    expected = expit(2 * np.linspace(-2, 2, 9) - 1 - 3 * np.maximum(0, np.linspace(-2, 2, 9)))
    np.testing.assert_allclose(known.probability(points), expected, atol=0.03)
    # The errors of such curves, in logits, are as large as the covariance says.
    far = []
    for seed in range(120):
        random = np.random.default_rng(seed)
        signal = random.normal(size=1_000)
        truth = random.random(1_000) < expit(2 * signal - 1)
        one = calibrate("binary", Outcomes(truth, expit(signal), truth))
        basis = one.basis(expit(np.array([-1.0, 0.0, 1.0])))
        error = basis @ one.coefficients - (2 * np.array([-1.0, 0.0, 1.0]) - 1)
        far.append(error / np.sqrt(np.einsum("ij,jk,ik->i", basis, np.asarray(one.covariance), basis)))
    assert np.std(far) == pytest.approx(1, abs=0.15)


@given(st.integers(1, 7))
@settings(deadline=None, max_examples=7)
def test_batches_give_the_result_of_the_whole_without_values_that_are_not_finite(parts):
    known = calibrate("binary", classified(np.random.default_rng(0), 500))
    score = np.append(classified(np.random.default_rng(1), 300).score, [np.nan, np.inf])
    whole, split = collect([score], known), collect(np.array_split(score, parts), known)
    assert whole.total == split.total == 300
    assert estimate("log_loss", whole, known, 0.95).value == pytest.approx(
        estimate("log_loss", split, known, 0.95).value
    )


@pytest.mark.parametrize(
    "score",
    [
        lambda truth: truth.astype(float),
        lambda truth: np.where(truth, 0.9, 0.1),
        lambda truth: np.full(len(truth), 0.3),
        lambda truth: 0.5 + 1e-4 * truth,
        lambda truth: np.where(np.arange(len(truth)) % 3 == 0, 0.0, 1.0),
        lambda truth: np.linspace(0, 1, len(truth)),
    ],
    ids=["the truth", "sure", "constant", "squeezed", "labels", "with 0 and 1"],
)
@pytest.mark.parametrize("metric", BINARY)
def test_the_estimate_of_arbitrary_scores_lies_inside_its_interval(score, metric):
    truth = np.random.default_rng(0).random(900) < 0.4
    rows = Outcomes(truth, score(truth), (score(truth) >= 0.5) == truth)
    one, true = estimated(metric, rows, rows), measure(metric, rows, 0.95).value
    assert one.low - 0.01 <= true <= one.high + 0.01
    assert np.isfinite([one.value, one.low, one.high]).all()


def test_no_calibration_is_learned_from_too_few_rows_or_one_outcome():
    truth, score = np.array([True, True, False]), np.array([0.9, 0.8, 0.1])
    assert calibrate("binary", Outcomes(truth[:2], score[:2], truth[:2])) is None
    assert calibrate("binary", Outcomes(truth[:0], score[:0], truth[:0])) is None
    assert calibrate("regression", Outcomes(np.array([1e200, 1.0]), score[:2], truth[:2])) is None
    assert isinstance(calibrate("binary", Outcomes(truth, score, truth)), ProbabilityCalibration)
    one = calibrate("regression", Outcomes(np.array([1.0, 2.0]), score[:2], truth[:2]))
    assert isinstance(one, LossModel)
    assert one.cells == 1


def test_the_error_says_why_nothing_can_be_estimated():
    known = calibrate("binary", classified(np.random.default_rng(0), 1_000))
    with pytest.raises(UnmeasurableError, match="there are no scores"):
        estimate("roc_auc", collect([np.array([np.nan])], known), known, 0.95)
    with pytest.raises(UnmeasurableError, match="fewer than two rows of the positive class"):
        estimate("roc_auc", collect([np.full(30, 1e-6)], known), known, 0.95)
    assert estimate("accuracy", collect([np.full(30, 1e-6)], known), known, 0.95, 0.5).value > 0.95


def test_a_calibration_is_small_json_and_missing_in_older_profiles():
    empty = Profile(rows=0, columns={})
    for known in (
        calibrate("binary", classified(np.random.default_rng(0), 100_000)),
        calibrate("regression", valued(np.random.default_rng(0), 100_000)),
    ):
        text = ModelProfile(features=empty, scores=empty, calibration=known).model_dump_json()
        assert ModelProfile.model_validate_json(text).calibration == known
        assert len(text) < 12_000
    assert ModelProfile.model_validate({"features": empty, "scores": empty}).calibration is None


def regression(random: np.random.Generator, rows: int, shift: float) -> Outcomes:
    """Predictions whose errors grow with the prediction."""
    value = random.normal(shift, 1, rows)
    return Outcomes(value + random.normal(size=rows) * np.exp(value / 4), value, np.zeros(rows, bool))


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_the_interval_of_a_regression_covers_windows_that_moved_beyond_the_held_out_predictions(metric):
    random, held, windows = np.random.default_rng(0), 0, 0
    for _ in range(30):
        known = calibrate("regression", regression(random, 5_000, 0.0))
        for shift in (0.0, 1.0, 1.5):
            window = regression(random, 5_000, shift)
            found = estimate(metric, collect([window.score], known), known, 0.95)
            held += found.low <= measure(metric, window, 0.95).value <= found.high
            windows += 1
    assert held >= 0.9 * windows


def moved_inputs(random: np.random.Generator, rows: int, shift: float) -> tuple[Outcomes, pa.RecordBatch]:
    """A model whose values saturate outside of the range of training; the labels do not, and one feature scales their noise."""
    inputs = random.normal(size=(rows, 3))
    inputs[:, 0] += shift
    inputs[:, 2] += shift
    score = np.clip(inputs[:, 0], -1.5, 1.5) + 0.5 * inputs[:, 1]
    truth = inputs[:, 0] + 0.5 * inputs[:, 1] + random.normal(size=rows) * np.exp(0.3 * inputs[:, 2])
    table = pa.RecordBatch.from_pydict({"a": inputs[:, 0], "b": inputs[:, 1], "c": inputs[:, 2]})
    return Outcomes(truth, score, np.zeros(rows, bool)), table


def by_inputs(metric: str, shift: float, windows: int) -> tuple[float, float, float]:
    """Return the share of windows inside the interval with and without the inputs, and the ratio of the widths."""
    inside, widths = np.zeros(2), np.zeros(2)
    for seed in range(windows):
        random = np.random.default_rng(seed)
        held_out, features = moved_inputs(random, 2_000, 0.0)
        known = calibrate("regression", held_out, [features.slice(0, 700), features.slice(700)])
        window, features = moved_inputs(random, 5_000, shift)
        scores = collect([window.score], known)
        true = measure(metric, window, 0.95).value
        for place, shifted in enumerate((known.inputs.shift([features]), None)):
            one = estimate(metric, replace(scores, shift=shifted), known, 0.95)
            inside[place] += one.low <= true <= one.high
            widths[place] += one.high - one.low
    return *(inside / windows), widths[0] / widths[1]


@pytest.mark.parametrize("metric", ["rmse", "mae"])
@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_the_interval_of_a_regression_covers_windows_whose_inputs_moved(metric, shift):
    inside, by_prediction, wider = by_inputs(metric, shift, 60)
    # 95% are stated. With a true rate of 90%, one of ten runs has fewer than 51 of 60 windows inside.
    assert inside >= 51 / 60
    if shift:
        assert by_prediction < 0.6
    else:
        assert wider < 1.05


@given(st.floats(-30, 30), st.floats(0.1, 10))
@settings(deadline=None, max_examples=50)
def test_the_estimate_of_a_regression_is_positive_however_far_the_inputs_moved(change, scale):
    held_out, features = moved_inputs(np.random.default_rng(0), 500, 0.0)
    known = calibrate("regression", held_out, [features])
    scores = collect([held_out.score], known)
    shift = np.zeros(6)
    shift[0], shift[3] = change, scale
    for metric in ("rmse", "mae"):
        one = estimate(metric, replace(scores, shift=shift), known, 0.95)
        assert 0 < one.low < one.value < one.high < np.inf


def test_the_effect_of_inputs_is_a_regression_with_its_covariance():
    random = np.random.default_rng(0)
    held_out, features = moved_inputs(random, 4_000, 0.0)
    inputs = calibrate("regression", held_out, [features]).inputs
    values = np.column_stack([features.column(name) for name in inputs.features])
    places = (values - inputs.centers) / inputs.scales
    assert inputs.features == ["a", "b", "c"]
    np.testing.assert_allclose(inputs.shift([features]), 0, atol=1e-9)
    # The first terms of a window with half of the rows are the means over these rows.
    half = inputs.shift([features.slice(0, 2_000)])
    np.testing.assert_allclose(half[:3], places[:2_000].mean(axis=0), atol=1e-9)
    # The coefficients vary between held-out samples as much as the covariance says.
    apart = []
    for _ in range(60):
        other = calibrate("regression", *_pair(moved_inputs(random, 2_000, 0.0))).inputs
        apart.append(np.asarray(other.absolute) / np.sqrt(np.diag(other.absolute_covariance)))
    assert np.std(apart, axis=0).mean() == pytest.approx(1, abs=0.2)


def _pair(drawn: tuple[Outcomes, pa.RecordBatch]) -> tuple[Outcomes, list[pa.RecordBatch]]:
    return drawn[0], [drawn[1]]


def test_inputs_that_are_not_numbers_or_do_not_vary_have_no_effect():
    random = np.random.default_rng(0)
    held_out, features = moved_inputs(random, 1_000, 0.0)
    missing = np.where(random.random(1_000) < 0.3, None, features.column("a").to_numpy())
    table = pa.RecordBatch.from_pydict(
        {
            "word": ["x"] * 1_000,
            "one": np.ones(1_000),
            "flag": random.random(1_000) < 0.5,
            "a": pa.array(missing, pa.float64()),
            "nothing": pa.nulls(1_000, pa.float64()),
        }
    )
    inputs = calibrate("regression", held_out, [table]).inputs
    assert inputs.features == ["flag", "a"]
    assert np.isfinite(inputs.shift([table])).all()
    assert inputs.shift([]) is None
    assert inputs.shift([table.set_column(3, "a", pa.array(["x"] * 1_000))]) is None
    assert calibrate("regression", held_out, [table.select(["word", "one"])]).inputs is None
    assert calibrate("regression", held_out, [table.slice(1)]).inputs is None
    assert calibrate("regression", held_out).inputs is None


def test_a_broken_input_of_a_huge_size_gives_a_finite_interval():
    held_out, features = moved_inputs(np.random.default_rng(0), 1_000, 0.0)
    known = calibrate("regression", held_out, [features])
    broken = features.set_column(0, "a", pa.array(np.full(1_000, 1e300)))
    one = estimate("rmse", replace(collect([held_out.score], known), shift=known.inputs.shift([broken])), known, 0.95)
    assert np.isfinite([one.low, one.value, one.high]).all()


def test_a_loss_model_of_an_early_version_has_no_tails_and_gives_the_same_estimate_for_the_same_predictions():
    held_out = regression(np.random.default_rng(1), 20_000, 0.0)
    known = calibrate("regression", held_out)
    early = LossModel.model_validate({**known.model_dump(), "tails": []})
    new, old = (estimate("rmse", collect([held_out.score], model), model, 0.95) for model in (known, early))
    assert new.value == pytest.approx(old.value)
    assert (new.low, new.high) == pytest.approx((old.low, old.high))
    # Larger predictions have larger errors, which a mean over the outermost bin does not show.
    moved = [held_out.score + 1.5]
    assert estimate("rmse", collect(moved, known), known, 0.95).value > (
        1.01 * estimate("rmse", collect(moved, early), early, 0.95).value
    )
    # A curve with a single bin has no slope at its ends.
    assert calibrate("regression", regression(np.random.default_rng(2), 60, 0.0)).tails == []


def test_an_expected_cost_is_estimated_as_the_shares_of_both_errors():
    random = np.random.default_rng(0)
    known, window = calibrate("binary", classified(random, 1_500)), classified(random, 2_000, shift=0.5)
    scores = collect([window.score], known)
    wrong, right = (estimate(metric, scores, known, 0.95, 0.5) for metric in ("expected_cost_fp1_fn1", "accuracy"))
    assert (wrong.value, wrong.low, wrong.high) == pytest.approx((1 - right.value, 1 - right.high, 1 - right.low))
    positive, negative, both = (
        estimate(f"expected_cost_fp{fp}_fn{fn}", scores, known, 0.95, 0.5) for fp, fn in ((1, 0), (0, 1), (1, 20))
    )
    assert both.value == pytest.approx(positive.value + 20 * negative.value)
    assert both.low <= measure("expected_cost_fp1_fn20", window, 0.95).value <= both.high
    # Everything is predicted to be negative at a high threshold.
    assert estimate("expected_cost_fp1_fn0", scores, known, 0.95, 2.0).value == 0
