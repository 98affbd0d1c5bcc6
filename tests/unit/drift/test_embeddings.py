"""Embeddings: norms, projections and unusable rows."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.univariate import compare
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.columns.embeddings import DIRECTIONS, directions
from airflow_mlops.profiles.profile import Profile, merge, profile
from tests.support.columns import embeddings, fixed, window_rows


def of(values: pa.Array, rows: int = 10_000) -> Profile:
    return profile(pa.table({"x": values}).to_batches(max_chunksize=rows))


def only(reference: Profile | pa.Array, current: Profile | pa.Array, **policy) -> Drift:
    first, second = (item if isinstance(item, Profile) else of(item) for item in (reference, current))
    (found,) = compare(first, second, Policy(**{"min_rows": 1, **policy}))
    return found


@pytest.fixture(scope="module")
def reference() -> Profile:
    return of(embeddings(np.random.default_rng(0), 5_000))


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64(), 24), pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 24)],
)
def test_norms_and_projections_are_those_of_the_rows(kind):
    values = np.random.default_rng(0).normal(size=(400, 24)).astype(np.float16).astype(float)
    rows = [row.astype(np.float16) if "halffloat" in str(kind) else row for row in values]
    column = of(pa.array([*rows, None], kind), 150).columns["x"]
    assert (column.rows, column.missing, column.odd, column.valid, column.dimension) == (401, 1, 0, 400, 24)
    (part,) = column.parts
    expected = {"norm": np.linalg.norm(values, axis=1), **dict(enumerate((values @ directions(24)).T))}
    for measured, wanted in zip([part.norm, *part.along], expected.values(), strict=True):
        assert (measured.rows, measured.mean) == (400, pytest.approx(wanted.mean(), abs=1e-6))
        assert measured.std == pytest.approx(wanted.std(ddof=1), rel=1e-6)
        assert (measured.min, measured.max) == (
            pytest.approx(wanted.min(), rel=1e-6),
            pytest.approx(wanted.max(), rel=1e-6),
        )


def test_directions_are_reproducible_unit_vectors():
    found = directions(768)
    assert found.shape == (768, DIRECTIONS)
    assert np.linalg.norm(found, axis=0) == pytest.approx(np.ones(DIRECTIONS))
    assert abs(np.corrcoef(found.T) - np.eye(DIRECTIONS)).max() < 0.15
    assert directions(3)[:, 0] == pytest.approx(
        [0.9562630634548593, -0.023426718920303614, -0.29156841789287924], abs=1e-15
    )
    code = "from airflow_mlops.profiles.columns.embeddings import directions; print(directions(768).sum())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == found.sum()


ROWS = st.lists(
    st.one_of(
        st.none(),
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3),
        st.just([]),
        st.just([1.0]),
        st.just([float("nan"), 1.0, 2.0]),
        st.just([None, 1.0, 2.0]),
    ),
    max_size=60,
)


@given(ROWS, st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_every_row_is_counted_once_and_parts_merge_to_the_whole(rows, cut):
    array = pa.array(rows, pa.list_(pa.float64()))
    column = profile([pa.record_batch({"x": array})]).columns["x"]
    kinds = [
        None if row is None else len(row) if row and all(value is not None and value == value for value in row) else 0
        for row in rows
    ]
    assert (column.rows, column.missing, column.odd) == (len(rows), kinds.count(None), kinds.count(0))
    assert {part.dimension: part.norm.valid for part in column.parts} == {
        n: kinds.count(n) for n in (1, 3) if n in kinds
    }
    assert column.with_dimension(3).odd == kinds.count(0) + kinds.count(1)
    parts = [profile([pa.record_batch({"x": part})]) for part in (array[:cut], array[cut:])]
    for merged in (merge(parts).columns["x"], merge(parts[::-1]).columns["x"]):
        assert merged == column


def test_only_the_most_frequent_dimensions_are_kept():
    rows = [[1.0] * 8] * 100 + [[1.0] * length for length in range(1, 8)]
    column = of(pa.array(rows), 20).columns["x"]
    assert (column.dimension, column.valid, len(column.parts)) == (8, 100, 4)
    assert column.with_dimension(8).odd == 7


def test_the_same_distribution_has_not_drifted(reference):
    found = only(reference, embeddings(np.random.default_rng(1), 1_000))
    assert (found.kind, found.drifted, found.tests) == ("embedding", False, 1 + DIRECTIONS)
    assert {name for name in found.p_values if name.startswith("projection")} == {
        f"projection {n}" for n in range(1, 1 + DIRECTIONS)
    }


def test_the_changed_projections_are_found(reference):
    random = np.random.default_rng(2)
    longer = only(reference, fixed(1.3 * np.stack(embeddings(random, 1_000).to_numpy(zero_copy_only=False))))
    assert (longer.drifted, longer.test, longer.effect > 0.3) == (True, "norm", True)
    assert longer.ks == longer.effect
    moved = only(reference, embeddings(random, 1_000, shift=0.4))
    assert (moved.drifted, sum(value < 1e-3 for value in moved.p_values.values()) > 3) == (True, True)
    # A rotation about the origin leaves norms unchanged.
    turned = np.stack(embeddings(random, 1_000).to_numpy(zero_copy_only=False))[:, ::-1]
    found = only(reference, fixed(turned))
    assert (found.drifted, found.p_values["norm"] > 0.001) == (True, True)
    assert found.test.startswith("projection")
    assert {item.label.split(" ")[0] for item in found.bins} == {"norm", "projection"}
    assert any(item.label.startswith(f"{found.test} ") for item in found.bins)


def test_projections_are_compared_by_the_kolmogorov_smirnov_test():
    random = np.random.default_rng(3)
    first, second = (
        np.stack(embeddings(random, rows, shift=shift).to_numpy(zero_copy_only=False))
        for rows, shift in ((400, 0), (300, 0.2))
    )
    found = only(fixed(first), fixed(second))
    for number, direction in enumerate(directions(32).T, 1):
        expected = stats.ks_2samp((first @ direction).astype(np.float32), (second @ direction).astype(np.float32))
        assert found.p_values[f"projection {number}"] == pytest.approx(expected.pvalue, rel=1e-3)


def test_unusable_rows_count_as_missing_and_are_noted(reference):
    random = np.random.default_rng(4)
    good = embeddings(random, 400).to_pylist()
    mixed = pa.array(
        [*good, *[[1.0] * 16] * 60, [float("inf")] + [1.0] * 31, [], [None] + [1.0] * 31, None], pa.list_(pa.float32())
    )
    found = only(reference, mixed)
    assert "63 rows" in found.note
    assert "32 finite numbers" in found.note
    assert found.missing == pytest.approx(64 / 464)
    assert (found.drifted, found.test) == (True, "missing")
    other = only(reference, embeddings(random, 400, dimension=16))
    assert (other.drifted, other.test, other.effect) == (True, "missing", 1)
    assert "400 rows" in other.note
    assert "32 finite numbers" in other.note


@pytest.mark.parametrize("rows", [[], [[1.0, 2.0]], [None] * 80, [[]] * 80, [[0.0, 0.0]] * 80, [[3e38, 3e38]] * 80])
def test_any_window_gets_a_finding(rows):
    random = np.random.default_rng(5)
    current = profile([pa.record_batch({"x": pa.array(rows, pa.list_(pa.float64()))})])
    found = only(of(embeddings(random, 500, dimension=2)), current, min_rows=50)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    if len(rows) < 50:
        assert found.note.startswith(f"not measured: {counted(len(rows), 'row')}, 50 ")
    else:
        assert (found.drifted, 0 <= found.effect <= 1) == (True, True)
    assert only(profile([pa.record_batch({"x": pa.array([[]] * 80, pa.list_(pa.float64()))})]), current).effect in (
        None,
        0,
    )


def test_other_lists_cannot_be_profiled_and_kinds_do_not_mix():
    assert not of(pa.array([[1, 2]], pa.list_(pa.int64()))).columns
    with pytest.raises(SchemaError, match="'x' .*embeddings.* double"):
        profile([pa.record_batch({"x": pa.array([[1.0]])}), pa.record_batch({"x": [1.0]})])


def test_a_profile_survives_json_and_is_small(reference):
    text = reference.model_dump_json()
    assert Profile.model_validate_json(text) == reference
    assert len(text) < 250_000


def test_the_false_alarm_rate_holds():
    """80 windows, each tested on its own at 5%."""
    random = np.random.default_rng(6)
    alarms = 0
    for number in range(80):
        if number % 20 == 0:
            before = of(embeddings(random, 2_000, dimension=8))
        alarms += (
            only(before, embeddings(random, window_rows(random, 2_000), dimension=8), min_effect=0).p_value <= 0.05
        )
    assert stats.binom.sf(alarms - 1, 80, 0.05) > 1e-3
