"""New and vanished values are named only if they are significant."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.univariate import compare
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import Profile, profile


def of(values) -> Profile:
    return profile(pa.table({"carrier": pa.array(values, pa.string())}).to_batches())


def found(before, now) -> Drift:
    (drift,) = compare(of(before), of(now), Policy())
    return drift


def test_new_and_gone_values_are_named_with_their_shares():
    drift = found(["AA"] * 600 + ["B6"] * 400, ["AA"] * 90 + ["ZZ"] * 7 + [None] * 3)
    assert drift.new_values == [("ZZ", 0.07)]
    assert drift.gone_values == [("B6", 0.4)]
    assert drift.remark == "new: 'ZZ' 7.0%; disappeared: 'B6' 40.0%"
    assert drift.drifted


def test_without_new_or_gone_values_the_remark_is_empty():
    drift = found(["AA"] * 600 + ["B6"] * 400, ["AA"] * 60 + ["B6"] * 40)
    assert (drift.new_values, drift.gone_values, drift.remark) == ([], [], "")


@given(st.integers(50, 400), st.integers(1, 200))
def test_a_value_is_gone_only_if_chance_would_hardly_leave_it_out(rows, rare):
    drift = found(["AA"] * (1_000 - rare) + ["B6"] * rare, ["AA"] * rows)
    assert drift.gone_values == ([("B6", rare / 1_000)] if (1 - rare / 1_000) ** rows < 0.001 else [])


def test_the_most_frequent_values_are_named_and_long_ones_are_cut():
    strangers = [f"a very long name of a carrier {n}" for n in range(8) for _ in range(n + 1)]
    drift = found(["AA"] * 500, ["AA"] * 100 + strangers)
    assert [value[-1] for value, _ in drift.new_values] == list("76543")
    assert drift.remark.count("…") == 3
    assert len(drift.remark) < 120


@pytest.mark.parametrize("now", [[None] * 100, ["ZZ"] * 20], ids=["all missing", "too few rows"])
def test_an_unmeasured_column_names_no_values(now):
    drift = found(["AA"] * 500, now)
    assert (drift.new_values, drift.gone_values) == ([], [])


def test_no_value_is_new_if_the_reference_does_not_keep_all_values():
    drift = found([f"id {n}" for n in range(5_000)], [f"id {n}" for n in range(5_000, 5_100)])
    assert drift.new_values == []


def test_constant_and_infinite_numbers_are_noted():
    def measured(before, now) -> Drift:
        (drift,) = compare(*(profile(pa.table({"x": values}).to_batches()) for values in (before, now)), Policy())
        return drift

    normal = np.random.default_rng(0).normal(size=500)
    assert measured(normal, np.full(100, 0.5)).note.endswith("value 0.5")
    assert measured(np.full(500, 0.5), np.full(100, 0.5)).note is None
    odd = measured(normal, np.append(normal[:100], np.inf))
    assert odd.infinite == 1
    assert "1 row" in odd.note
    assert "infinite" in odd.note
    assert measured(np.append(normal, np.inf), np.append(normal[:100], [np.inf, -np.inf])).infinite == 0
