"""Rows without a prediction in monitoring: the drift of the scores counts them, and everything else leaves them out."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.profile import step as profile
from airflow_mlops.stages.profile.spec import ProfileSpec
from tests.integration.stages.test_monitor import outcomes, stored, watch
from tests.support.deployed import flights, promote

ROWS = 2_000


@pytest.fixture
def champion(client, store, tmp_path):
    return promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")


def with_nulls(share: float, seed: int = 2) -> pa.Table:
    """Flights of which a share has no ``wind``, so that the linear model scores NaN."""
    data = flights(ROWS, seed=seed)
    missing = np.random.default_rng(seed).permutation(ROWS) < share * ROWS
    wind = pa.array(data["wind"].to_numpy(), mask=missing)
    return data.set_column(data.schema.get_field_index("wind"), "wind", wind)


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_drift_counts_rows_without_a_score_and_performance_leaves_them_out(store, champion, share):
    made = outcomes(store, champion, "2013-04", with_nulls(share))
    result, report = watch(store, champion, made), stored(store, champion, "2013-04")
    rows = open_dataset(store, made).table(columns=["score", "prediction", "label"]).to_pandas()
    absent = rows["score"].isna()
    assert rows["prediction"].isna().equals(absent)
    assert absent.sum() == share * ROWS
    drift = report.prediction
    assert (drift.drifted, drift.test, drift.missing, drift.effect) == (True, "missing", share, pytest.approx(share))
    # The bar of missing values is the only one without rows at training.
    assert [(item.label, item.reference, item.current) for item in drift.bins][-1] == ("missing", 0, share)
    assert sum(item.current for item in drift.bins) == pytest.approx(1)
    assert result.metrics["prediction_drift"] == pytest.approx(share)
    assert f"{share:.1%} of the values are missing" in " ".join(result.details)

    # All rows have a label, and those with a score are measured.
    assert (result.metrics["labelled"], result.metrics["coverage"]) == (ROWS, 1)
    there = rows[~absent]
    late = there["label"].astype(bool)
    assert result.metrics["roc_auc"] == pytest.approx(roc_auc_score(late, there["score"]))
    assert result.metrics["bias"] == pytest.approx((there["score"] - late).mean())
    assert (report.positives.rows, report.positives.value) == (len(there), (there["score"] >= 0.5).mean())
    assert report.estimated.labels == len(there)
    assert any(f"excludes {absent.sum()} labelled rows" in note for note in report.notes)


def test_profiles_of_shards_count_the_same_rows(store, champion):
    made = outcomes(store, champion, "2013-04", with_nulls(0.3))
    watch(store, champion, made)
    whole = stored(store, champion, "2013-04")
    context = StepContext(store=store)
    parts = [
        profile.run(ProfileSpec(model=champion.model, dataset=made, shard=shard, shards=2), context).profile
        for shard in range(2)
    ]
    monitor.run(MonitorSpec(model=champion.model, dataset=made, profiles=parts), context)
    assert stored(store, champion, "2013-04").prediction == whole.prediction


@pytest.mark.parametrize(
    ("share", "told"), [(1.0, "none of 2,000 labelled rows has"), (0.99, "only 20 of 2,000 labelled rows have")]
)
def test_a_window_without_scores_is_reported_as_broken_and_not_as_unlabelled(store, champion, share, told):
    result = watch(store, champion, outcomes(store, champion, "2013-04", with_nulls(share)))
    assert result.decision == "watch"
    assert (result.metrics["labelled"], result.metrics["coverage"]) == (ROWS, 1)
    assert any(told in detail for detail in result.details), result.details
    assert not {"roc_auc", "estimated_roc_auc"} & result.metrics.keys() or share < 1
    assert result.metrics["prediction_drift"] == pytest.approx(share)


def test_scores_that_lack_values_since_training_are_no_drift(store, champion):
    """What is compared is the share of missing scores, which may be the same as in an earlier window."""
    for month, seed in (("2013-04", 2), ("2013-05", 3)):
        made = outcomes(store, champion, month, with_nulls(0.3, seed))
        spec = MonitorSpec(model=champion.model, dataset=made, reference={"rolling": 1})
        monitor.run(spec, StepContext(store=store))
    later = stored(store, champion, "2013-05").prediction
    assert (later.reference, later.missing, later.missing_reference, later.drifted) == ("2013-04", 0.3, 0.3, False)
