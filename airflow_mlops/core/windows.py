"""Time windows, their text forms, and the names of their files in the artifact store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from pydantic import AfterValidator, model_serializer, model_validator

from airflow_mlops.core.base import Model

_YEAR, _MONTH = re.compile(r"^\d{4}$"), re.compile(r"^\d{4}-\d{2}$")
_DAY, _HOUR = re.compile(r"^\d{4}-\d{2}-\d{2}$"), re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}$")
_KEY_TIME = "%Y%m%dT%H%M%SZ"
_UNSAFE_IN_FILE_NAMES = re.compile(r"[^\w.-]")


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


UtcDatetime = Annotated[datetime, AfterValidator(_utc)]
"""A datetime that is converted to UTC. A value without a time zone is read as UTC."""


class Window(Model):
    """A half-open time interval ``[start, end)`` in UTC.

    A window can be written in the same forms as an Airflow partition key:

    - ``2013``, ``2013-04``, ``2013-04-01`` or ``2013-04-01T06``: a year, month, day or hour;
    - ``FIRST..LAST``: two of these periods, both included, so ``2013-01..2013-04`` is four months;
    - ``START/END``: two ISO 8601 instants; ``START`` is included and ``END`` is not. A year, month, day or hour stands
      for its beginning.
    """

    start: UtcDatetime
    end: UtcDatetime

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return _parse_window(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.end <= self.start:
            raise ValueError(f"Window {self} is empty. Write an end that is later than the start.")
        return self

    @model_serializer
    def _to_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{_iso(self.start)}/{_iso(self.end)}"

    @property
    def label(self) -> str:
        """Return the shortest text form, for messages and reports, such as ``2013-04`` for a calendar month."""
        start, end = self.start, self.end
        for text in (f"{start:%Y}", f"{start:%Y-%m}", f"{start:%Y-%m-%d}", f"{start:%Y-%m-%dT%H}"):
            if _parse_window(text) == {"start": start, "end": end}:
                return text
        return str(self)

    @property
    def key(self) -> str:
        """Return a name with start and end to the second, which is safe in paths and sorts by time."""
        return f"{self.start:{_KEY_TIME}}-{self.end:{_KEY_TIME}}"

    @property
    def file_name(self) -> str:
        """Return a readable file name: :attr:`label` if it is safe in paths, otherwise :attr:`key`."""
        return self.key if _UNSAFE_IN_FILE_NAMES.search(self.label) else self.label

    @classmethod
    def from_file_name(cls, name: str) -> Window | None:
        """Parse :attr:`file_name` back into a window, to the second. Return ``None`` for any other ``name``."""
        try:
            if name.endswith("Z"):
                start, end = (
                    datetime.strptime(text, _KEY_TIME).replace(tzinfo=timezone.utc) for text in name.split("-")
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

    def split(self, chunk: timedelta) -> Iterator[Window]:
        """Divide this window into consecutive windows of length ``chunk``, of which the last may be shorter."""
        start = self.start
        while start < self.end:
            end = min(start + chunk, self.end)
            yield Window(start=start, end=end)
            start = end


def _iso(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


def _parse_window(text: str) -> dict[str, datetime]:
    text = text.strip()
    if ".." in text:
        first, _, last = text.partition("..")
        return {"start": _parse_window(first)["start"], "end": _parse_window(last)["end"]}
    if "/" in text:
        first, _, last = text.partition("/")
        return {"start": _instant(first), "end": _instant(last)}
    start = _instant(text)
    if _YEAR.match(text):
        return {"start": start, "end": start.replace(year=start.year + 1)}
    if _MONTH.match(text):
        return {"start": start, "end": (start.replace(day=1) + timedelta(days=32)).replace(day=1)}
    if _DAY.match(text):
        return {"start": start, "end": start + timedelta(days=1)}
    if _HOUR.match(text):
        return {"start": start, "end": start + timedelta(hours=1)}
    raise ValueError(
        f"{text!r} is not a time window. Write a year (2013), month (2013-04), day (2013-04-01) or hour "
        "(2013-04-01T06), a range that includes both ends (2013-01..2013-04), or two instants of which the second is "
        "not included (2013-01-01T00:00Z/2013-02-01T00:00Z)."
    )


def _instant(text: str) -> datetime:
    text = text.strip()
    try:
        if _YEAR.match(text):
            return datetime(int(text), 1, 1, tzinfo=timezone.utc)
        if _MONTH.match(text):
            return datetime(int(text[:4]), int(text[5:]), 1, tzinfo=timezone.utc)
        if _HOUR.match(text):
            text = f"{text}:00"
        return _utc(datetime.fromisoformat(text.replace("Z", "+00:00")))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a point in time. Write it in ISO 8601, for example 2013-04-01T00:00:00Z."
        ) from error
