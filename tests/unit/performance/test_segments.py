"""Segments with worse performance: their rows, their losses, and the false-alarm rate of their test."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.metrics.ranks import area
from airflow_mlops.metrics.realised import Outcomes, losses, measurable, measure, outcomes
from airflow_mlops.performance.segments import MAX_SEGMENTS, compare
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import profile
from airflow_mlops.profiles.segments import Designs, SegmentLosses, codes_of, cut, held_out, tally

POLICY = Policy()


def contract(task: str = "binary", **metrics: float) -> ModelContract:
    classes = {"binary": [False, True], "multiclass": ["a", "b"], "regression": []}[task]
    return ModelContract(
        task=task, label="late", features=[FeatureColumn(name="hour", kind="number")], classes=classes,
        positive=True if task == "binary" else None, metrics=metrics, dataset_name="d", dataset_id="i",
    )  # fmt: skip


def flights(rows: int, seed: int, worse: str | None = None) -> tuple[pa.Table, Outcomes]:
    """Flights with calibrated scores, except for the carrier ``worse``, which has random scores."""
    random = np.random.default_rng(seed)
    carrier = random.choice(["AA", "B6", "EV", "UA"], rows, p=[0.4, 0.3, 0.1, 0.2])
    table = pa.table({"carrier": carrier, "hour": random.integers(5, 24, rows), "wind": random.normal(size=rows)})
    p = 1 / (1 + np.exp(-random.normal(-1, 1, rows)))
    score = np.where(carrier == worse, random.permutation(p), p)
    truth = random.random(rows) < p
    return table, Outcomes(truth, score, (score >= 0.5) == truth)


def reference(table: pa.Table, known: Outcomes, task: str = "binary", **metrics: float) -> SegmentLosses:
    cuts = cut(profile(table.to_batches()).columns)
    return held_out(cuts, contract(task, **(metrics or {"roc_auc": 0.7})), table.to_batches(), known)


def compared(then, now, metric: str = "roc_auc", policy: Policy = POLICY):
    found = reference(*then, **{metric: 0.7})
    table, known = now
    current = tally(found.cuts, table.to_batches(max_chunksize=997), {metric: losses(metric, known)})[metric]
    return compare(found, current, metric, policy)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["roc_auc", "accuracy", "log_loss", "brier", "rmse", "mae"]))
@settings(max_examples=50)
def test_the_mean_loss_of_the_rows_is_the_metric(seed, metric):
    random = np.random.default_rng(seed)
    rows = int(random.integers(20, 200))
    score = random.integers(0, 8, rows) / 10 + 0.1
    truth = np.arange(rows) % 3 == 0
    found = Outcomes(truth, score, (score >= 0.5) == truth)
    value = measure(metric, found, 0.95).value
    mean = losses(metric, found).mean()
    expected = {"roc_auc": 1 - value, "accuracy": 1 - value, "rmse": value**2}.get(metric, value)
    assert mean == pytest.approx(expected)


def test_the_variance_of_the_losses_of_roc_auc_is_delongs():
    _, known = flights(5_000, 1)
    cost = losses("roc_auc", known)
    assert cost.var() / len(cost) == pytest.approx(area(known.truth, known.score).standard_error ** 2, rel=1e-2)


def test_segments_are_bins_of_about_equal_rows_frequent_values_and_missing_values():
    table = pa.table(
        {
            "hour": pa.array([*range(5, 25), None] * 50),
            "wind": [*np.linspace(0, 1, 1_049), np.nan],
            "carrier": pa.array([f"C{number:02}" for number in range(12) for _ in range(85)] + [None] * 30),
            "flag": pa.array([True, False, None] * 350),
            "one": [3.0] * 1_050,
            "none": pa.array([None] * 1_050, pa.float64()),
        }
    )
    cuts = cut(profile(table.to_batches()).columns)
    assert set(cuts) == {"hour", "wind", "carrier", "flag", "one"}
    assert cuts["hour"].names == ["up to 8", "9 to 12", "13 to 16", "17 to 20", "from 21", "missing"]
    assert len(cuts["carrier"].names) == 12
    assert cuts["carrier"].names[-2:] == ["= any other", "missing"]
    assert set(cuts["flag"].names) == {"= true", "= false", "= any other", "missing"}
    assert cuts["one"].names == ["with a value", "missing"]
    for name, expected in (("hour", [200] * 5 + [50]), ("carrier", [85] * 10 + [170, 30])):
        assert np.bincount(cuts[name].codes(table.column(name).combine_chunks())).tolist() == expected
    places = cuts["wind"].codes(table.column("wind").combine_chunks())
    assert np.bincount(places) == pytest.approx([210, 210, 210, 210, 209, 1], abs=2)


@given(st.lists(st.integers(-5, 30) | st.none(), min_size=1, max_size=200))
@settings(max_examples=100)
def test_the_name_of_a_segment_describes_its_rows(hours):
    column = pa.array(hours, pa.int64())
    cuts = cut(profile(pa.table({"hour": column}).to_batches()).columns)
    for name, item in cuts.items():
        for hour, code in zip(hours, item.codes(column), strict=True):
            assert _holds(item.names[code], hour), (name, item.names, hour)


def _holds(name: str, hour: int | None) -> bool:
    if hour is None or name in ("missing", "with a value"):
        return (hour is None) == (name == "missing")
    first, *_, last = name.split()
    low = {"up": -99, "from": int(last), "=": int(last)}.get(first)
    high = 99 if first == "from" else int(last)
    return (int(first) if low is None else low) <= hour <= high


def test_batches_give_the_tally_of_the_whole():
    table, known = flights(5_000, 3)
    cuts = cut(profile(table.to_batches()).columns)
    costs = {"brier": losses("brier", known)}
    whole, parts = (tally(cuts, table.to_batches(max_chunksize=size), costs)["brier"] for size in (5_000, 331))
    for name in cuts:
        assert whole[name].rows == parts[name].rows
        assert whole[name].mean == pytest.approx(parts[name].mean, rel=1e-12)
        assert whole[name].variance == pytest.approx(parts[name].variance, rel=1e-9)
    ev = np.asarray(table["carrier"]) == "EV"
    place = cuts["carrier"].names.index("= EV")
    assert whole["carrier"].mean[place] == pytest.approx(costs["brier"][ev].mean())
    assert whole["carrier"].variance[place] == pytest.approx(costs["brier"][ev].var(ddof=1))


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "log_loss", "brier"])
def test_the_segment_with_worse_performance_is_found_with_its_contribution(metric):
    change, fallen = compared(flights(40_000, 1), flights(40_000, 2, worse="EV"), metric)
    assert [found.name for found in fallen][:1] == ["carrier = EV"]
    worst = fallen[0]
    assert worst.share == pytest.approx(0.1, abs=0.02)
    assert worst.reference.high < worst.loss.low
    assert worst.contribution == pytest.approx(worst.share * (worst.loss.value - worst.reference.value))
    assert worst.contribution / (change.value - change.reference) > 0.5
    # The rows of EV also lie in the segments of wind and hour, and their losses rise as much as those of all rows.
    beyond = [found.contribution - found.share * (change.value - change.reference) for found in fallen]
    assert all(more < beyond[0] / 4 for more in beyond[1:])


def test_mix_and_rate_add_up_to_the_change():
    change, _ = compared(flights(4_000, 1), flights(3_000, 2, worse="B6"), "brier")
    assert {shift.feature for shift in change.shifts} == {"carrier", "hour", "wind"}
    for shift in change.shifts:
        assert shift.mix + shift.rate == pytest.approx(change.value - change.reference)


def test_rows_that_move_between_segments_are_mix_and_no_segment_is_worse():
    def of(share: float, seed: int) -> tuple[pa.Table, Outcomes]:
        random = np.random.default_rng(seed)
        hard = random.random(20_000) < share
        right = random.random(20_000) < np.where(hard, 0.6, 0.95)
        truth = random.random(20_000) < 0.5
        table = pa.table({"kind": np.where(hard, "hard", "easy"), "noise": random.normal(size=20_000)})
        return table, Outcomes(truth, np.where(truth == right, 0.9, 0.1), right)

    change, fallen = compared(of(0.2, 1), of(0.5, 2), "accuracy", Policy(tolerance=0.05))
    assert not [found for found in fallen if found.feature == "kind"]
    first = change.shifts[0]
    assert first.feature == "kind"
    assert first.mix == pytest.approx(0.3 * 0.35, abs=0.02)
    assert abs(first.rate) < 0.01


def test_false_alarms_occur_at_the_stated_rate():
    """400 windows of different sizes, and a rate of 5%."""
    alarms = []
    for seed in range(400):
        then, now = flights(2_000, 10_000 + seed), flights(150 + 10 * seed, seed)
        alarms.append(bool(compared(then, now, "roc_auc", Policy(tolerance=0))[1]))
    assert np.mean(alarms) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 400)


def test_a_sample_of_equal_losses_is_not_certain():
    def of(rows: int, wrong: int) -> tuple[pa.Table, Outcomes]:
        right = np.arange(rows) >= wrong
        table = pa.table({"x": pa.array(["a", "b"] * (rows // 2)), "y": ["c"] * rows})
        return table, Outcomes(right, np.full(rows, 0.5), right)

    # First 0 of 100 rows were wrong, then 8 of 1,000. This is no evidence of a change, although the first sample has no
    # variance.
    _, fallen = compared(of(100, 0), of(1_000, 8), "accuracy", Policy(tolerance=0, min_rows=20))
    assert not fallen


def test_small_rises_and_small_segments_do_not_count():
    then, now = flights(20_000, 1), flights(20_000, 2, worse="EV")
    sure = compared(then, now, "accuracy")[1][0]
    rise = sure.loss.value - sure.reference.value
    assert compared(then, now, "accuracy", Policy(tolerance=rise * 0.99))[1]
    assert not compared(then, now, "accuracy", Policy(tolerance=rise * 1.01))[1]
    assert not compared(then, now, "accuracy", Policy(min_rows=sure.rows * 4))[1]


def test_at_most_ten_segments_are_listed_and_all_are_counted():
    table, known = flights(20_000, 1)
    turned = Outcomes(known.truth, 1 - known.score, ~known.right)
    change, fallen = compared((table, known), (table, turned), "brier")
    assert len(fallen) == MAX_SEGMENTS < change.fallen <= change.tested
    excess = [found.contribution - found.share * (change.value - change.reference) for found in fallen]
    assert excess == sorted(excess, reverse=True)


def test_a_metric_that_the_held_out_rows_cannot_measure_is_left_out_and_logged(caplog):
    table, known = flights(60, 5)
    rare = Outcomes(np.arange(60) == 7, known.score, known.right)
    found = reference(table, rare, roc_auc=0.7, brier=0.1)
    assert set(found.losses) == {"brier"}
    assert "no losses by segment for roc_auc" in caplog.text
    assert "only one label is of the positive class" in caplog.text
    assert all(word in caplog.text for word in ("dataset 'd'", "label 'late'", "Hold out more rows"))


def test_new_values_and_missing_columns_are_handled():
    then, (_, known) = flights(4_000, 1), flights(4_000, 2)
    found = reference(*then, brier=0.2)
    changed = pa.table({"carrier": ["new"] * 4_000, "wind": ["text"] * 4_000})
    current = tally(found.cuts, changed.to_batches(), {"brier": losses("brier", known)})["brier"]
    assert set(current) == {"carrier"}
    change, fallen = compare(found, current, "brier", POLICY)
    assert not fallen
    # Rows of a new carrier do not count as a change of the mix of segments.
    assert change.shifts[0].mix == pytest.approx(0)
    assert change.shifts[0].rate == pytest.approx(change.value - change.reference)
    assert compare(found, {}, "brier", POLICY) is None
    assert compare(found, current, "log_loss", POLICY) is None


def test_a_feature_whose_losses_at_training_were_left_out_is_not_compared():
    found, (table, known) = reference(*flights(3_000, 0)), flights(3_000, 1, worse="EV")
    current = tally(found.cuts, table.to_batches(), {"roc_auc": losses("roc_auc", known)})["roc_auc"]
    del found.losses["roc_auc"]["wind"]
    change, _ = compare(found, current, "roc_auc", POLICY)
    assert {shift.feature for shift in change.shifts} == {"carrier", "hour"}
    found.losses["roc_auc"].clear()
    assert compare(found, current, "roc_auc", POLICY) is None


def test_infinite_losses_are_left_out():
    table = pa.table({"x": ["a", "b"]})
    found = Outcomes(np.array([1e300, 0.0]), np.array([-1e300, 0.0]), np.zeros(2, dtype=bool))
    kept = reference(table, found, "regression", rmse=1.0, mae=1.0)
    assert kept.losses["rmse"] == {}
    json.dumps(kept.model_dump(mode="json"), allow_nan=False)
    assert SegmentLosses.model_validate(json.loads(json.dumps(kept.model_dump(mode="json")))) == kept


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_tallied_rows_are_those_of_the_metric(task):
    labels = {
        "binary": pa.array([True, None, False, True, None, False]),
        "multiclass": pa.array(["a", None, "b", "a", None, "b"]),
        "regression": pa.array([1.0, None, 2.0, float("nan"), float("inf"), 3.0]),
    }[task]
    batch = pa.RecordBatch.from_pydict(
        {
            "label": labels,
            "prediction": labels.fill_null(labels[0]),
            "score": pa.array([0.1, 0.2, float("nan"), None, 0.4, 0.5]),
            "row": list(range(6)),
        }
    )
    found = pa.Table.from_batches(measurable([batch], contract(task)))
    assert found.column("row").to_pylist() == [0, 5]
    assert outcomes([batch], contract(task)).rows == 2


def shops(random: np.random.Generator, clusters: int) -> tuple[pa.Table, Outcomes, np.ndarray]:
    """Sales of shops with 20 days each. The model is as wrong about all days of a shop."""
    groups = np.repeat(np.arange(clusters), 20)
    size = random.choice(["small", "middle", "large"], clusters)[groups]
    errors = random.normal(size=clusters)[groups] + 0.1 * random.normal(size=len(groups))
    table = pa.table({"size": size, "area": random.normal(size=clusters)[groups]})
    return table, Outcomes(np.zeros(len(groups)), errors, np.zeros(len(groups), bool)), groups


def design_effects(cuts, table: pa.Table, cost: np.ndarray, groups: np.ndarray) -> dict[str, list[float]]:
    found, start = Designs(cuts, int(groups.max()) + 1), 0
    for batch in table.to_batches(max_chunksize=70):
        rows = slice(start, start + batch.num_rows)
        start += batch.num_rows
        found.add(codes_of(cuts, batch), cost[rows], groups[rows])
    return found.result()


def test_unchanged_segments_of_clustered_rows_are_rarely_worse():
    def often(by_cluster: bool, windows: int) -> int:
        random, alarms = np.random.default_rng(0), 0
        for _ in range(windows):
            (then, known, _), (now, measured, groups) = shops(random, 150), shops(random, 60)
            found = reference(then, known, "regression", rmse=1.0)
            cost = losses("rmse", measured)
            current = tally(found.cuts, now.to_batches(), {"rmse": cost})["rmse"]
            designs = design_effects(found.cuts, now, cost, groups) if by_cluster else None
            alarms += compare(found, current, "rmse", POLICY, designs)[0].fallen > 0
        return alarms

    # With a true rate of 5%, this many alarms occur by chance in one of a thousand runs.
    assert stats.binom.sf(often(True, 100) - 1, 100, 0.05) > 1e-3
    assert often(False, 20) >= 10


def test_segments_of_one_cluster_are_not_tested():
    random = np.random.default_rng(1)
    (then, known, _), (now, measured, groups) = shops(random, 150), shops(random, 60)
    found, cost = reference(then, known, "regression", rmse=1.0), losses("rmse", measured)
    current = tally(found.cuts, now.to_batches(), {"rmse": cost})["rmse"]
    designs = design_effects(found.cuts, now, cost, np.zeros_like(groups))
    assert compare(found, current, "rmse", POLICY, designs)[0].tested == 0
    by_row = design_effects(found.cuts, now, cost, np.arange(len(cost)))
    # Rows in separate clusters are independent. Only the jackknife correction makes a difference.
    assert all(1 <= effect <= 1.05 for effects in by_row.values() for effect in effects)
