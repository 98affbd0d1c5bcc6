"""Earlier windows as the reference of drift: which ones, and what they looked like together.

Only windows before the one that is checked count, so that a check which comes late, or for the second time, compares
with what it would have been compared with in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from airflow_mlops.core.base import Model
from airflow_mlops.core.durations import subtract_period
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.drift.reference import Reference
from airflow_mlops.profiles.profile import Profile, merge


class WindowProfile(Model):
    """What the predictions of a window looked like when it was last checked.

    :param version: the version that made them
    :param profile: of its features, what is watched beside them, and the column ``score``
    """

    window: Window
    version: int
    profile: Profile


def choose(reference: Reference, window: Window, known: Iterable[Window]) -> list[Window]:
    """Which of the ``known`` windows ``window`` is compared with, by time; none where there is none yet.

    :raises SpecError: a season is shorter than the window, which would be compared with itself
    """
    if reference.season is not None:
        wanted = season(window, reference.season)
        return [item for item in known if item == wanted][:1]
    return last(reference.rolling or 0, window, known)


def season(window: Window, period: str) -> Window:
    """``window`` a period earlier.

    :raises SpecError: the two overlap
    """
    start, end = subtract_period(window.start, period), subtract_period(window.end, period)
    # A month before 30 March and before 31 March is the same day.
    found = Window(start=start, end=end if end > start else start + (window.end - window.start))
    if found.overlaps(window):
        raise SpecError(
            f"reference={{'season': {period!r}}} is shorter than the window {window.label}, which would be compared with "
            "a part of itself: give a longer one."
        )
    return found


def last(count: int, window: Window, known: Iterable[Window]) -> list[Window]:
    """The last ``count`` windows before ``window`` that do not overlap, by time."""
    found: list[Window] = []
    free = window.start
    for item in sorted(known, key=lambda item: (item.end, item.start), reverse=True):
        if len(found) < count and item.end <= free:
            found.append(item)
            free = item.start
    return found[::-1]


def together(windows: Sequence[WindowProfile], like: Profile, min_rows: int) -> Profile:
    """The columns of ``like`` as they were in all of ``windows`` that have them, of the same kind; without those that
    fewer than ``min_rows`` rows, or no value, speak for."""
    columns = {}
    for name, column in like.columns.items():
        known = [item.profile.columns[name] for item in windows if name in item.profile.columns]
        parts = [Profile(rows=item.rows, columns={name: item}) for item in known if item.kind == column.kind]
        if parts:
            merged = merge(parts).columns[name]
            if merged.rows >= min_rows and merged.valid:
                columns[name] = merged
    return Profile(rows=sum(item.profile.rows for item in windows), columns=columns)


def named(windows: Sequence[Window]) -> str:
    """``windows``, which are ordered by time, in a few words."""
    first, last = windows[0], windows[-1]
    return first.label if len(windows) == 1 else f"{first.label} to {last.label}"
