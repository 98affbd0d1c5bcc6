"""The calendar of a DAG run: the time zone, the partition and the lengths of the windows of its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from itertools import dropwhile, islice, pairwise
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, CronPartitionTimetable

from airflow_mlops.core.errors import SpecError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.window_text import Calendar
    from airflow_mlops.core.windows import Window

# Number of partition starts whose distances are compared. Nine daily starts cover all days of a week.
_PARTITIONS = 9


def calendar(context: Context, period: str | None = None) -> Calendar:
    """Return the calendar that converts the texts of a task's windows, such as ``2013-04``, to time windows.

    The time zone comes from the first of these sources with exactly one time zone: the DAG's timetable, the timetable's
    partition mappers, and the windows in the asset events that started the run. If none has one, it is the time zone of
    the DAG (its ``start_date`` or ``[core] default_timezone``).

    :param period: length of a window that is written as one date or time, as an ISO 8601 duration such as ``P1D``
    :raises SpecError: ``period`` is not an ISO 8601 duration
    """
    from airflow_mlops.core.durations import is_period
    from airflow_mlops.core.window_text import Calendar

    if period is not None and not is_period(period):
        raise SpecError(f"period={period!r} is not a period. Write it in ISO 8601, for example P1D, P7D, P1M or PT1H.")
    dag = context.get("dag")
    timetable = getattr(dag, "timetable", None)
    sent = _sent(context)
    zone = _zone(timetable, dag, sent)
    start = _utc(context.get("partition_date"))
    ends, cadence = _partitions(timetable, start) if start is not None else ({}, None)
    # If another DAG has sent the partition key, the window in that DAG's event determines the length of the partition.
    passed_on = {window.start: window.end for window in sent if window.start == start}
    first, last = _utc(context.get("data_interval_start")), _utc(context.get("data_interval_end"))
    interval = {first: last} if first is not None and last is not None and first < last else {}
    return Calendar(
        zone=zone,
        period=period,
        key=context.get("partition_key"),
        key_start=start,
        ends=passed_on | ends | interval,
        cadence=cadence,
        ds=_misleading_day(context, zone),
    )


def _misleading_day(context: Context, zone: str) -> tuple[str, str] | None:
    """Return the day of the run in UTC (``{{ ds }}``) and in ``zone``.

    :return: ``None`` if both are the same day, or if the run has no logical date
    """
    from airflow_mlops.core.zones import zone as zone_of

    day, moment = context.get("ds"), _utc(context.get("logical_date"))
    if day is None or moment is None:
        return None
    local = moment.astimezone(zone_of(zone)).date().isoformat()
    return (day, local) if local != day else None


def _utc(moment: datetime | None) -> datetime | None:
    # Arithmetic with pendulum's datetimes follows other rules, so a datetime of the standard library is returned.
    return datetime.fromtimestamp(moment.timestamp(), timezone.utc) if moment is not None else None


def _zone(timetable: Any, dag: Any, sent: Sequence[Window]) -> str:
    from airflow_mlops.core.zones import name_of

    for found in (_own(timetable), _mapped(timetable), {window.zone for window in sent}):
        if len(found) == 1:
            return found.pop()
    return name_of(getattr(dag, "timezone", None))


def _own(timetable: Any) -> set[str]:
    """Return the time zones of a timetable and of the timetables that it combines."""
    from airflow_mlops.core.zones import name_of

    parts = [timetable, getattr(timetable, "timetable", None), *(getattr(timetable, "timetables", None) or ())]
    zones = (getattr(part, "timezone", None) or getattr(part, "_timezone", None) for part in parts)
    return {name_of(zone) for zone in zones if zone is not None}


def _mapped(timetable: Any) -> set[str]:
    """Return the time zones of the partition mappers of an asset timetable."""
    from airflow_mlops.core.zones import name_of

    mappers = [*(getattr(timetable, "partition_mapper_config", None) or {}).values()]
    mappers.append(getattr(timetable, "default_partition_mapper", None))
    found = set()
    while mappers:
        mapper = mappers.pop()
        if (own := getattr(mapper, "_timezone", None)) is not None:
            found.add(name_of(own))
        inner = (getattr(mapper, name, None) for name in ("upstream_mapper", "downstream_mapper"))
        mappers += [*(getattr(mapper, "mappers", None) or ()), *filter(None, inner)]
    return found


def _sent(context: Context) -> list[Window]:
    """Return the windows in the asset events that started the run."""
    from pydantic import ValidationError

    from airflow_mlops.core.windows import Window

    events = context.get("triggering_asset_events") or {}
    found = []
    for event in (event for asset in events if isinstance(asset, Asset) for event in events[asset]):
        extra = event.extra or {}
        dataset = extra.get("dataset")
        text = extra.get("window") or (dataset.get("window") if isinstance(dataset, Mapping) else None)
        if isinstance(text, str):
            try:
                found.append(Window.model_validate(text))
            except ValidationError:
                continue  # an event of another package
    return found


def _partitions(timetable: Any, start: datetime) -> tuple[dict[datetime, datetime], timedelta | None]:
    """Return the partition that begins at ``start``, and the shortest length of the next partitions.

    :return: a dict with the start and the end of the partition, which is empty if no partition begins at ``start``; and
        the shortest length, or ``None`` if it is unknown
    """
    starts = list(islice(dropwhile(lambda found: found < start, _starts(timetable, start)), _PARTITIONS))
    lengths = [after - before for before, after in pairwise(starts)]
    ends = {starts[0]: starts[1]} if len(starts) > 1 and starts[0] == start else {}
    return ends, min(lengths, default=None)


def _starts(timetable: Any, start: datetime) -> Iterator[datetime]:
    """Yield the starts of the partitions of a cron timetable, beginning shortly before ``start``."""
    if isinstance(timetable, CronPartitionTimetable):
        from airflow.timetables.trigger import CronPartitionTimetable as Scheduled

        # The class for DAG files describes a timetable. Only the scheduler's class computes the partitions.
        timetable = Scheduled(timetable.expression, timezone=timetable.timezone)
    if not hasattr(timetable, "iter_partition_dagrun_infos"):
        return
    zone = getattr(timetable, "_timezone", timezone.utc)
    # The search begins three hours early: the timetable reads the bounds as local times, and a local time occurs twice
    # when clocks are turned back.
    first = (start - timedelta(hours=3)).astimezone(zone)
    last = first.replace(year=min(first.year + 50, 9998), day=min(first.day, 28))
    try:
        for info in timetable.iter_partition_dagrun_infos(earliest=first, latest=last):
            if (found := _utc(info.partition_date)) is not None:
                yield found
    except NotImplementedError:
        return
