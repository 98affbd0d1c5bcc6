"""Windows as names of files: ``2013-04`` where a window has such a name, and its two instants where it has not."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from airflow_mlops.specs.base import Window

_TIME = "%Y%m%dT%H%M%SZ"


def file_name(window: Window) -> str:
    """The name of ``window``, safe in paths."""
    return window.key if re.search(r"[^\w.-]", window.label) else window.label


def window_named(name: str) -> Window | None:
    """The window that a file is named after, to the second; ``None`` if it is not named after one."""
    try:
        if name.endswith("Z"):
            start, end = (datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc) for text in name.split("-"))
            return Window(start=start, end=end)
        return Window.model_validate(name)
    except ValueError:
        return None
