"""p-values: equal to SciPy's if both are exact, uniform without a change, and reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from airflow_mlops.profiles import significance
from airflow_mlops.profiles.significance import Pair


def pooled(*samples) -> tuple[np.ndarray, Pair]:
    """The distinct values of two samples, and the rows of each sample at each value."""
    points, where = np.unique(np.concatenate(samples), return_inverse=True)
    rows = (np.bincount(part, minlength=len(points)) for part in np.split(where, [len(samples[0])]))
    return points, Pair(*(counts.astype(float) for counts in rows))


def of(first, second) -> Pair:
    return pooled(first, second)[1]


def counted(before, now) -> Pair:
    return Pair(np.asarray(before, float), np.asarray(now, float))


@pytest.mark.parametrize("rows", [(12, 9), (100, 60), (500, 512), (513, 60), (3_000, 3_100)])
def test_kolmogorov_smirnov_equals_scipys(rows):
    random = np.random.default_rng(0)
    first, second = random.normal(size=rows[0]).round(1), random.normal(0.3, 1, rows[1]).round(1)
    expected = stats.ks_2samp(first, second, method="exact" if max(rows) <= 512 else "asymp")
    assert significance.kolmogorov_smirnov(of(first, second)) == pytest.approx(
        (expected.statistic, expected.pvalue), abs=1e-9
    )


def test_many_rows_use_the_limit_of_kolmogorovs_distribution():
    random = np.random.default_rng(1)
    first, second = random.normal(size=9_000), random.normal(0.04, 1, 9_000)
    expected = stats.ks_2samp(first, second, method="asymp")
    found = significance.kolmogorov_smirnov(of(first, second))
    assert found[0] == pytest.approx(expected.statistic, abs=1e-9)
    assert expected.pvalue < found[1] < 1.1 * expected.pvalue


def test_cucconis_statistic_is_correct_and_symmetric():
    random = np.random.default_rng(2)
    first, second = random.normal(size=80), random.normal(0.2, 1.3, 120)
    n, m = 120, 80  # In Marozzi's notation, the ranks of the second sample are summed.
    total = n + m
    ranks = stats.rankdata(np.concatenate([second, first]))[:n]
    squares, contrary = np.square(ranks).sum(), np.square(total + 1 - ranks).sum()
    middle = n * (total + 1) * (2 * total + 1)
    spread = np.sqrt(n * m * (total + 1) * (2 * total + 1) * (8 * total + 11) / 5)
    u, v = (6 * squares - middle) / spread, (6 * contrary - middle) / spread
    rho = 2 * (total**2 - 4) / ((2 * total + 1) * (8 * total + 11)) - 1
    statistic = (u * u + v * v - 2 * rho * u * v) / (2 * (1 - rho * rho))
    found = significance.cucconi(of(first, second))
    assert found == pytest.approx(np.exp(-statistic), rel=1e-6)
    assert significance.cucconi(of(second, first)) == pytest.approx(found, rel=1e-9)


def test_cucconis_test_of_two_values_is_the_chi_square_test():
    pair = counted([600, 400], [90, 110])
    chi = stats.chi2_contingency(np.stack(pair), correction=False)
    # The permutation variance divides by n - 1.
    assert significance.cucconi(pair) == pytest.approx(stats.chi2.sf(chi.statistic * 1199 / 1200, 1), rel=1e-9)
    assert significance.cucconi(counted([600, 0], [90, 0])) == 1


def test_cucconis_test_is_simulated_if_few_rows_dominate():
    pair = counted([9_990, 10], [48, 2])
    assert significance.cucconi(pair) == pytest.approx(stats.fisher_exact(np.stack(pair).astype(int)).pvalue, rel=0.6)


def test_chi_square_equals_scipys_after_merging_rare_values():
    before, now = [900, 600, 300, 3, 2, 1], [280, 240, 80, 2, 0, 1]
    merged = np.array([[900, 600, 306], [280, 240, 83]], dtype=float)
    assert significance.chi_square(counted(before, now)) == pytest.approx(
        stats.chi2_contingency(merged, correction=False).pvalue, abs=1e-9
    )


def test_chi_square_is_simulated_with_few_expected_rows():
    before, now = counted([40, 40, 20], [6, 12, 2])
    table = np.stack([before, now]).astype(int)
    exact = stats.chi2_contingency(
        table, correction=False, method=stats.PermutationMethod(n_resamples=20_000, rng=np.random.default_rng(0))
    )
    assert significance.chi_square(counted(before, now)) == pytest.approx(exact.pvalue, rel=0.5)
    assert significance.chi_square(counted([500, 500, 500], [0, 0, 40])) < 1e-4


def test_fisher_equals_scipys():
    assert significance.fisher(counted([990, 10], [40, 8])) == pytest.approx(
        stats.fisher_exact([[990, 10], [40, 8]]).pvalue, abs=1e-12
    )


def test_unseen_values_are_significant_only_beyond_the_expected_number():
    # A single frequent value is new.
    assert significance.unseen_values(counted([500, 500, 0], [20, 20, 10])) < 1e-4
    assert significance.unseen_values(counted([500, 500], [25, 25])) == 1
    # Some values with only one or two rows are always new.
    random = np.random.default_rng(3)
    pools = [random.integers(0, 400, size) for size in (500, 300)]
    assert significance.unseen_values(Pair(*(np.bincount(rows, minlength=400).astype(float) for rows in pools))) > 0.01


@pytest.mark.parametrize("rows", [(4_000, 50), (300, 200), (700, 2_500)])
def test_p_values_are_uniform_or_larger_without_a_change(rows):
    random = np.random.default_rng(rows[0])
    found: dict[str, list[float]] = {name: [] for name in ("ks", "cucconi", "wasserstein", "chi_square", "new")}
    for _ in range(250):
        points, pair = pooled(*(random.gamma(2, size=size) for size in rows))
        found["ks"].append(significance.kolmogorov_smirnov(pair)[1])
        found["cucconi"].append(significance.cucconi(pair))
        found["wasserstein"].append(significance.wasserstein(points, pair)[1])
        values = Pair(*(random.multinomial(size, np.arange(1, 41) / 820).astype(float) for size in rows))
        found["chi_square"].append(significance.chi_square(values))
        found["new"].append(significance.unseen_values(values))
    for name, p_values in found.items():
        for level in (0.05, 0.2):
            share = np.mean(np.asarray(p_values) <= level)
            assert share <= level + 3.5 * np.sqrt(level * (1 - level) / 250), (name, level)
    assert np.mean(found["cucconi"]) == pytest.approx(0.5, abs=0.08)
    assert np.mean(found["chi_square"]) == pytest.approx(0.5, abs=0.08)


def test_p_values_are_reproducible():
    pair = counted([40, 40, 20], [6, 12, 2])
    assert significance.chi_square(pair) == significance.chi_square(pair)
    assert significance.measures(pair, [lambda a, b: b[..., 0]]) == significance.measures(
        pair, [lambda a, b: b[..., 0]]
    )
