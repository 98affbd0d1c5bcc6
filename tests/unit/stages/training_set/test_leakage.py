"""Features that alone predict the label, or that are newer than their event, are refused; others are accepted."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.core.errors import LeakageError
from airflow_mlops.data.row_identity import row_ids
from airflow_mlops.gates.single_features import SAMPLE_ROWS, _auc
from airflow_mlops.stages.training_set.leakage import check_single_features, refuse_newer

ROWS = 4000
RNG = np.random.default_rng(0)
LATE = (RNG.random(ROWS) < 0.3).astype(int)


def measure(column, label=LATE, task="binary", limit=0.99):
    return check(pa.table({"id": np.arange(len(label)), "feature": column, "label": label}), ["feature"], task, limit)[
        "scores"
    ].get("feature")


def check(table, features, task="binary", limit=0.99):
    with_ids = table.append_column("ids", pa.array(row_ids(table, ["id"])))
    return check_single_features(with_ids, features, "label", task, "ids", limit, pc.unique(table["label"]))


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(LATE, id="the label itself"),
        pytest.param(-3.5 * LATE, id="the label turned round"),
        pytest.param(LATE * 100 + RNG.random(ROWS), id="a delay"),
        pytest.param(pa.array(np.where(LATE, "yes", "no")), id="text"),
        pytest.param(pa.array(LATE.astype(bool)), id="a truth value"),
        pytest.param(pa.array(np.where(LATE, RNG.random(ROWS), np.nan), from_pandas=True), id="missing unless late"),
        pytest.param(np.where(LATE, 0.5, RNG.choice([0.0, 1.0], ROWS)) + RNG.random(ROWS) / 10, id="a middle value"),
        pytest.param(pa.array([datetime(2013, 1 + int(x), 1) for x in LATE]), id="a date"),
    ],
)
def test_a_feature_that_gives_the_label_away_is_refused_by_name(column):
    with pytest.raises(LeakageError, match=r"'feature' \(AUC 0.99\d+|'feature' \(AUC 1.0"):
        measure(column)


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(RNG.random(ROWS), id="noise"),
        pytest.param(np.ones(ROWS), id="a constant"),
        pytest.param(pa.nulls(ROWS), id="nothing at all"),
        pytest.param(pa.array([f"N{i}" for i in range(ROWS)]), id="distinct text"),
        pytest.param(np.arange(ROWS), id="distinct numbers"),
        pytest.param(pa.array([[int(x)] for x in RNG.integers(0, 9, ROWS)]), id="lists"),
    ],
)
def test_an_uninformative_feature_scores_a_half(column):
    assert 0.45 < measure(column) < 0.58


def test_a_good_feature_passes_and_its_score_is_recorded():
    assert 0.85 < measure(LATE + RNG.normal(0, 0.5, ROWS)) < 0.97


def test_the_limit_can_be_raised_for_a_feature_that_is_known_in_time():
    with pytest.raises(LeakageError, match=r"above the limit of 0\.8"):
        measure(LATE + RNG.normal(0, 0.5, ROWS), limit=0.8)
    assert measure(LATE, limit=1.0) == 1.0


def test_several_refused_features_are_named_by_descending_score():
    table = pa.table({"id": np.arange(ROWS), "a": LATE * 3 + RNG.random(ROWS) * 3.05, "b": LATE, "label": LATE})
    with pytest.raises(LeakageError, match=r"Each of these features .*'b' \(AUC 1.0000\), 'a'"):
        check(table, ["a", "b"], limit=0.9)


def test_for_a_regression_the_explained_variance_decides():
    target = RNG.normal(size=ROWS)
    with pytest.raises(LeakageError, match="R2"):
        measure(target * 60, target, "regression")
    with pytest.raises(LeakageError, match="R2"):
        measure(np.exp(target), target, "regression")
    assert measure(RNG.normal(size=ROWS), target, "regression") < 0.1
    assert 0.3 < measure(target + RNG.normal(size=ROWS), target, "regression") < 0.7


def test_each_class_is_measured_against_the_others():
    target = RNG.integers(0, 4, ROWS)
    with pytest.raises(LeakageError):
        measure(pa.array([f"c{x}" for x in target]), target, "multiclass")
    assert measure(RNG.random(ROWS), target, "multiclass") < 0.6


def test_too_few_rows_of_a_class_are_not_judged():
    label = np.zeros(200, int)
    label[:19] = 1
    assert measure(label, label) is None


def test_a_large_table_is_sampled_the_same_way_in_any_order():
    rows = SAMPLE_ROWS * 2
    label = (RNG.random(rows) < 0.01).astype(int)
    table = pa.table({"id": np.arange(rows), "feature": label + RNG.normal(size=rows), "label": label})
    order = RNG.permutation(rows)
    one, other = (check(data, ["feature"]) for data in (table, table.take(order)))
    assert one == other
    # All rows of a rare class are in the sample.
    assert one["rows"] == SAMPLE_ROWS // 2 + label.sum()


def test_auc_counts_ties_as_half():
    assert _auc(np.array([1.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 0.0, 1.0])) == pytest.approx(0.625)


@pytest.mark.parametrize("kind", [pa.timestamp("us", "UTC"), pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.date32()])
def test_a_time_after_the_event_is_refused(kind):
    event = datetime(2013, 1, 1, 10, tzinfo=timezone.utc)
    events = pa.array([event] * 3, pa.timestamp("us", "UTC"))
    before, after = event - timedelta(days=2), event + timedelta(days=2)

    def column(*times):
        return pa.array([t.replace(tzinfo=None) if t else None for t in times], pa.timestamp("us")).cast(kind)

    refuse_newer(pa.table({"t": events, "feature": column(before, None, before)}), ["feature"], "t")
    with pytest.raises(LeakageError, match=r"'feature' is newer than its event in 1 of 3 rows .*2013-01-03"):
        refuse_newer(pa.table({"t": events, "feature": column(before, after, before)}), ["feature"], "t")
