"""Profiles: made in one pass, correct, and mergeable."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.profiles.columns.hashing import SAMPLE
from airflow_mlops.profiles.columns.histogram import CAPACITY
from airflow_mlops.profiles.profile import Profile, merge, profile

NUMBERS = st.lists(st.one_of(st.none(), st.floats(width=32), st.integers(-5, 5).map(float)), max_size=200)


def of(rows: int = 10_000, **columns) -> Profile:
    return profile(pa.table(columns).to_batches(max_chunksize=rows))


@given(NUMBERS)
@settings(max_examples=60, deadline=None)
def test_every_row_is_counted_once_as_value_missing_nan_or_infinite(values):
    column = of(7, x=pa.array(values, pa.float64())).columns["x"] if values else None
    if column is None:
        return
    present = [value for value in values if value is not None]
    finite = [value for value in present if math.isfinite(value)]
    assert (column.rows, column.missing) == (len(values), len(values) - len(present))
    assert column.nan == sum(map(math.isnan, present))
    assert column.infinite == sum(map(math.isinf, present))
    assert sum(column.counts) == column.valid == len(finite)
    if finite:
        assert (column.min, column.max) == (min(finite), max(finite))


SHAPES = {
    "normal": lambda random, rows: random.normal(size=rows),
    "far from nought": lambda random, rows: random.normal(1e6, 0.1, rows),
    "two sizes": lambda random, rows: np.where(random.random(rows) < 0.1, random.normal(size=rows), 1e3 + random.random(rows)),
    "whole": lambda random, rows: random.integers(-3_000, 3_000, rows).astype(float),
    "cents": lambda random, rows: random.lognormal(3, 2, rows).round(2),
    "many noughts": lambda random, rows: np.where(random.random(rows) < 0.7, -0.0, random.exponential(size=rows)),
    # Infinities, NaN and numbers of every magnitude.
    "any bits": lambda random, rows: random.integers(-(2**63), 2**63 - 1, rows).view(np.float64),
}  # fmt: skip


@given(st.integers(0, 2**32), st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=3), st.data())
@settings(max_examples=30, deadline=None)
def test_order_batches_and_merging_do_not_change_a_byte(seed, shapes, data):
    random = np.random.default_rng(seed)
    values = np.concatenate([SHAPES[shape](random, random.integers(1, 9_000)) for shape in shapes])
    expected = of(data.draw(st.integers(500, 100_000)), x=values).model_dump_json()
    merged = merged_at_random(values, random, data, "x")
    assert merged.model_dump_json() == expected


def merged_at_random(values, random, data, name: str) -> Profile:
    """The profile of ``values`` from parts of any size, in any order, merged in any tree."""
    if data.draw(st.booleans()):
        random.shuffle(values)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    parts = [of(data.draw(st.integers(500, 9_000)), **{name: part}) for part in np.split(values, cuts) if len(part)]
    while len(parts) > 1:
        taken = [parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in range(2)]
        parts.append(merge(Profile.model_validate_json(part.model_dump_json()) for part in taken))
    return parts[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_bins_are_the_narrowest_within_their_binades_share(shape):
    values = SHAPES[shape](np.random.default_rng(0), 30_000)
    values = values[np.isfinite(values)] + 0.0
    column = of(x=values).columns["x"].distribution()
    bits = values.view(np.int64)
    every, rows = np.unique(np.where(bits < 0, -(bits & (2**63 - 1)) - 1, bits), return_counts=True)
    binades = {binade: every[every >> 52 == binade] for binade in set((every >> 52).tolist())}
    share, sizes = CAPACITY, np.asarray([len(keys) for keys in binades.values()])
    while np.minimum(sizes, share).sum() > CAPACITY:
        share -= 1
    expected: dict[int, int] = {}
    for binade, keys in binades.items():
        shift = next(shift for shift in range(53) if len(np.unique(keys >> shift)) <= share)
        for key, count in zip((keys >> shift << shift).tolist(), rows[every >> 52 == binade].tolist(), strict=True):
            expected[key] = expected.get(key, 0) + count
    assert dict(zip(column.keys.tolist(), column.counts.tolist(), strict=True)) == expected
    assert len(expected) <= CAPACITY


def exactly(text: str) -> Fraction:
    digits, exponent = text.split("p")
    return int(digits, 16) * Fraction(2) ** int(exponent)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
@example([1.7e308, 5e-324, 0.0])
@example([1.0, 3e-308, -1e17])
@settings(max_examples=200, deadline=None)
def test_mean_and_standard_deviation_are_exact(values):
    column = of(7, x=values).columns["x"]
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    assert column.mean == float(mean)
    assert (exactly(column.total), exactly(column.squares)) == (sum(exact), sum(value * value for value in exact))
    if len(values) == 1:
        assert column.std is None
        return
    variance = sum((value - mean) ** 2 for value in exact) / (len(exact) - 1)
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -9_999, 9_999
        std = float((Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt())
    assert column.std == (pytest.approx(std, rel=3e-16, abs=5e-324) if math.isfinite(std) else None)


def test_sums_are_exact_where_floating_point_sums_fail():
    rows = 40_000
    column = of(x=[1e17, *[1.0] * rows, -1e17, 2.0**-1074, 1.7e308, -1.7e308]).columns["x"]
    assert Fraction(column.mean) == Fraction(float(Fraction(rows + Fraction(2) ** -1074) / (rows + 5)))
    whole = 2**53 - np.random.default_rng(4).integers(1, 2**40, 5 * rows)
    column = of(len(whole), x=whole * 2.0**-53).columns["x"]
    assert exactly(column.squares) == Fraction(sum(value * value for value in whole.tolist()), 2**106)
    far = of(x=np.float64(2**40) + np.arange(rows) % 2).columns["x"]
    assert far.std == pytest.approx(math.sqrt(0.25 * rows / (rows - 1)), rel=1e-15)


def test_few_distinct_values_are_profiled_exactly():
    random = np.random.default_rng(1)
    values = random.choice(random.normal(1e3, 30, CAPACITY), 60_000)
    column = of(x=values).columns["x"]
    ordered, ranks = np.sort(values), np.linspace(0, 1, 1_000)
    assert column.quantiles(ranks).tolist() == np.quantile(values, ranks, method="inverted_cdf").tolist()
    points = np.concatenate([ordered[::97], random.normal(1e3, 30, 500)])
    assert column.cdf(points) == pytest.approx(np.searchsorted(ordered, points, side="right") / len(values), abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_with_many_values_ranks_are_off_by_less_than_one_bin(shape):
    values = SHAPES[shape](np.random.default_rng(2), 100_000)
    values = values[np.isfinite(values)]
    column = of(x=values).columns["x"]
    bins, ordered = column.distribution(), np.sort(values)
    share = bins.counts.max() / len(values)
    points = np.concatenate([ordered[::511], np.nextafter(ordered[::509], np.inf), [ordered[0] - 1, ordered[-1]]])
    true = np.searchsorted(ordered, points, side="right") / len(values)
    assert np.abs(column.cdf(points) - true).max() <= share
    ends = np.searchsorted(ordered, bins.highs, side="right") / len(values)
    assert column.cdf(bins.highs) == pytest.approx(ends, abs=1e-12)
    ranks = np.linspace(0, 1, 501)
    found = column.quantiles(ranks)
    low, high = (np.searchsorted(ordered, found, side=side) / len(values) for side in ("left", "right"))
    assert ((low - share <= ranks + 1e-12) & (ranks <= high + share + 1e-12)).all()


def test_bins_and_profiles_are_small():
    random = np.random.default_rng(3)
    shapes = ("normal", "far from nought", "cents")
    found = of(**{shape: SHAPES[shape](random, 300_000) for shape in shapes}).columns
    assert all(column.distribution().counts.max() / 300_000 < 0.003 for column in found.values())
    # A few values of another magnitude do not widen the bins of the others.
    assert of(x=SHAPES["two sizes"](random, 300_000)).columns["x"].distribution().counts.max() / 300_000 < 0.03
    for column in found.values():
        assert len(column.model_dump_json()) < 15_000
        assert max(abs(count / 300_000 - 0.1) for count in column.counts) < 0.005
        assert sum(column.counts) == 300_000


def test_negative_zero_equals_zero():
    assert of(x=[-0.0, 0.0, -0.0]).model_dump_json() == of(x=[0.0, -0.0, 0.0]).model_dump_json()
    assert of(x=[-0.0] * 3).columns["x"].distribution().keys.tolist() == [0]


def test_ties_have_bins_of_their_own():
    column = of(flag=[0] * 70 + [1] * 30, constant=[5.0] * 100).columns
    assert (column["flag"].edges, column["flag"].counts) == ([0, 0, 1], [70, 30])
    assert (column["constant"].edges, column["constant"].counts) == ([5, 5], [100])


def test_text_and_booleans_are_counted_by_value():
    found = of(
        3,
        s=["a", "b", None, "a", "c", "a"],
        d=pa.array(["x", "y", "x", None, "x", "x"]).dictionary_encode(),
        b=[True, False, True, None, True, True],
    ).columns
    assert found["s"].top == [("a", 3), ("b", 1), ("c", 1)]
    assert (found["s"].distinct, found["s"].missing) == (3, 1)
    assert found["d"].top == [("x", 4), ("y", 1)]
    assert (found["b"].kind, found["b"].top) == ("boolean", [("true", 4), ("false", 1)])
    assert found["s"].counts() == {"a": 3, "b": 1, "c": 1}
    assert found["s"].error == 0


WORDS = {
    "few": lambda random, rows: random.choice(["a", "", "ß", "long" * 20], rows),
    "thousands": lambda random, rows: random.integers(0, 4_000, rows).astype(str),
    "more": lambda random, rows: random.zipf(1.3, rows).astype(str),
    "each another": lambda random, rows: random.integers(0, 2**60, rows).astype(str),
}


@given(st.integers(0, 2**32), st.lists(st.sampled_from(sorted(WORDS)), min_size=1, max_size=3), st.data())
@settings(max_examples=30, deadline=None)
def test_categories_do_not_depend_on_order_batches_and_parts(seed, shapes, data):
    random = np.random.default_rng(seed)
    words = np.concatenate([WORDS[shape](random, random.integers(1, 4_000)).astype(object) for shape in shapes])
    whole = of(data.draw(st.integers(500, 20_000)), s=words).columns["s"]
    column = merged_at_random(words, random, data, "s").columns["s"]
    if whole.exact:
        assert column.model_dump_json() == whole.model_dump_json()
        assert column.distinct == len(set(words))
    else:
        # Only the frequent values come from a sketch.
        assert column.model_dump(exclude={"sketch", "top"}) == whole.model_dump(exclude={"sketch", "top"})
    assert sum(whole.hashes().buckets) == len(words)
    assert sorted(whole.counts().values()) == sorted(np.unique(words, return_counts=True)[1]) or not whole.exact


def test_with_many_values_only_certainly_frequent_ones_are_kept():
    rare = [f"v{index}" for index in range(20_000)]
    column = of(s=rare + ["often"] * 5_000).columns["s"]
    assert not column.exact
    assert column.top[0][0] == "often"
    assert column.top[0][1] == pytest.approx(5_000, rel=0.05)
    assert all(count > 25_000 * 0.003 for _, count in column.top)
    assert abs(column.counts()["often"] - 5_000) <= round(column.error * column.valid)
    assert 0 < column.error < 0.004
    assert len(column.model_dump_json()) < 40_000


def test_the_number_of_distinct_values_is_within_its_stated_error():
    errors = []
    for seed in range(40):
        found = of(s=[f"{seed} {index}" for index in range(6_000)]).columns["s"]
        errors.append(found.distinct / 6_000 - 1)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(1 / math.sqrt(SAMPLE), rel=0.35)


def test_profiles_of_long_texts_are_small():
    column = of(s=[f"{index:05}" * 2_000 for index in range(2_000)] + ["x" * 10_000] * 500).columns["s"]
    assert not column.exact
    assert column.top[0][0] == "x" * 100
    assert column.top[0][1] == pytest.approx(500, abs=column.error * column.valid)
    assert len(column.model_dump_json()) < 150_000


def test_a_profile_survives_strict_json():
    found = of(x=[1e308, -1e308, float("inf"), float("nan"), None], n=pa.nulls(5), s=["a"] * 5, i=[1, 2, 3, 4, 2**60])
    text = json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert Profile.model_validate_json(text) == found
    assert found.columns["n"].missing == 5


def test_unsupported_columns_are_left_out_by_default_and_refused_by_name():
    table = pa.table({"x": [1.0], "t": pa.array([0], pa.duration("us"))})
    assert list(profile(table.to_batches()).columns) == ["x"]
    with pytest.raises(SchemaError, match="'t' .*its type is duration"):
        profile(table.to_batches(), ["t"])
    with pytest.raises(SchemaError, match="'y'.* 'x', 't'"):
        profile(table.to_batches(), ["y"])


def test_columns_that_disappear_or_change_their_kind_are_named():
    first = pa.record_batch({"x": [1.0], "s": ["a"]})
    with pytest.raises(SchemaError, match="Column 's'"):
        profile([first, pa.record_batch({"x": [1.0]})])
    with pytest.raises(SchemaError, match="'x' .*numeric.* string"):
        profile([first, pa.record_batch({"x": ["1"], "s": ["a"]})])
    with pytest.raises(SchemaError, match="'x' .*numeric.* categorical"):
        merge([of(x=[1.0]), of(x=["1"])])
    with pytest.raises(SchemaError, match=r"\['y'\]"):
        merge([of(x=[1.0]), of(x=[1.0], y=[1.0])])


def test_no_rows_give_an_empty_profile():
    assert profile([]) == Profile(rows=0, columns={})
    column = profile([pa.record_batch({"x": pa.array([], pa.float64())})]).columns["x"]
    assert (column.rows, column.edges, column.mean) == (0, [], None)
    assert list(column.cdf([1.0])) == [0]


def test_profiling_imports_nothing_heavy():
    heavy = ("pandas", "sklearn", "scipy", "mlflow", "airflow", "onnxruntime")
    code = f"import sys, airflow_mlops.profiles.profile; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_drift_check_of_many_rows_imports_neither_pandas_nor_scipy_stats():
    code = """
import sys
import numpy as np
import pyarrow as pa
from airflow_mlops.drift.thresholds import DriftThresholds
from airflow_mlops.drift.univariate import compare
from airflow_mlops.profiles.columns.base import as_arrow
from airflow_mlops.profiles.profile import profile

profiles = []
for seed in range(2):
    numbers = as_arrow(np.random.default_rng(seed).integers(0, 100, 10_000))
    profiles.append(profile([pa.RecordBatch.from_arrays([numbers, numbers.cast(pa.string())], ["x", "s"])]))
found = compare(*profiles, DriftThresholds())
print([item.tests for item in found], [name for name in ("pandas", "scipy.stats") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[2, 2] []\n"
