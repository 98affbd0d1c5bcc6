"""Functions that find time zones by name, and convert between local times and instants."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

UTC = "UTC"
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)?")


def zone(name: str) -> tzinfo:
    """Return the time zone with an IANA name, such as ``Europe/Berlin``, or with a fixed offset, such as ``+02:00``.

    :raises ValueError: there is no such time zone
    """
    if name in (UTC, "Z"):
        return timezone.utc
    if found := _OFFSET.fullmatch(name):
        offset = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
        return timezone(-offset if found[1] == "-" else offset)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"{name!r} is not a time zone. Write a name of the IANA database, such as Europe/Berlin, or an offset such as "
            "+02:00."
        ) from error


def name_of(found: tzinfo | str | None) -> str:
    """Return the name with which :func:`zone` finds a time zone of :mod:`zoneinfo`, pendulum or :mod:`datetime`."""
    if found is None or isinstance(found, str):
        return found or UTC
    name = str(getattr(found, "key", None) or getattr(found, "name", None) or found)
    # Python's fixed offsets are called UTC+02:00.
    return UTC if name in (UTC, "Etc/UTC", "UTC+00:00", "+00:00", "Z") else name.removeprefix(UTC)


def instant(time: datetime, name: str) -> datetime:
    """Convert a local time in the zone ``name`` to UTC.

    When clocks are turned back, some local times occur twice. The first of the two instants is returned. When clocks
    are turned forward, some local times do not occur. They are read with the offset before the change. Therefore the
    start of a day is always its first instant.

    :param time: local time, as a ``datetime`` without a time zone
    :param name: name or offset of the time zone
    :raises ValueError: the instant lies before year 1 or after year 9999 in UTC
    """
    try:
        return time.replace(tzinfo=zone(name)).astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError(f"{time} in the time zone {name} is outside the years 1 to 9999 in UTC.") from error


def local(moment: datetime, name: str) -> datetime:
    """Convert an instant to local time in the zone ``name``, as a ``datetime`` without a time zone.

    Equal local times on two days differ by a whole number of days, even if the clocks change in between.
    """
    return moment.astimezone(zone(name)).replace(tzinfo=None)


def is_unique(time: datetime, name: str) -> bool:
    """Return whether a local time occurs exactly once in the zone. Clock changes skip or repeat some local times."""
    found = zone(name)
    return time.replace(tzinfo=found, fold=0).utcoffset() == time.replace(tzinfo=found, fold=1).utcoffset()
