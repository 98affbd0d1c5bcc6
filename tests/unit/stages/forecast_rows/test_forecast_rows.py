"""Forecast rows: equal to a plain computation, without a look ahead, and with rules for irregular series."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import EmptyWindowError, SchemaError, SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsSpec
from airflow_mlops.stages.forecast_rows.step import run
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec

START = date(2024, 1, 1)
USUAL = {
    "name": "rows", "series": "shop", "time": "day", "value": "units", "every": "P1D", "horizon": 3, "season": 2, "lags": [1, 3],
    "rolling": [3],
}  # fmt: skip


@pytest.fixture(scope="module")
def store():
    return ArtifactStore("memory://forecasts")


def write(store, table, name="sales", window=None):
    with DatasetWriter(store, name) as writer:
        writer.write(table)
        return writer.commit(window=Window.model_validate(window) if window else None)[0].ref


def long(series: dict[str, list[float | None]]) -> pa.Table:
    """Daily values from :data:`START`. A missing value has no row."""
    rows = [
        (shop, START + timedelta(days=day), value)
        for shop, values in series.items()
        for day, value in enumerate(values)
        if value is not None
    ]
    return pa.table(
        {
            "shop": [r[0] for r in rows],
            "day": [r[1] for r in rows],
            "units": pa.array([r[2] for r in rows], pa.float64()),
        }
    )


def build(store, table, **fields):
    result = run(
        parse(ForecastRowsSpec, {**USUAL, "entities": write(store, table), **fields}, "The step"),
        StepContext(store=store),
    )
    return result, open_dataset(store, result.dataset).table().to_pylist()


def expected(values: list[float | None], origin: int, step: int, season: int) -> dict[str, float | None]:
    """The features of a row, computed from the list of values up to the origin."""
    past = values[: origin + 1]
    at = [past[origin + step - season * k] for k in range(1, 100) if 0 <= origin + step - season * k <= origin]
    known = [value for value in past if value is not None]
    naive = next((value for value in at if value is not None), known[-1] if known else None)
    errors = [abs(b - a) for a, b in zip(past, past[season:], strict=False) if None not in (a, b)]
    recent = [value for value in past[-3:] if value is not None]
    return {
        "lag_1": past[-1],
        "lag_3": past[-3] if len(past) >= 3 else None,
        "mean_3": np.mean(recent) if recent else None,
        "std_3": np.std(recent, ddof=1) if len(recent) > 1 else None,
        "seasonal_naive": naive,
        "mase_scale": np.mean(errors) if errors else 0.0,
    }


SERIES = st.lists(st.one_of(st.none(), st.integers(-5, 5).map(float)), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=SERIES, two=SERIES, season=st.integers(1, 4))
def test_rows_equal_a_plain_computation_from_the_past_alone(store, one, two, season):
    series = {name: values for name, values in {"a": one, "b": two}.items() if any(v is not None for v in values)}
    found: dict[tuple[str, int, int], dict] = {}
    try:
        for row in build(store, long(series or {"a": [None]}), season=season)[1]:
            origin = (row["origin"] - START).days
            assert row["day"] - row["origin"] == timedelta(days=row["step"])
            found[row["shop"], origin, row["step"]] = row
    except (EmptyWindowError, SchemaError):
        assert sum(v is not None for values in series.values() for v in values) < 24
    wanted = set()
    for shop, values in series.items():
        first = next(day for day, value in enumerate(values) if value is not None)
        for origin in range(first, len(values)):
            recent = values[max(0, origin + 1 - max(season, 3)) : origin + 1]
            for step in range(1, 4):
                if (
                    origin + step < len(values)
                    and values[origin + step] is not None
                    and any(v is not None for v in recent)
                ):
                    wanted.add((shop, origin, step))
                    row = found[shop, origin, step]
                    assert row["units"] == values[origin + step]
                    # Nothing before the first value is part of the series.
                    past = expected(values[first:], origin - first, step, season)
                    assert {name: row[name] for name in past} == {
                        name: value if value is None else pytest.approx(value, abs=1e-9) for name, value in past.items()
                    }
    assert found.keys() == wanted


def test_later_values_change_no_earlier_row(store):
    random = np.random.default_rng(0)
    values = [float(v) for v in random.poisson(9, 30)]
    _, before = build(store, long({"a": values, "b": values[::-1]}), horizon=2)
    changed = [*values[:20], *[v + 100 for v in values[20:]]]
    _, after = build(store, long({"a": changed, "b": [*values[::-1][:20], *[None] * 9, 500.0]}), horizon=2)
    early = START + timedelta(days=20)
    assert [r for r in before if r["day"] < early] == [r for r in after if r["day"] < early]
    features = lambda rows: {(r["shop"], r["origin"], r["step"]): r["lag_1"] for r in rows if r["origin"] < early}  # noqa: E731
    assert features(after).items() <= features(before).items()


def test_the_rows_to_score_are_those_of_training_without_the_label(store):
    values = [float(v) for v in range(20)]
    series = {"a": values, "late": values[:-2], "ended": values[:10], "new": [None] * 19 + [7.0]}
    result, rows = build(store, long(series), origins="newest")
    assert (result.series, result.left_out, result.rows) == (3, 1, 9)
    assert result.origin == "2024-01-20"
    assert all("units" not in row and row["origin"] == date(2024, 1, 20) for row in rows)
    late, new = ([row for row in rows if row["shop"] == shop] for shop in ("late", "new"))
    assert (late[0]["lag_1"], late[0]["lag_3"], late[0]["seasonal_naive"]) == (None, 17.0, 16.0)
    assert {(row["seasonal_naive"], row["mase_scale"], row["lag_3"]) for row in new} == {(7.0, 0.0, None)}
    # The same features as in training, when the actual values are known.
    _, trained = build(store, long({"a": [*values, 1.0, 2.0, 3.0]}))
    scored = [row for row in rows if row["shop"] == "a"]
    assert [
        {k: v for k, v in row.items() if k != "units"} for row in trained if row["origin"] == date(2024, 1, 20)
    ] == scored


def test_days_are_counted_in_local_time(store):
    # Summer time begins in Berlin on 31 March 2024, so this day has 23 hours.
    days = [
        datetime(2024, 3, 28, 23, tzinfo=timezone.utc),
        *(datetime(2024, 3, d, 23, tzinfo=timezone.utc) for d in (29, 30)),
    ]
    days += [datetime(2024, 3, 31, 22, tzinfo=timezone.utc), datetime(2024, 4, 1, 22, tzinfo=timezone.utc)]
    table = pa.table({"shop": [1] * 5, "day": pa.array(days, pa.timestamp("us", "UTC")), "units": [1, 2, 3, 4, 5]})
    _, rows = build(store, table, zone="Europe/Berlin", horizon=1)
    assert [row["day"] for row in rows] == days[1:]
    assert [row["target_day"] for row in rows] == [30, 31, 1, 2]
    assert [row["target_weekday"] for row in rows] == [5, 6, 0, 1]
    with pytest.raises(SchemaError, match="Check `zone`"):
        build(store, table, horizon=1)


def test_a_day_without_midnight_begins_at_its_first_instant(store):
    # Clocks in Santiago were turned forward from 0:00 to 1:00 on 8 September 2024.
    days = [datetime(2024, 9, d, 4 if d < 9 else 3, tzinfo=timezone.utc) for d in range(5, 12)]
    table = pa.table({"shop": [1] * 7, "day": pa.array(days, pa.timestamp("us", "UTC")), "units": list(range(7))})
    _, rows = build(store, table, zone="America/Santiago", horizon=1)
    assert [row["day"] for row in rows] == days[1:]
    assert [row["target_day"] for row in rows] == list(range(6, 12))
    late = days[3] + timedelta(hours=1)
    with pytest.raises(SchemaError, match="not a whole number of steps"):
        build(store, table.set_column(1, "day", pa.array([*days[:3], late, *days[4:]])), zone="America/Santiago")


def test_months_and_hours(store):
    months = [datetime(2023, month, 1, tzinfo=timezone.utc) for month in (1, 2, 4, 5)]
    table = pa.table({"shop": ["x"] * 4, "day": pa.array(months), "units": [1.0, 2.0, 4.0, 5.0]})
    _, rows = build(store, table, every="P1M", horizon=2)
    assert [(row["origin"].month, row["target_month"], row["units"], row["lag_1"]) for row in rows] == [
        (1, 2, 2.0, 1.0), (2, 4, 4.0, 2.0), (3, 4, 4.0, None), (3, 5, 5.0, None), (4, 5, 5.0, 4.0),
    ]  # fmt: skip
    hours = [datetime(2024, 1, 1, 22, tzinfo=timezone.utc) + timedelta(hours=hour) for hour in range(4)]
    table = pa.table({"shop": ["x"] * 4, "day": pa.array(hours), "units": [1, 2, 3, 4]})
    _, rows = build(store, table, every="PT1H", horizon=1)
    assert [(row["target_hour"], row["target_weekday"], row["units"]) for row in rows] == [
        (23, 0, 2),
        (0, 1, 3),
        (1, 1, 4),
    ]


def test_columns_that_are_known_in_advance_come_from_the_target_time(store):
    table = long({"a": [float(v) for v in range(6)]}).append_column("price", pa.array(range(10, 16)))
    _, rows = build(store, table, known=["price"], horizon=1)
    assert all(row["price"] == row["units"] + 10 for row in rows)
    with pytest.raises(SchemaError, match=r"no row for 1 target time.*price"):
        build(store, table, known=["price"], horizon=1, origins="newest")
    future = pa.table(
        {"shop": ["a"], "day": [START + timedelta(days=6)], "units": pa.array([None], pa.float64()), "price": [99]}
    )
    result, (row,) = build(store, pa.concat_tables([table, future]), known=["price"], horizon=1, origins="newest")
    assert (result.origin, row["price"], row["lag_1"]) == ("2024-01-06", 99, 5.0)


def test_irregular_series_are_refused(store):
    table = long({"a": [1.0, 2.0, 3.0]})
    with pytest.raises(SchemaError, match="several rows for shop='a'.*2024-01-02"):
        build(store, pa.concat_tables([table, table.slice(1, 1)]))
    for column, values, problem in (
        ("units", [1.0, float("inf"), 2.0], "in 1 row"),
        ("units", [1.0, -1e200, 2.0], "above 1e.150 in 1 row"),
        ("shop", ["a", None, "a"], "'shop'.*null in 1 row"),
        ("shop", [0.5, 1.5, 2.5], "cannot identify a series"),
        ("units", ["1", "2", "3"], "only numbers can be forecast"),
    ):
        broken = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
        with pytest.raises(SchemaError, match=problem):
            build(store, broken)
    stamps = pa.array([datetime(2024, 1, day, day, tzinfo=timezone.utc) for day in (1, 2, 3)])
    with pytest.raises(SchemaError, match="not a whole number of steps apart"):
        build(store, table.set_column(1, "day", stamps))
    with pytest.raises(SchemaError, match="Set `every`"):
        build(store, table, every="PT1M")
    with pytest.raises(EmptyWindowError, match="no values of 'units'"):
        build(store, table.set_column(2, "units", pa.array([None, None, float("nan")], pa.float64())))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"every": "P1M2D"}, "combines months, days or times"),
        ({"lags": [1, 1]}, "lag_1.*more than once"),
        ({"value": "step"}, "step.*more than once"),
        ({"zone": "Mars"}, "not a time zone"),
        ({"window": {"kind": "decay", "half_life": "P7D"}}, "no weights"),
        ({"origins": "newest", "stride": 2}, "Remove `stride`"),
    ],
)
def test_contradictions_are_refused(fields, problem):
    with pytest.raises(SpecError, match=problem):
        parse(ForecastRowsSpec, {**USUAL, "entities": "sales", **fields}, "The step")


def test_fewer_origins(store):
    table = long({"a": [float(v) for v in range(12)]})
    every, some = (build(store, table, stride=stride)[1] for stride in (1, 4))
    assert len({row["origin"] for row in some}) == 3
    assert all(row in every for row in some)


def test_the_newest_origin_must_lie_in_the_window_of_the_run(store):
    ref = write(store, long({"a": [1.0, 2.0, 3.0, 4.0]}), "windowed", "2024-01")
    write(store, long({"a": [None]}), "windowed", "2024-02")
    assert ref.window is not None
    fields = {**USUAL, "origins": "newest", "window": {"kind": "expanding", "since": "2024-01-01"}}

    def at(month):
        spec = {**fields, "entities": {"name": "windowed", "window": month}}
        return run(parse(ForecastRowsSpec, spec, "The step"), StepContext(store=store))

    assert at("2024-01").dataset.window == Window.model_validate("2024-01")
    with pytest.raises(EmptyWindowError, match="not in the window 2024-02"):
        at("2024-02")


def test_a_rolling_window_covers_the_longest_feature(store):
    write(store, long({"a": [float(day) for day in range(31)]}), "rolled", "2024-01")

    def over(rule, **fields):
        entities = {"name": "rolled", "window": "2024-01"}
        spec = {**USUAL, "entities": entities, "window": {"kind": "rolling", "length": rule}, **fields}
        return run(parse(ForecastRowsSpec, spec, "The step"), StepContext(store=store))

    assert over("P7D", lags=[7]).rows
    for fields in ({"lags": [8]}, {"rolling": [8]}, {"season": 8}):
        with pytest.raises(SpecError, match="7 steps.*needs 8"):
            over("P7D", **fields)


def test_a_training_set_keeps_targets_apart(store):
    random = np.random.default_rng(1)
    built, _ = build(store, long({name: [float(v) for v in random.poisson(20, 60)] for name in "ab"}))

    def train(**fields):
        usual = {
            "name": "set",
            "entities": built.dataset,
            "timestamp": "origin",
            "keys": ["shop", "day"],
            "label": "units",
        }
        spec = {
            **usual,
            "task": "regression",
            "columns": built.features,
            "split": {"method": "time", "test_size": 0.3},
            **fields,
        }
        return training_set.run(parse(TrainingSetSpec, spec, "The step"), StepContext(store=store))

    found = open_dataset(store, train().dataset)
    last, first = max(found.table("train")["day"].to_pylist()), min(found.table("test")["origin"].to_pylist())
    assert datetime(last.year, last.month, last.day, tzinfo=timezone.utc) < first
    assert found.manifest.details["forecast"]["horizon"] == 3
    # The scale depends on the length of the history, so it is a column for the metric only.
    assert "mase_scale" not in found.manifest.details["features"]
    assert "mase_scale" in found.manifest.column_names
    assert "seasonal_naive" not in found.manifest.details["single_feature"]["scores"]
    other = train(label={"name": "double", "expression": "units * 2"})
    assert "forecast" not in open_dataset(store, other.dataset).manifest.details
    for fields, problem in (
        ({"split": "random"}, "Set `split` to 'time'"),
        ({"split": {"method": "time", "gap": "2D"}}, "reach 3 days"),
        ({"timestamp": "day", "keys": ["shop"]}, "Set it to 'origin'"),
        ({"keys": ["shop"]}, "'day'"),
    ):
        with pytest.raises(SpecError, match=problem):
            train(**fields)
