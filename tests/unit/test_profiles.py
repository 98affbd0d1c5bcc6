"""Profiles: one pass, right numbers, and parts that add up to the whole."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.exceptions import SchemaError
from airflow_mlops.monitoring.profiles import Profile, merge, profile

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
        assert column.mean == pytest.approx(np.mean(finite), rel=1e-9, abs=1e-9 * max(map(abs, finite)))
    if len(finite) > 1:
        assert column.std == pytest.approx(np.std(finite, ddof=1), rel=1e-6, abs=1e-6 * max(map(abs, finite)))


@given(NUMBERS, NUMBERS)
@settings(max_examples=60, deadline=None)
def test_profiles_of_parts_merge_to_the_profile_of_the_whole(first, second):
    def one(values) -> Profile:
        kinds = pa.array([None if value is None else str(value) for value in values], pa.string())
        return profile([pa.record_batch({"x": pa.array(values, pa.float64()), "s": kinds})])

    merged, whole = merge([one(first), one(second)]), one([*first, *second])
    assert merged.rows == whole.rows
    left, right = merged.columns["x"], whole.columns["x"]
    # These are few enough values for the sketches to be exact.
    exact = {"rows", "missing", "nan", "infinite", "min", "max", "edges", "counts"}
    assert left.model_dump(include=exact) == right.model_dump(include=exact)
    scale = max((abs(value) for value in (right.min or 0, right.max or 0)), default=0)
    for name in ("mean", "std"):
        a, b = getattr(left, name), getattr(right, name)
        assert (a is None) == (b is None)
        assert a is None or a == pytest.approx(b, rel=1e-6, abs=1e-6 * scale)
    # Equally frequent values beyond the fiftieth are cut off by name, so all counts agree.
    assert merged.columns["s"].top == whole.columns["s"].top
    assert merged.columns["s"].distinct == whole.columns["s"].distinct


def test_quantiles_of_many_rows_are_within_the_error_that_is_promised():
    values = np.random.default_rng(0).lognormal(size=200_000)
    column = of(x=values).columns["x"]
    ordered = np.sort(values)
    for share in (0.01, 0.25, 0.5, 0.9, 0.999):
        found = np.searchsorted(ordered, column.quantiles([share])[0], side="right") / len(ordered)
        assert abs(found - share) < 0.01
        assert abs(column.cdf([float(np.quantile(values, share))])[0] - share) < 0.01
    assert len(column.counts) == 10
    assert max(abs(count / len(values) - 0.1) for count in column.counts) < 0.015
    assert len(column.model_dump_json()) < 20_000
    assert 0 < column.rank_error < column.bin_error < 0.003


def test_few_values_are_all_kept_and_the_sketch_has_no_error():
    values = np.random.default_rng(1).normal(size=512)
    column = of(x=values).columns["x"]
    points, rows = column.points()
    assert sorted(points) == sorted(values)
    assert set(rows) == {1}
    assert (column.rank_error, column.bin_error) == (0, 0)


def test_values_that_tie_keep_their_own_bins():
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


def test_a_column_of_many_values_keeps_only_those_that_are_certainly_frequent():
    rare = [f"v{index}" for index in range(20_000)]
    column = of(s=rare + ["often"] * 5_000).columns["s"]
    assert column.top[0][0] == "often"
    assert column.top[0][1] == pytest.approx(5_000, rel=0.05)
    assert all(count > 25_000 * 0.003 for _, count in column.top)
    assert column.distinct == pytest.approx(20_001, rel=0.06)
    assert abs(column.counts()["often"] - 5_000) <= round(column.error * column.valid)
    assert 0 < column.error < 0.004


def test_a_profile_survives_json_and_has_no_number_that_json_lacks():
    found = of(x=[1e308, -1e308, float("inf"), float("nan"), None], n=pa.nulls(5), s=["a"] * 5, i=[1, 2, 3, 4, 2**60])
    text = json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert Profile.model_validate_json(text) == found
    assert found.columns["n"].missing == 5


def test_what_has_no_profile_is_left_out_unless_it_was_asked_for():
    table = pa.table({"x": [1.0], "t": pa.array([0], pa.timestamp("us"))})
    assert list(profile(table.to_batches()).columns) == ["x"]
    with pytest.raises(SchemaError, match="'t' is timestamp"):
        profile(table.to_batches(), ["t"])
    with pytest.raises(SchemaError, match="no column 'y' to profile: there are x, t"):
        profile(table.to_batches(), ["y"])


def test_a_column_that_goes_or_changes_its_kind_is_named():
    first = pa.record_batch({"x": [1.0], "s": ["a"]})
    with pytest.raises(SchemaError, match="Column 's' is gone"):
        profile([first, pa.record_batch({"x": [1.0]})])
    with pytest.raises(SchemaError, match="Column 'x' holds numbers in earlier rows and string in later ones"):
        profile([first, pa.record_batch({"x": ["1"], "s": ["a"]})])
    with pytest.raises(SchemaError, match="column 'x' is numeric in one and categorical in another"):
        merge([of(x=[1.0]), of(x=["1"])])
    with pytest.raises(SchemaError, match=r"columns \['y'\] are not in all"):
        merge([of(x=[1.0]), of(x=[1.0], y=[1.0])])


def test_no_rows_make_an_empty_profile():
    assert profile([]) == Profile(rows=0, columns={})
    column = profile([pa.record_batch({"x": pa.array([], pa.float64())})]).columns["x"]
    assert (column.rows, column.edges, column.mean) == (0, [], None)
    assert list(column.cdf([1.0])) == [0]


def test_profiling_imports_nothing_heavy():
    heavy = ("pandas", "sklearn", "scipy", "mlflow", "airflow", "onnxruntime")
    code = f"import sys, airflow_mlops.monitoring.profiles; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
