"""Time windows, and the names of their files in the artifact store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, model_serializer, model_validator

from airflow_mlops.core import window_text
from airflow_mlops.core.base import Model
from airflow_mlops.core.moments import parse
from airflow_mlops.core.window_text import UTC_CALENDAR, Calendar
from airflow_mlops.core.zones import UTC, local, zone

_KEY_TIME, _EXACT_KEY_TIME = "%Y%m%dT%H%M%SZ", "%Y%m%dT%H%M%S_%fZ"
# Periods whose file name is their text. The names of other windows have both ends.
_NAMED_PERIOD = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d)?)?)?")


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


def _from_text(value: Any) -> Any:
    # pydantic would read "20240305" and the number 20240305 as seconds since 1970.
    if isinstance(value, int | float):
        raise ValueError(f"{value!r} is a number and not a point in time. Write text, such as '2024-03-05T06:30:00Z'.")
    return parse(value) if isinstance(value, str) else value


UtcDatetime = Annotated[datetime, BeforeValidator(_from_text), AfterValidator(_utc)]
"""A datetime that is converted to UTC. Text is ISO 8601. A value without a time zone is read as UTC."""


def _calendar(info: ValidationInfo) -> Calendar:
    found = (info.context or {}).get("calendar", UTC_CALENDAR)
    assert isinstance(found, Calendar)
    return found


def _moment(value: Any, info: ValidationInfo) -> Any:
    calendar = _calendar(info)
    return window_text.parse_moment(value, calendar) if isinstance(value, str) else value


Moment = Annotated[UtcDatetime, BeforeValidator(_moment)]
"""A point in time, such as ``2013-04-01T06:00Z``. A calendar period, such as ``2013-04``, stands for its start."""


class Window(Model):
    """A half-open time interval ``[start, end)`` with a time zone.

    A window can be written in the same forms as an Airflow partition key:

    - ``2013``, ``2013-Q2``, ``2013-04``, ``2013-W14``, ``2013-04-01`` or ``2013-04-01T06``: a year, quarter, month, ISO
      week, day or hour;
    - ``FIRST..LAST``: two of these periods, both included, so ``2013-01..2013-04`` is four months;
    - ``START/END``: two ISO 8601 instants; ``START`` is included and ``END`` is not. A period stands for its first
      instant;
    - ``START/LENGTH``: an instant and an ISO 8601 period, such as ``2013-04-01T06:00Z/P7D``.

    ``[Europe/Berlin]`` at the end names the time zone of a text without offsets. The default is UTC or, in a task, the
    time zone of the DAG's timetable.

    Two windows are equal if they have the same start and end. Their time zones may differ.

    :param start: first instant, in UTC
    :param end: first instant after the window, in UTC
    :param zone: IANA name or offset of the time zone in which days and months are counted
    """

    start: UtcDatetime
    end: UtcDatetime
    zone: str = UTC

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            return window_text.parse(value, _calendar(info))._asdict()
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        zone(self.zone)
        if self.end <= self.start:
            raise ValueError(f"Window {self} is empty. Write an end that is later than the start.")
        return self

    @model_serializer
    def _to_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{_iso(self.start)}/{_iso(self.end)}{self._suffix}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Window) and (self.start, self.end) == (other.start, other.end)

    def __hash__(self) -> int:
        return hash((self.start, self.end))

    @property
    def _suffix(self) -> str:
        return "" if self.zone == UTC else f"[{self.zone}]"

    @property
    def label(self) -> str:
        """Return the shortest text form, for messages and reports, such as ``2013-04`` for a calendar month."""
        short = window_text.label(self.start, self.end, self.zone)
        return str(self) if short is None else f"{short}{self._suffix}"

    @property
    def short_label(self) -> str:
        """Return a text of at most 10 characters for a chart's axis.

        For a calendar period, the text is :attr:`label` without the time zone, cut to 10 characters. For any other
        window, it is the first day.
        """
        short = window_text.label(self.start, self.end, self.zone)
        return (short or local(self.start, self.zone).isoformat())[:10]

    @property
    def key(self) -> str:
        """Return a name with start and end. The name is safe in paths, and names sort by time."""
        return f"{_key(self.start)}-{_key(self.end)}"

    @property
    def identity(self) -> str:
        """Return the text that identifies the window in ids and file names.

        A year, month, day or hour in UTC is written as such, for example ``2013-04``. Any other window is written as
        start and end in UTC. The text does not depend on the window's time zone, and is the same in every version of
        this package.
        """
        short = window_text.label(self.start, self.end, UTC)
        named = short is not None and _NAMED_PERIOD.fullmatch(short)
        return str(short) if named else f"{_iso(self.start)}/{_iso(self.end)}"

    @property
    def file_name(self) -> str:
        """Return a readable file name: :attr:`identity` if it is safe in paths, otherwise :attr:`key`."""
        return self.key if "/" in self.identity else self.identity

    @classmethod
    def from_file_name(cls, name: str) -> Window | None:
        """Return the window with a given :attr:`file_name`, or ``None`` if ``name`` names no window.

        Earlier versions of this package wrote whole seconds in names. Such names are read as well.
        """
        try:
            if name.endswith("Z"):
                start, end = (
                    datetime.strptime(text, _EXACT_KEY_TIME if "_" in text else _KEY_TIME).replace(tzinfo=timezone.utc)
                    for text in name.split("-")
                )
                return cls(start=start, end=end)
            return cls.model_validate(name)
        except ValueError:
            return None

    def contains(self, other: Window) -> bool:
        """Return whether ``other`` lies completely inside this window."""
        return self.start <= other.start and other.end <= self.end

    def overlaps(self, other: Window) -> bool:
        """Return whether the two windows have an instant in common."""
        return self.start < other.end and other.start < self.end

    def clip(self, other: Window) -> Window:
        """Return the part of this window that lies in ``other``. The two windows must overlap."""
        return Window(start=max(self.start, other.start), end=min(self.end, other.end), zone=self.zone)

    def split(self, chunk: timedelta) -> Iterator[Window]:
        """Divide this window into consecutive windows of length ``chunk``. The last window may be shorter."""
        start = self.start
        while start < self.end:
            end = min(start + chunk, self.end)
            yield Window(start=start, end=end, zone=self.zone)
            start = end


def missing(wanted: Window, windows: Sequence[Window]) -> list[Window]:
    """Return the parts of ``wanted`` that ``windows`` do not cover, in order of time.

    The parts have the time zone of ``wanted``.
    """
    found, covered = [], wanted.start
    for window in sorted(windows, key=lambda item: item.start):
        if window.start > covered and covered < wanted.end:
            found.append(Window(start=covered, end=min(window.start, wanted.end), zone=wanted.zone))
        covered = max(covered, window.end)
    if covered < wanted.end:
        found.append(Window(start=covered, end=wanted.end, zone=wanted.zone))
    return found


def _key(value: datetime) -> str:
    # strftime does not pad years before 1000.
    fraction = f"_{value:%f}" if value.microsecond else ""
    return f"{value.year:04}{value:%m%dT%H%M%S}{fraction}Z"


def _iso(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")
