"""Changes of rare classes count by their odds ratio, and the false-alarm rate stays as stated."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.univariate import compare
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import Profile, profile


def labels(rows: int, **counts: int) -> Profile:
    values = [name for name, count in counts.items() for _ in range(count)]
    return profile(pa.table({"label": values + ["no"] * (rows - len(values))}).to_batches())


def drift(before: Profile, now: Profile, **policy: float) -> Drift:
    (found,) = compare(before, now, Policy(**policy))
    return found


def test_labels_that_change_from_1_to_2_percent_have_drifted():
    found = drift(labels(20_000, yes=200), labels(10_000, yes=200))
    assert found.effect == pytest.approx(0.01)
    assert found.drifted
    assert found.adjusted_p_value < 0.001
    assert (found.changed.value, found.changed.reference, found.changed.current) == ("yes", 0.01, 0.02)
    assert found.changed.odds_ratio == pytest.approx(2.02, abs=0.01)
    assert found.remark == "'yes' 1.0% before, 2.0% now"
    # The rule has two sides: a class that becomes rare counts, too.
    assert drift(labels(20_000, yes=400), labels(10_000, yes=100)).drifted
    assert drift(labels(20_000, yes=300), labels(10_000)).drifted


@pytest.mark.parametrize(
    ("before", "now"),
    [
        # If the share of a frequent class changes by one percentage point, the change is negligible even if it is
        # significant.
        (labels(100_000, yes=40_000), labels(100_000, yes=41_000)),
        # The odds changed by less than a factor of 1.5.
        (labels(100_000, yes=2_000), labels(100_000, yes=2_800)),
        # A value with less than 1% of the rows in both samples.
        (labels(100_000, yes=300), labels(100_000, yes=900)),
        # There are too few rows for a significant change.
        (labels(20_000, yes=200), labels(100, yes=2)),
    ],
)
def test_negligible_and_uncertain_changes_do_not_count(before, now):
    found = drift(before, now)
    assert found.effect < 0.02
    assert not found.drifted


def test_a_rare_value_that_did_not_change_does_not_make_a_small_change_count():
    # The frequent values changed significantly, but negligibly. The rare value doubled by chance.
    before = labels(100_000, a=50_000, yes=500)
    now = labels(300, a=151, yes=3)
    assert drift(before, now).changed is None


@pytest.mark.parametrize("rate", [0.005, 0.02, 0.1])
def test_the_false_alarm_rate_is_as_stated(rate):
    random, windows = np.random.default_rng(1), 200
    alarms = 0
    for _ in range(windows):
        before, now = (random.binomial(rows, rate) for rows in (3_000, 1_000))
        alarms += drift(labels(3_000, yes=before), labels(1_000, yes=now)).drifted
    assert stats.binom.sf(alarms - 1, windows, 0.05) > 1e-4
