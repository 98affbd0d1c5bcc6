"""Names of the folders for the files of one join, and which of them a killed task has left behind."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone
from uuid import uuid4

PREFIX, _STAMP = "mlops_events_", "%Y%m%dT%H%M%S"
_ABANDONED = timedelta(days=7)


def new_name() -> str:
    """Return a unique name of a folder, with the present time."""
    return f"{PREFIX}{datetime.now(timezone.utc).strftime(_STAMP)}_{uuid4().hex}"


def is_abandoned(path: str) -> bool:
    """Return whether a folder was made for a join more than a week ago."""
    stamp = path.rstrip("/").rpartition("/")[2].removeprefix(PREFIX).partition("_")[0]
    with suppress(ValueError):
        made = datetime.strptime(stamp, _STAMP).replace(tzinfo=timezone.utc)
        return made < datetime.now(timezone.utc) - _ABANDONED
    return False
