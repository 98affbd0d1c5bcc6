"""Drift: nothing where nothing moved, more where more moved, and a clear word where it cannot be measured."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.monitoring.drift import compare, jensen_shannon, psi
from airflow_mlops.monitoring.profiles import Profile, profile

RANDOM = np.random.default_rng(7)
COUNTS = st.lists(st.integers(0, 10_000), min_size=2, max_size=12).filter(any)


def of(**columns) -> Profile:
    return profile(pa.table(columns).to_batches())


def only(reference: Profile, current: Profile, min_rows: int = 1):
    (found,) = compare(reference, current, min_rows)
    return found


def shares(found) -> dict[str, float]:
    return {item.label: round(item.current, 3) for item in found.bins}


@given(COUNTS, st.randoms())
@settings(deadline=None)
def test_measures_are_nought_for_the_same_shares_symmetric_and_bounded(counts, random):
    other = list(counts)
    random.shuffle(other)
    a, b = np.asarray(counts, float), np.asarray(other, float)
    assert psi(a, a) == pytest.approx(0)
    assert jensen_shannon(a, a) == pytest.approx(0, abs=1e-7)
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, b) >= 0
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a))
    assert 0 <= jensen_shannon(a, b) <= 1


def test_jensen_shannon_is_one_where_nothing_is_in_common():
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 9.0])) == pytest.approx(1)


def test_the_same_distribution_shows_no_drift():
    found = compare(
        of(x=RANDOM.normal(size=50_000), s=RANDOM.choice(list("abc"), 50_000)),
        of(x=RANDOM.normal(size=20_000), s=RANDOM.choice(list("abc"), 20_000)),
        1,
    )
    assert all(drift.psi < 0.01 and drift.jensen_shannon < 0.03 for drift in found)
    (x,) = (drift for drift in found if drift.column == "x")
    assert x.ks < 0.03
    assert x.wasserstein < 0.04


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_wasserstein_is_the_shift_in_standard_deviations(shift):
    found = only(of(x=RANDOM.normal(10, 3, 40_000)), of(x=RANDOM.normal(10 + 3 * shift, 3, 40_000)))
    assert found.wasserstein == pytest.approx(shift, abs=0.05)
    # Two unit normals that far apart differ at most by this much in their distribution functions.
    assert found.ks == pytest.approx(math.erf(shift / 2 / math.sqrt(2)), abs=0.03)


def test_the_larger_drift_comes_first_and_is_larger_for_a_larger_shift():
    base = RANDOM.normal(size=(3, 20_000))
    found = compare(
        of(a=base[0], b=base[1], c=base[2]),
        of(a=base[0] + 0.3, b=base[1] + 1.5, c=base[2]),
        1,
    )
    assert [drift.column for drift in found] == ["b", "a", "c"]
    assert found[0].psi > 0.25 > found[1].psi > 0.02 > found[2].psi


def test_values_outside_the_training_range_have_bins_of_their_own():
    found = only(of(x=np.arange(1000.0)), of(x=np.concatenate([np.arange(1000.0), [-5.0] * 500, [2000.0] * 500])))
    assert shares(found)["below 0"] == shares(found)["above 999"] == 0.25


def test_a_constant_that_changes_is_seen():
    assert only(of(x=[5.0] * 500), of(x=[5.0] * 400)).psi < 0.01
    changed = only(of(x=[5.0] * 500), of(x=[6.0] * 400))
    assert changed.psi > 1
    assert changed.ks == 1
    assert changed.wasserstein is None


def test_a_flag_that_is_set_more_often_is_seen():
    found = only(of(x=[0] * 700 + [1] * 300), of(x=[0] * 300 + [1] * 700))
    assert shares(found) == {"0": 0.3, "0 to 1": 0.7}
    assert found.psi > 0.5


def test_missing_values_nan_and_infinities_count_as_one_bin():
    found = only(of(x=[1.0, 2.0] * 500), of(x=[1.0, 2.0, None, float("nan"), float("inf")] * 200))
    assert found.missing == pytest.approx(0.6)
    assert found.missing_reference == 0
    assert shares(found)["missing"] == 0.6
    assert found.note == "200 rows are infinite"
    assert found.psi > 0.5


@pytest.mark.parametrize("nothing", [pa.nulls(500), pa.nulls(500, pa.float64()), pa.nulls(500, pa.string())])
def test_a_column_without_any_value_has_drifted_and_says_so(nothing):
    for reference in (of(x=[1.0, 2.0] * 500), of(x=["a", "b"] * 500)):
        found = only(reference, of(x=nothing))
        assert found.note == "no row has a value"
        assert found.psi > 1


def test_a_value_training_never_saw_is_counted():
    found = only(of(s=["UA", "AA"] * 500), of(s=["UA", "AA", "AA", "9E"] * 100))
    assert found.unseen == pytest.approx(0.25)
    assert shares(found) == {"AA": 0.5, "UA": 0.25, "9E": 0.25}


def test_many_values_are_shown_as_the_common_ones_and_the_rest():
    values = [f"v{index:03}" for index in range(100)]
    found = only(of(s=values * 20), of(s=values * 20))
    assert len(found.bins) == 13
    assert found.bins[-1].label == "others"
    assert sum(item.current for item in found.bins) == pytest.approx(1)
    assert found.psi < 0.01


def test_what_cannot_be_measured_says_why():
    reference = of(x=np.arange(1000.0))
    assert only(reference, of(x=[1.0] * 10), min_rows=200).note == "not measured: 10 rows, 200 are needed"
    assert only(of(x=[1.0] * 10), reference, 200).note == "not measured: 10 rows at training, 200 are needed"
    assert "it was numeric at training and is categorical now" in only(reference, of(x=["a"] * 500)).note
    assert "no row had a value at training" in only(of(x=pa.nulls(500)), reference).note
    assert all(drift.psi is None for drift in compare(reference, of(x=["a"] * 500), 1))
