"""What is broken in a window: columns that went missing, froze at an unlikely value, or changed their unit."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.drift import univariate
from airflow_mlops.drift.findings import Drift
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import Profile, profile
from airflow_mlops.profiles.spans import constant_shares, span_of

ROWS = 20_000
FIRST = np.datetime64("2013-01-01T00:00:00", "us")


def year(seed: int = 0, days: int = 365) -> pa.Table:
    """A year of rows with calendar features, a temperature, and amounts."""
    random = np.random.default_rng(seed)
    seconds = np.sort(random.integers(0, days * 86_400, ROWS))
    day = seconds // 86_400
    times = FIRST + seconds.astype("timedelta64[s]")
    return pa.table(
        {
            "at": pa.array(times, pa.timestamp("us", "UTC")),
            "month": times.astype("datetime64[M]").astype(int) % 12 + 1,
            "day_of_year": day,
            "weekday": day % 7,
            "holiday": np.isin(day, [0, 50, 147, 184, 331, 358]).astype(int),
            "sensor": np.round(random.normal(15, 8, ROWS), 1),
            "fahrenheit": random.normal(55, 18, ROWS),
            "amount": random.lognormal(3, 1, ROWS),
        }
    )


@pytest.fixture(scope="module")
def trained() -> tuple[Profile, dict[str, dict[str, float]]]:
    data = year()
    return profile(data.drop_columns("at").to_batches()), constant_shares(data.to_batches(1_000), "at")


def measured(trained, column: str, values, length: timedelta | None) -> Drift:
    """Compare a window of ``column`` with training; without ``length``, the constant spans are unknown."""
    known, shares = trained
    spans = {} if length is None else {name: found[span_of(length)] for name, found in shares.items()}
    current = profile(pa.table({column: values}).to_batches())
    (found,) = univariate.measure(known, current, Policy(), constant=spans)
    return found


MONTH, DAY = timedelta(days=30), timedelta(days=1)


@pytest.mark.parametrize(
    ("column", "value", "length"),
    [
        ("month", 5, MONTH), ("month", 5, None), ("month", 13, MONTH), ("month", 13, None), ("holiday", 0, MONTH),
        ("holiday", 0, None), ("weekday", 3, DAY), ("weekday", 3, None), ("day_of_year", 40, DAY), ("day_of_year", 400, DAY),
        ("holiday", 1, DAY),
    ],
)  # fmt: skip
def test_a_calendar_feature_may_be_constant_in_a_window(trained, column, value, length):
    assert not measured(trained, column, np.full(1_000, value), length).broken


@pytest.mark.parametrize("value", [17.3, 15.0, 400.0, -999.0])
@pytest.mark.parametrize("length", [MONTH, DAY, None])
def test_a_sensor_that_is_stuck_is_broken(trained, value, length):
    found = measured(trained, "sensor", np.full(1_000, value), length)
    assert (found.broken, found.fault) == (True, "has one value in all rows")


def test_rows_without_a_value_do_not_count_as_rows_with_the_stuck_value(trained):
    found = measured(trained, "sensor", np.where(np.arange(1_000) < 900, 17.3, np.nan), MONTH)
    assert found.fault == "has one value in all rows with a value"


def test_a_constant_that_was_frequent_in_training_is_not_broken():
    random = np.random.default_rng(0)
    rain = np.where(random.random(ROWS) < 0.9, 0.0, random.exponential(size=ROWS))
    known = profile(pa.table({"rain": rain}).to_batches()), {"rain": {"month": 0.0}}
    assert not measured(known, "rain", np.zeros(1_000), MONTH).broken
    assert measured(known, "rain", np.full(1_000, 0.25), MONTH).broken


@pytest.mark.parametrize(
    ("column", "change", "fault"),
    [
        ("fahrenheit", lambda values: (values - 32) / 1.8, "looks converted from Fahrenheit to Celsius"),
        ("amount", lambda values: 1_000 * values, "is about 1,000 times as large as at training"),
        ("amount", lambda values: values / 100, "is about 1/100 of its size at training"),
    ],
)
def test_a_changed_unit_is_broken(trained, column, change, fault):
    values = year(seed=1)[column].to_numpy()[:2_000]
    assert measured(trained, column, change(values), MONTH).fault == fault


@pytest.mark.parametrize(
    ("factor", "looks"), [(100, "is about 100 times as large as"), (0.01, "is about 1/100 of its size")]
)
def test_the_fault_names_the_windows_of_the_reference(trained, factor, looks):
    values = factor * year(seed=1)["amount"].to_numpy()[:2_000]
    current = profile(pa.table({"amount": values}).to_batches())
    (found,) = univariate.measure(trained[0], current, Policy(), "2012-01 to 2012-03")
    assert found.fault == f"{looks} in 2012-01 to 2012-03"


@pytest.mark.parametrize(("value", "shown"), [(20_130_401.0, "20130401"), (12.41893196, "12.42"), (0.0, "0")])
def test_the_stuck_value_has_all_its_digits_only_if_it_is_whole(trained, value, shown):
    found = measured(trained, "sensor", np.full(1_000, value), MONTH)
    assert found.note == f"every row has the value {shown}"


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("fahrenheit", lambda values: values + 30),
        ("fahrenheit", lambda values: values / 3),
        ("amount", lambda values: 2 * values),
        ("amount", lambda values: 4 * values),
        ("sensor", lambda values: values - 20),
        ("amount", lambda values: values),
    ],
)
def test_a_column_that_only_drifted_is_not_broken(trained, column, change):
    values = year(seed=1)[column].to_numpy()[:2_000]
    assert measured(trained, column, change(values), MONTH).fault is None


def test_a_column_without_most_of_its_values_is_broken(trained):
    values = year(seed=1)["amount"].to_pylist()[:1_000]
    assert measured(trained, "amount", pa.array([None] * 1_000, pa.float64()), MONTH).fault == "has no values"
    most = pa.array([*values[:80], *[None] * 920])
    assert measured(trained, "amount", most, MONTH).fault == "has no value in 92% of the rows"
    assert not measured(trained, "amount", pa.array([*values[:500], *[None] * 500]), MONTH).broken


@given(st.integers(2, 100), st.integers(0, 10**6))
def test_without_known_spans_a_constant_column_with_few_values_at_training_is_never_broken(distinct, value):
    known = profile(pa.table({"code": np.arange(1_000) % distinct}).to_batches()), {}
    assert not measured(known, "code", np.full(100, value), None).broken
