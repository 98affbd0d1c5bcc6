"""Drift tests of clustered rows: a customer's twenty orders are not twenty observations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from airflow_mlops.data import sorting
from airflow_mlops.drift import clusters as drift_clusters
from airflow_mlops.drift.clusters import equal_rows
from airflow_mlops.drift.thresholds import DriftThresholds
from airflow_mlops.drift.univariate import decide, measure
from airflow_mlops.metrics import clusters
from airflow_mlops.metrics.clusters import design
from airflow_mlops.profiles.profile import profile

SIZE = 20


def design_effect(values: pa.ChunkedArray, groups: np.ndarray, reference, batch: int = 500) -> float:
    """The design effect of a column that is read in batches."""
    starts = range(0, len(groups), batch)

    def rows():
        return ((values.slice(at, batch).combine_chunks(), groups[at : at + batch]) for at in starts)

    return drift_clusters.design_effect(rows, np.bincount(groups), reference)


def world(random: np.random.Generator, clusters: int, alike: float = 0.97, shift: float = 0.0) -> pa.Table:
    """Customers with 20 orders each. ``alike`` is the share of the variance that lies between customers."""
    rows = clusters * SIZE
    groups = np.repeat(np.arange(clusters), SIZE)

    def numbers() -> np.ndarray:
        own = random.normal(size=clusters)[groups]
        return shift + np.sqrt(alike) * own + np.sqrt(1 - alike) * random.normal(size=rows)

    gaps = numbers() < -1.5
    return pa.table(
        {
            "amount": numbers(),
            "count": np.floor(np.exp(numbers())),
            "gaps": pa.array(numbers(), mask=gaps),
            "city": np.array(["a", "b", "c", "d", "e"])[np.digitize(numbers(), [-1, -0.3, 0.3, 1])],
            "flag": numbers() > 1,
            "at": pa.array((np.datetime64("2024-01-01", "us") + (1e5 * numbers()).astype("m8[s]")), pa.timestamp("us", "UTC")),
            "customer": groups,
        }
    )  # fmt: skip


def alarms(then: pa.Table, now: pa.Table, by_cluster: bool) -> list[str]:
    """The columns that drifted."""
    names = [name for name in now.column_names if name != "customer"]
    before, after = (profile(table.to_batches(), names) for table in (then, now))
    groups = now["customer"].to_numpy()
    designs = {name: design_effect(now[name], groups, before.columns[name]) for name in names}
    thresholds = DriftThresholds()
    found = measure(before, after, thresholds, designs=designs if by_cluster else None)
    return [drift.column for drift in decide(found, thresholds) if drift.drifted]


@pytest.mark.parametrize(("clusters", "alike"), [(30, 0.97), (100, 0.3)])
def test_unchanged_windows_of_clusters_raise_at_most_the_stated_share_of_alarms(clusters, alike):
    def often(by_cluster: bool, windows: int) -> int:
        random = np.random.default_rng(0)
        return sum(
            bool(alarms(world(random, 3 * clusters, alike), world(random, clusters, alike), by_cluster))
            for _ in range(windows)
        )

    # With a true rate of 5%, this many alarms occur by chance in one of a thousand runs.
    assert stats.binom.sf(often(True, 25) - 1, 25, 0.05) > 1e-3
    assert often(False, 6) >= 4


def test_a_change_is_found_among_clusters():
    random = np.random.default_rng(1)
    found = [alarms(world(random, 200), world(random, 100, shift=1.0), True) for _ in range(5)]
    assert all({"amount", "city"} <= {*columns} for columns in found)


def test_rows_that_are_not_alike_keep_the_power_of_independent_rows():
    random = np.random.default_rng(2)
    then, now = world(random, 200, alike=0.0), world(random, 100, alike=0.0)
    before = profile(then.to_batches())
    groups = now["customer"].to_numpy()
    for name in ("amount", "city", "flag"):
        assert design_effect(now[name], groups, before.columns[name]) < 1.8
    assert "amount" in alarms(then, world(random, 100, alike=0.0, shift=0.3), True)


def test_equal_rows_count_once_and_other_kinds_count_as_equal():
    groups = np.repeat(np.arange(40), SIZE)
    numbers = pa.chunked_array([np.random.default_rng(0).normal(size=40)[groups]])
    reference = profile([pa.record_batch({"x": numbers.combine_chunks()})]).columns["x"]
    # 40 / 39 is the correction of the jackknife.
    assert design_effect(numbers, groups, reference) == pytest.approx(SIZE * 40 / 39, rel=1e-6)
    assert equal_rows(np.bincount(groups)) == SIZE
    assert equal_rows(np.array([30, 10])) == 25


def test_a_single_cluster_is_a_single_row():
    then, now = world(np.random.default_rng(3), 100), world(np.random.default_rng(4), 100, shift=3)
    one = now.set_column(now.column_names.index("customer"), "customer", [[0] * now.num_rows])
    assert alarms(then, now, True)
    assert alarms(then, one, True) == []


@pytest.mark.parametrize("most", [1_000_000, 30])
def test_batches_have_the_design_effects_of_all_rows(monkeypatch, most):
    """By the definition: the largest design effect of the ranks, deciles, frequent values and missing values."""
    # With sums of 30 clusters at once, each property is measured alone.
    monkeypatch.setattr(clusters, "_SUMS", most)
    monkeypatch.setattr(drift_clusters, "_COUNTED", 1_500)
    monkeypatch.setattr(sorting, "_ROWS_IN_MEMORY", 0 if most == 30 else 65_536)
    random = np.random.default_rng(5)
    groups = random.integers(0, 30, 4_000)
    own = random.normal(size=30)[groups] + random.normal(size=4_000)
    # Ties, nulls, and numbers that are not finite.
    numbers = np.where(random.random(4_000) < 0.05, np.inf, np.round(own, 1))
    numbers = pa.chunked_array([pa.array(numbers, mask=own > 2.5)])
    rare = [f"v{number}" for number in range(4_000)]
    texts = pa.chunked_array([np.where(own > 0.5, np.where(own > 1, "b", "a"), rare).astype(str)])

    def largest(properties) -> float:
        return max(design(np.asarray(one, float), groups).effect for one in properties)

    known = np.sort(numbers.drop_null().to_numpy()[np.isfinite(numbers.drop_null().to_numpy())])
    values = numbers.to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    ranks = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / 2 / len(known) - 0.5
    ranks = np.where(finite, ranks, 0.0)
    cuts = [known[int(share * (len(known) - 1))] for share in np.linspace(0, 1, 11)[1:-1]]
    expected = largest([np.isnan(values), ranks, ranks**2, *(finite & (values > cut) for cut in cuts)])
    reference = profile([pa.record_batch({"x": pa.array([1.0, 2.0]), "y": ["a", "b"]})]).columns
    assert design_effect(numbers, groups, reference["x"]) == pytest.approx(expected, rel=1e-9)
    expected = largest([np.array(texts.to_pylist()) == value for value in ("a", "b")])
    assert design_effect(texts, groups, reference["y"]) == pytest.approx(expected, rel=1e-9)
