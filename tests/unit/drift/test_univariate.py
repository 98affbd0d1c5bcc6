"""Drift of single columns: none without a change, more for larger changes, and a note if it cannot be measured."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.counts import counted
from airflow_mlops.drift.divergence import jensen_shannon, psi
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.univariate import compare, decide, ranked
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import Profile, profile

RANDOM = np.random.default_rng(7)
COUNTS = st.lists(st.integers(0, 10_000), min_size=2, max_size=12).filter(any)


def of(**columns) -> Profile:
    return profile(pa.table(columns).to_batches())


ANY = Policy(min_rows=1)


def only(reference: Profile, current: Profile, min_rows: int = 1, **policy) -> Drift:
    (found,) = compare(reference, current, Policy(min_rows=min_rows, **policy))
    return found


def shares(found) -> dict[str, float]:
    return {item.label: round(item.current, 3) for item in found.bins}


@given(COUNTS, st.randoms())
@settings(deadline=None)
def test_divergences_are_zero_for_equal_shares_symmetric_and_bounded(counts, random):
    other = list(counts)
    random.shuffle(other)
    a, b = np.asarray(counts, float), np.asarray(other, float)
    assert psi(a, a) == pytest.approx(0)
    assert jensen_shannon(a, a) == pytest.approx(0, abs=1e-7)
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, b) >= 0
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a))
    assert 0 <= jensen_shannon(a, b) <= 1


def test_jensen_shannon_is_one_without_common_bins():
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 9.0])) == pytest.approx(1)


def test_drifted_columns_are_ranked_by_effect_times_importance():
    def of(column: str, effect: float | None, importance: float | None = None, drifted: bool = True) -> Drift:
        return Drift(column=column, kind="numeric", effect=effect, importance=importance, drifted=drifted)

    found = [
        of("small", 0.1, 0.9), of("idle", 0.5, 0.0), of("large", 0.4, 0.1), of("calm", 0.6, 1.0, drifted=False),
        of("unmeasured", None, 1.0, drifted=False), of("idler", 0.3, 0.0),
    ]  # fmt: skip
    assert [item.column for item in ranked(found)] == ["small", "large", "idle", "idler", "calm", "unmeasured"]
    # If the importance is unknown, the order is by effect alone.
    unknown = [item.model_copy(update={"importance": None}) for item in found]
    assert [item.column for item in ranked(unknown)] == ["idle", "large", "idler", "small", "calm", "unmeasured"]


def test_the_same_distribution_shows_no_drift():
    found = compare(
        of(x=RANDOM.normal(size=50_000), s=RANDOM.choice(list("abc"), 50_000)),
        of(x=RANDOM.normal(size=20_000), s=RANDOM.choice(list("abc"), 20_000)),
        ANY,
    )
    assert all(drift.psi < 0.01 and drift.jensen_shannon < 0.03 for drift in found)
    assert not any(drift.drifted for drift in found)
    (x,) = (drift for drift in found if drift.column == "x")
    assert x.ks < 0.03
    assert x.wasserstein < 0.04


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_wasserstein_is_the_shift_in_standard_deviations(shift):
    found = only(of(x=RANDOM.normal(10, 3, 40_000)), of(x=RANDOM.normal(10 + 3 * shift, 3, 40_000)))
    assert found.wasserstein == pytest.approx(shift, abs=0.05)
    # The largest distance between the distribution functions of two unit normals with this shift.
    assert found.ks == pytest.approx(math.erf(shift / 2 / math.sqrt(2)), abs=0.03)


def test_the_larger_drift_comes_first_and_is_larger_for_a_larger_shift():
    base = RANDOM.normal(size=(3, 20_000))
    found = compare(
        of(a=base[0], b=base[1], c=base[2]),
        of(a=base[0] + 0.3, b=base[1] + 1.5, c=base[2]),
        ANY,
    )
    assert [drift.column for drift in found] == ["b", "a", "c"]
    assert found[0].psi > 0.25 > found[1].psi > 0.02 > found[2].psi


def test_values_outside_the_training_range_have_bins_of_their_own():
    found = only(of(x=np.arange(1000.0)), of(x=np.concatenate([np.arange(1000.0), [-5.0] * 500, [2000.0] * 500])))
    assert shares(found)["below 0"] == shares(found)["above 999"] == 0.25


def test_a_changed_constant_is_found():
    assert only(of(x=[5.0] * 500), of(x=[5.0] * 400)).psi < 0.01
    changed = only(of(x=[5.0] * 500), of(x=[6.0] * 400))
    assert changed.psi > 1
    assert changed.ks == 1
    assert changed.wasserstein is None


def test_a_changed_share_of_a_flag_is_found():
    found = only(of(x=[0] * 700 + [1] * 300), of(x=[0] * 300 + [1] * 700))
    assert shares(found) == {"0": 0.3, "0 to 1": 0.7}
    assert found.psi > 0.5


def test_missing_values_nan_and_infinities_count_as_one_bin():
    found = only(of(x=[1.0, 2.0] * 500), of(x=[1.0, 2.0, None, float("nan"), float("inf")] * 200))
    assert found.missing == pytest.approx(0.6)
    assert found.missing_reference == 0
    assert shares(found)["missing"] == 0.6
    assert "200 rows" in found.note
    assert "infinite" in found.note
    assert found.psi > 0.5


@pytest.mark.parametrize("nothing", [pa.nulls(500), pa.nulls(500, pa.float64()), pa.nulls(500, pa.string())])
def test_a_column_without_any_value_has_drifted_with_a_note(nothing):
    for reference in (of(x=[1.0, 2.0] * 500), of(x=["a", "b"] * 500)):
        found = only(reference, of(x=nothing))
        assert found.note == "no row has a value"
        assert found.psi > 1
        assert (found.drifted, found.test, found.effect) == (True, "missing", 1)


def test_values_unseen_at_training_are_counted():
    found = only(of(s=["UA", "AA"] * 500), of(s=["UA", "AA", "AA", "9E"] * 100))
    assert found.unseen == pytest.approx(0.25)
    assert found.p_values["unseen"] < 0.001
    assert shares(found) == {"AA": 0.5, "UA": 0.25, "9E": 0.25}


def test_new_values_and_changed_shares_are_found_if_not_all_values_are_kept():
    def drawn(first: int, often: int) -> Profile:
        return of(s=[*RANDOM.integers(first, first + 8_000, 30_000).astype(str), *["often"] * often])

    reference = drawn(0, 3_000)
    same, moved, more = (
        only(reference, drawn(0, 3_000)),
        only(reference, drawn(2_000, 3_000)),
        only(reference, drawn(0, 6_000)),
    )
    assert not same.drifted
    assert same.unseen < 0.03
    assert moved.drifted
    assert moved.p_values["unseen"] < 1e-3
    assert moved.unseen == pytest.approx(0.25 * 30 / 33, abs=0.05)
    assert (more.drifted, more.test) == (True, "chi_square")
    # The frequent value has 6 of 36 rows instead of 3 of 33.
    assert more.total_variation == pytest.approx(6 / 36 - 3 / 33, abs=0.02)
    assert shares(more)["often"] == pytest.approx(6 / 36, abs=0.005)
    few = only(of(s=["often"] * 900 + ["a"] * 100), reference)
    assert few.drifted
    assert few.unseen == pytest.approx(30 / 33, abs=0.06)


def test_bars_show_common_values_and_the_rest():
    values = [f"v{index:03}" for index in range(100)]
    found = only(of(s=values * 20), of(s=values * 20))
    assert len(found.bins) == 13
    assert found.bins[-1].label == "others"
    assert sum(item.current for item in found.bins) == pytest.approx(1)
    assert found.psi < 0.01


def test_unmeasured_columns_have_a_reason():
    reference = of(x=np.arange(1000.0))
    assert only(reference, of(x=[1.0] * 10), min_rows=200).note.startswith("not measured: 10 rows, 200 ")
    assert only(of(x=[1.0] * 10), reference, 200).note.startswith("not measured: 10 rows at training, 200 ")
    assert "it was numeric at training and is categorical now" in only(reference, of(x=["a"] * 500)).note
    assert "no row had a value at training" in only(of(x=pa.nulls(500)), reference).note
    assert all(drift.psi is None and not drift.drifted for drift in compare(reference, of(x=["a"] * 500), ANY))


SIZES = [(300, 200), (5_000, 60)]


@pytest.mark.parametrize(("rows", "window"), SIZES)
def test_measures_equal_scipys_if_every_value_is_kept(rows, window):
    from scipy import spatial, stats

    random = np.random.default_rng(rows)
    first, second = random.normal(size=min(rows, 4_000)), random.normal(0.2, 1.1, size=window)
    found = only(of(x=first), of(x=second))
    apart = stats.ks_2samp(first, second, method="exact" if rows <= 512 else "asymp")
    assert found.ks == pytest.approx(apart.statistic, abs=1e-9)
    assert found.p_values["ks"] == pytest.approx(apart.pvalue, abs=1e-9)
    moved = stats.wasserstein_distance(first, second) / first.std(ddof=1)
    assert found.wasserstein == pytest.approx(moved, abs=1e-9)

    old, new = (random.choice(list("abcd"), size, p=[0.4, 0.3, 0.2, 0.1]) for size in (rows, window * 20))
    found = only(of(x=old), of(x=new))
    table = np.asarray([[(values == letter).sum() for letter in "abcd"] for values in (old, new)], dtype=float)
    expected = stats.contingency.expected_freq(table)
    if expected.min() >= 50:
        assert found.p_values["chi_square"] == pytest.approx(
            stats.chi2_contingency(table, correction=False).pvalue, abs=1e-9
        )
    else:
        assert found.p_values["chi_square"] == pytest.approx(
            stats.chi2_contingency(table, correction=False).pvalue, abs=0.15
        )
    p, q = table[0] / rows, table[1] / window / 20
    assert found.total_variation == pytest.approx(np.abs(p - q).sum() / 2, abs=1e-9)
    assert found.jensen_shannon == pytest.approx(spatial.distance.jensenshannon(p, q, 2), abs=1e-9)
    smooth = [(row + 0.5) / (row + 0.5).sum() for row in np.hstack([table, np.zeros((2, 2))])]
    assert found.psi == pytest.approx(stats.entropy(*smooth) + stats.entropy(*smooth[::-1]), abs=1e-9)


def test_measures_of_many_rows_are_within_the_error_of_the_bins():
    from scipy import stats

    random = np.random.default_rng(8)
    first, second = random.normal(size=60_000), random.normal(0.05, 1, 40_000)
    found = only(of(x=first), of(x=second))
    bins = of(x=[*first, *second]).columns["x"].distribution()
    largest = max(np.histogram(part, [*bins.lows, np.inf])[0].max() / len(part) for part in (first, second))
    true = stats.ks_2samp(first, second).statistic
    assert true - largest <= found.ks <= true
    assert found.ks == pytest.approx(true, rel=0.01)
    # Replacing values by the middle of their bin moves them by at most half of its width.
    moved = sum(
        (np.histogram(part, [*bins.lows, np.inf])[0] / len(part)) @ (bins.highs - bins.lows) / 2
        for part in (first, second)
    )
    assert 0 < moved < 0.01
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(first, second) / first.std(ddof=1), abs=moved)


def test_a_thousand_distinct_values_are_kept_apart():
    from scipy import stats

    random = np.random.default_rng(9)
    first, second = random.lognormal(5, 1, 40_000).round(), random.lognormal(5.02, 1, 30_000).round()
    found = only(of(x=first), of(x=second))
    apart = stats.ks_2samp(first, second, method="asymp")
    assert found.ks == pytest.approx(apart.statistic, abs=1e-9)
    assert found.p_values["ks"] == pytest.approx(apart.pvalue, rel=0.05)
    moved = stats.wasserstein_distance(first, second) / first.std(ddof=1)
    assert found.wasserstein == pytest.approx(moved, abs=1e-9)


def test_small_numbers_do_not_hide_a_shift_of_large_ones():
    def drawn(shift: float) -> np.ndarray:
        small = RANDOM.random(20_000) < 0.2
        return np.where(small, RANDOM.normal(size=20_000), RANDOM.normal(1_000 + shift, 1, 20_000))

    found = only(of(x=drawn(0)), of(x=drawn(0.2)), min_rows=50)
    assert found.drifted
    # Eight rows in ten are shifted by 0.2 standard deviations.
    assert found.ks == pytest.approx(0.8 * math.erf(0.1 / math.sqrt(2)), abs=0.02)
    assert not only(of(x=drawn(0)), of(x=drawn(0)), min_rows=50).drifted


def test_cucconis_test_finds_a_change_of_spread():
    found = only(of(x=RANDOM.normal(size=5_000)), of(x=RANDOM.normal(0, 1.25, 1_000)))
    assert (found.drifted, found.test) == (True, "cucconi")
    assert found.p_values["cucconi"] < found.p_values["ks"] / 10


def test_a_significant_but_small_change_is_not_drift():
    first, second = (
        of(x=[0] * 80_000 + [1] * 20_000, s=["a"] * 100_000),
        of(x=[0] * 78_500 + [1] * 21_500, s=["a"] * 99_900 + ["b"] * 100),
    )
    found = {drift.column: drift for drift in compare(first, second, Policy())}
    for drift in found.values():
        assert drift.p_value < 1e-3
        assert drift.effect < 0.02
        assert (drift.adjusted_p_value, drift.drifted) == (1, False)
    assert all(drift.drifted for drift in compare(first, second, Policy(min_effect=0.0005)))


def test_a_significant_small_change_does_not_hide_a_large_one():
    missing = [None] * 300
    reference, current = of(x=list(range(30_000))), of(x=[*missing, *range(1_000, 30_700)])
    found = only(reference, current)
    assert found.p_values["missing"] < min(found.p_values["ks"], found.p_values["cucconi"])
    assert found.p_value == 3 * found.p_values[found.test]
    assert found.drifted
    assert found.test in ("ks", "cucconi")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.5))
@settings(deadline=None)
def test_decisions_follow_benjamini_and_hochberg(values, rate):
    drifts = [Drift(column="x", kind="numeric", effect=0.5, p_value=value, tests=1) for value in values]
    small = Drift(column="s", kind="numeric", effect=0.01, p_value=0.0, tests=1)
    unmeasured = Drift(column="n", kind="numeric", note="not measured")
    judged = decide([*drifts, small, unmeasured], Policy(false_alarm_rate=rate))
    assert [drift.column for drift in judged[-2:]] == ["s", "n"]
    assert not any(drift.drifted for drift in judged[-2:])
    ordered, count = sorted(values), len(values) + 1
    reached = max((rank for rank, value in enumerate(ordered, 1) if value <= rate * rank / count), default=0)
    # At the threshold, the result depends on rounding.
    assert abs(sum(drift.drifted for drift in judged) - reached) <= sum(
        math.isclose(value, rate * rank / count) for rank, value in enumerate(ordered, 1)
    )
    assert all(drift.adjusted_p_value >= drift.p_value for drift in judged[:-2])


ODD = st.lists(
    st.one_of(st.none(), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e308, -1e308]), st.floats(-9, 9)),
    max_size=60,
)


@given(ODD, ODD, st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_window_gets_a_finding(before, now, text):
    def one(values) -> Profile:
        if text:
            return profile(
                [pa.record_batch({"x": pa.array([None if v is None else str(v) for v in values], pa.string())})]
            )
        return profile([pa.record_batch({"x": pa.array(values, pa.float64())})])

    found = only(one(before), one(now))
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    if found.p_value is None:
        assert found.note.startswith("not measured: ")
        assert found.adjusted_p_value is None
    else:
        assert 0 <= found.p_value <= found.adjusted_p_value <= 1
        assert 0 <= found.effect <= 1
        assert all(0 <= value <= 1 for value in found.p_values.values())
    if sorted(map(str, before)) == sorted(map(str, now)):
        assert not found.drifted


@pytest.mark.parametrize("values", [[], [1.0], ["a"], [None], [math.inf] * 80, [None] * 80, ["a"] * 80, [2.0] * 80])
def test_windows_with_few_values(values):
    kind = pa.string() if isinstance(next(iter(values), None), str) else pa.float64()
    current = profile([pa.record_batch({"x": pa.array(values, kind)})])
    for reference in (of(x=RANDOM.normal(size=400)), of(x=["a", "b"] * 200)):
        found = only(reference, current, min_rows=50)
        if len(values) < 50:
            assert found.note.startswith(f"not measured: {counted(len(values), 'row')}, 50 ")
        elif found.kind != current.columns["x"].kind and current.columns["x"].valid:
            assert "not measured: it was" in found.note
        else:
            assert found.drifted


def test_the_false_alarm_rate_holds_for_shapes_that_break_approximations():
    """350 unchanged columns, each tested on its own: rare flags, many zeros, heavy tails, rare values, more values than are kept."""
    random = np.random.default_rng(3)

    def column(rows: int, kind: int):
        return (
            lambda: (random.random(rows) < 0.01).astype(float),
            lambda: np.where(random.random(rows) < 0.95, 0, random.lognormal(size=rows)),
            lambda: random.lognormal(0, 3, rows),
            lambda: np.minimum(random.zipf(1.5, rows), 400).astype(str),
            lambda: random.integers(0, 300, rows).astype(str),
            lambda: random.zipf(1.1, rows * 10).astype(str),
            lambda: random.integers(0, 400_000, rows * 10).astype(str),
        )[kind]()

    found = [
        only(of(x=column(rows, kind)), of(x=column(window, kind)))
        for kind in range(7)
        for rows, window in ((600, 60), (300, 900)) * 25
    ]
    assert sum(drift.p_value <= 0.05 for drift in found) <= 350 * 0.05 + 3 * math.sqrt(350 * 0.05 * 0.95)


def test_years_have_no_comma_and_larger_whole_numbers_do():
    years = of(x=list(range(1990, 2020)))
    assert any(label.startswith("1990 to ") for label in shares(only(years, years)))
    assert not any("," in label for label in shares(only(years, years)))
    large = of(x=list(range(20_000, 20_030)))
    assert any(label.startswith("20,000 to ") for label in shares(only(large, large)))
