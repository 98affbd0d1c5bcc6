"""Spans of time as people write them in a DAG."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

_UNITS = {"W": "weeks", "D": "days", "H": "hours", "MIN": "minutes", "T": "minutes", "S": "seconds"}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*$")


def parse_duration(value: Any) -> Any:
    """Read ``14D``, ``6h``, ``30min``, ``2W`` or ``90s``; anything else is left to pydantic (ISO 8601, timedelta)."""
    found = _DURATION.match(value) if isinstance(value, str) else None
    unit = _UNITS.get(found[2].upper()) if found else None
    return timedelta(**{unit: float(found[1])}) if found and unit else value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("a span of time must be longer than nothing: write it as in 14D, 6h or 30min")
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_positive)]
