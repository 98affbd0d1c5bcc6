"""The windows of a task are those of its DAG run: of the timetable's time zone, partitions and data intervals."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    CronDataIntervalTimetable,
    CronPartitionTimetable,
    MultipleCronTriggerTimetable,
    PartitionedAssetTimetable,
    StartOfDayMapper,
)
from airflow.timetables import trigger

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.operators.calendar import calendar

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def run(schedule: Any, key: str | None = None, date: str | None = None, **context: Any) -> dict[str, Any]:
    """The context of a DAG run, with the partition date as the scheduler computes it."""
    start = context.pop("start", None)
    with DAG("windows", schedule=schedule, start_date=start) as dag:
        pass
    return {
        "dag": dag,
        "partition_key": key,
        "partition_date": pendulum.parse(date) if date else None,
        **context,
    }


def scheduled(schedule: CronPartitionTimetable, day: str) -> dict[str, Any]:
    """The context of the first partition on ``day`` or later, as a scheduled run and a backfill have it."""
    core = trigger.CronPartitionTimetable(
        schedule.expression, timezone=schedule.timezone, key_format=schedule.key_format
    )
    first = pendulum.parse(day, tz=str(schedule.timezone))
    info = next(iter(core.iter_partition_dagrun_infos(earliest=first, latest=first.add(years=1))))
    return run(schedule, info.partition_key, info.partition_date.isoformat())


def window(context: dict[str, Any], text: str | None = None, period: str | None = None) -> str:
    found = parse(Window, text or context["partition_key"], "Task 'x'", calendar=calendar(context, period))
    assert isinstance(found, Window)
    return found.label


@pytest.mark.parametrize(
    ("cron", "key_format", "day", "expected"),
    [
        # The default key, on days of 23, 24 and 25 hours.
        ("0 0 * * *", None, "2024-03-31", "2024-03-31[Europe/Berlin]"),
        ("0 0 * * *", None, "2024-06-01", "2024-06-01[Europe/Berlin]"),
        ("0 0 * * *", None, "2024-10-27", "2024-10-27[Europe/Berlin]"),
        ("0 0 1 * *", None, "2024-03-01", "2024-03[Europe/Berlin]"),
        ("0 0 * * MON", None, "2024-03-25", "2024-W13[Europe/Berlin]"),
        ("0 * * * *", None, "2024-03-31T01:00", "2024-03-31T01[Europe/Berlin]"),
        # A daily partition that begins at three o'clock ends at three o'clock of the next day.
        ("0 3 * * *", None, "2024-06-01", "2024-06-01T01:00:00Z/2024-06-02T01:00:00Z[Europe/Berlin]"),
        # The form of the key determines the length, even if the cron expression fires later.
        ("0 3 1 * *", "%Y-%m", "2024-03-01", "2024-03[Europe/Berlin]"),
        ("0 3 * * *", "%Y-%m-%d", "2024-03-31", "2024-03-31[Europe/Berlin]"),
        ("0 6 * * MON-FRI", "%Y-%m-%d", "2024-03-29", "2024-03-29[Europe/Berlin]"),
        ("0 3 * * *", "%Y%m%d", "2024-03-31", "2024-03-31[Europe/Berlin]"),
        ("0 0 * * *", "%d.%m.%Y", "2024-03-31", "2024-03-31[Europe/Berlin]"),
        ("30 * * * *", "%Y-%m-%dT%H", "2024-06-01T04:30", "2024-06-01T04[Europe/Berlin]"),
    ],
)
def test_a_partition_has_the_length_and_zone_of_the_timetable(cron, key_format, day, expected):
    formats = {"key_format": key_format} if key_format else {}
    context = scheduled(CronPartitionTimetable(cron, timezone=BERLIN, **formats), day)
    assert window(context) == expected


def test_both_hours_of_the_autumn_night_are_partitions_of_their_own():
    schedule = CronPartitionTimetable("0 * * * *", timezone=BERLIN)
    core = trigger.CronPartitionTimetable("0 * * * *", timezone=BERLIN)
    night = pendulum.datetime(2024, 10, 27, tz=BERLIN)
    infos = list(core.iter_partition_dagrun_infos(earliest=night, latest=night.add(hours=6)))
    found = [
        parse(
            Window,
            info.partition_key,
            "x",
            calendar=calendar(run(schedule, info.partition_key, info.partition_date.isoformat())),
        )
        for info in infos
    ]
    assert all(first.end == second.start for first, second in zip(found, found[1:], strict=False))
    assert {item.end - item.start for item in found} == {timedelta(hours=1)}


def test_a_month_whose_key_looks_like_a_day_is_refused_until_the_task_says_how_long_it_is():
    context = scheduled(CronPartitionTimetable("0 0 1 * *", timezone="UTC", key_format="%Y-%m-%d"), "2024-03-01")
    with pytest.raises(SpecError, match="period="):
        window(context)
    assert window(context, period="P1M") == "2024-03"


def test_a_run_without_a_partition_key_says_so():
    context = run(CronPartitionTimetable("0 0 * * *", timezone="UTC"))
    with pytest.raises(SpecError, match="this run has no partition key"):
        window(context, "None")


def test_a_range_ends_with_the_partition():
    context = scheduled(CronPartitionTimetable("0 0 1 * *", timezone=BERLIN, key_format="%Y-%m"), "2024-03-01")
    assert window(context, "2024-01..2024-03") == "2024-Q1[Europe/Berlin]"


def test_the_zone_of_asset_partitions_is_that_of_the_mapper():
    schedule = PartitionedAssetTimetable(
        assets=Asset("a"), default_partition_mapper=StartOfDayMapper(timezone=NEW_YORK)
    )
    context = run(schedule, "2024-03-10", "2024-03-10T05:00:00Z")
    assert window(context) == "2024-03-10[America/New_York]"


def test_the_zone_of_passed_on_partitions_is_that_of_the_windows_in_the_asset_events():
    asset = Asset("a")
    event = SimpleNamespace(extra={"window": "2024-03-10T05:00:00Z/2024-03-11T04:00:00Z[America/New_York]"})
    context = run(
        PartitionedAssetTimetable(assets=asset),
        "2024-03-10",
        "2024-03-10T05:00:00Z",
        triggering_asset_events={asset: [event]},
    )
    assert window(context) == "2024-03-10[America/New_York]"


def test_a_default_key_that_is_passed_on_is_as_long_as_the_window_that_was_written():
    asset = Asset("a")
    event = SimpleNamespace(extra={"window": "2024-03-30T23:00:00Z/2024-03-31T22:00:00Z[Europe/Berlin]"})
    schedule = PartitionedAssetTimetable(assets=asset)
    context = run(schedule, "2024-03-31T00:00:00", "2024-03-30T23:00:00Z", triggering_asset_events={asset: [event]})
    assert window(context) == "2024-03-31[Europe/Berlin]"
    # The window of a training set that ends with the partition does not determine the length of the partition.
    event.extra["window"] = "2023-12-31T23:00:00Z/2024-03-31T22:00:00Z[Europe/Berlin]"
    with pytest.raises(SpecError, match="period="):
        window(context)


def test_the_zone_of_combined_timetables_is_theirs():
    times = MultipleCronTriggerTimetable("0 0 * * *", "0 12 * * *", timezone=BERLIN)
    for schedule in (times, AssetOrTimeSchedule(assets=[Asset("a")], timetable=times.timetables[0])):
        assert window(run(schedule), "2024-03-31") == "2024-03-31[Europe/Berlin]"


def test_a_partition_of_an_unknown_zone_is_refused_if_it_begins_outside_the_window():
    context = run(PartitionedAssetTimetable(assets=Asset("a")), "2024-03-31", "2024-03-30T23:00:00Z")
    with pytest.raises(SpecError, match="Name the time zone"):
        window(context)
    assert window(context, "2024-03-31[Europe/Berlin]") == "2024-03-31[Europe/Berlin]"


def interval(start: str, end: str, **context: Any) -> dict[str, Any]:
    return {
        "data_interval_start": pendulum.parse(start),
        "data_interval_end": pendulum.parse(end),
        "logical_date": pendulum.parse(start),
        "ds": start[:10],
        **context,
    }


def test_data_intervals_are_in_the_zone_of_the_timetable():
    times = interval("2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z")
    context = run(CronDataIntervalTimetable("0 0 * * *", timezone=BERLIN), **times)
    for text in (
        f"{times['data_interval_start']}/{times['data_interval_end']}",
        str(times["data_interval_start"]),
        times["logical_date"].isoformat(),
        times["logical_date"].in_timezone(BERLIN).strftime("%Y-%m-%d"),
    ):
        assert window(context, text) == "2024-03-31[Europe/Berlin]"


def test_ds_is_refused_where_it_is_another_day_than_the_local_one():
    times = interval("2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z")
    context = run(CronDataIntervalTimetable("0 0 * * *", timezone=BERLIN), **times)
    with pytest.raises(SpecError, match="2024-03-31.*in_timezone"):
        window(context, "2024-03-30")
    six = interval("2024-03-31T04:00:00Z", "2024-04-01T04:00:00Z")
    assert (
        window(run(CronDataIntervalTimetable("0 6 * * *", timezone=BERLIN), **six), "2024-03-31")
        == "2024-03-31[Europe/Berlin]"
    )
    assert (
        window(run("@daily", **interval("2024-03-31T00:00:00Z", "2024-03-31T00:00:00Z")), "2024-03-31") == "2024-03-31"
    )


def test_an_empty_data_interval_names_timetables_that_have_one():
    times = interval("2024-03-31T00:00:00Z", "2024-03-31T00:00:00Z")
    with pytest.raises(SpecError, match="CronDataIntervalTimetable"):
        window(run("@daily", **times), f"{times['data_interval_start']}/{times['data_interval_end']}")


def test_the_zone_of_a_schedule_without_one_is_that_of_the_start_date():
    start = pendulum.datetime(2024, 1, 1, tz=BERLIN)
    assert window(run("@daily", start=start), "2024-03-31") == "2024-03-31[Europe/Berlin]"
    assert window(run(None), "2024-03-31") == "2024-03-31"


def test_windows_in_selections_are_those_of_the_run_too():
    from airflow_mlops.operators import BuildTrainingSetOperator, EvaluateOperator

    schedule = CronPartitionTimetable("0 0 * * *", timezone=BERLIN)
    context = scheduled(schedule, "2024-03-31")
    key = context["partition_key"]
    with DAG("selections", schedule=schedule):
        task = BuildTrainingSetOperator(
            task_id="x", name="x", entities={"name": "rows", "window": key}, timestamp="t", columns=["a"]
        )
        gates = EvaluateOperator(
            task_id="y",
            candidates=[{"model": "m", "version": 1}],
            gates=[{"can_score": {"name": "rows", "window": "2024-03-31"}}],
        )
    spec = parse(task.spec, task.build_spec(context), "x", calendar=calendar(context))
    assert spec.entities.window.label == "2024-03-31[Europe/Berlin]"
    spec = parse(gates.spec, gates.build_spec(context), "y", calendar=calendar(context))
    assert spec.gates[0]["can_score"]["window"] == "2024-03-30T23:00:00Z/2024-03-31T22:00:00Z[Europe/Berlin]"


def test_an_invalid_period_is_refused():
    with pytest.raises(SpecError, match="P1D"):
        calendar(run(None), "1 day")


def test_a_partition_at_the_end_of_time_ends():
    context = run(CronPartitionTimetable("0 0 29 2 *", timezone="UTC"), "x", "2024-02-29T00:00:00Z")
    found = calendar(context)
    assert found.ends == {datetime(2024, 2, 29, tzinfo=timezone.utc): datetime(2028, 2, 29, tzinfo=timezone.utc)}
