"""Earlier windows as the reference of drift: the choice of windows, and their combined profile.

Only windows before the checked one are chosen. A check that runs late or again therefore compares with the same windows
as a check that ran in time.
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
    """The profile of a window's predictions, stored by the last check of this window.

    :param version: the model version that made the predictions
    :param profile: a profile of the features, the watched columns and the column ``score``
    """

    window: Window
    version: int
    profile: Profile


def choose(reference: Reference, window: Window, known: Iterable[Window]) -> list[Window]:
    """Choose the windows among ``known`` with which ``window`` is compared, by time.

    :return: empty if there is none yet
    :raises SpecError: the season is shorter than the window, which would be compared with a part of itself
    """
    if reference.season is not None:
        wanted = seasonal(window, reference.season)
        return [item for item in known if item == wanted][:1]
    return rolling(reference.rolling or 0, window, known)


def seasonal(window: Window, period: str) -> Window:
    """The window a period before ``window``.

    :raises SpecError: the two overlap
    """
    start, end = subtract_period(window.start, period), subtract_period(window.end, period)
    # A month before 30 March and a month before 31 March are the same day.
    found = Window(start=start, end=end if end > start else start + (window.end - window.start))
    if found.overlaps(window):
        raise SpecError(
            f"reference={{'season': {period!r}}} is shorter than the window {window.label}, which would be compared with "
            "a part of itself: set a longer period."
        )
    return found


def rolling(count: int, window: Window, known: Iterable[Window]) -> list[Window]:
    """The last ``count`` windows before ``window`` that do not overlap each other, by time."""
    found: list[Window] = []
    free = window.start
    for item in sorted(known, key=lambda item: (item.end, item.start), reverse=True):
        if len(found) < count and item.end <= free:
            found.append(item)
            free = item.start
    return found[::-1]


def combined(windows: Sequence[WindowProfile], like: Profile, min_rows: int) -> Profile:
    """Merge the profiles of ``windows``, for the columns of ``like``.

    Only columns of the same kind are merged. Columns with fewer than ``min_rows`` rows in all, or without a value, are
    left out.
    """
    columns = {}
    for name, column in like.columns.items():
        known = [item.profile.columns[name] for item in windows if name in item.profile.columns]
        parts = [Profile(rows=item.rows, columns={name: item}) for item in known if item.kind == column.kind]
        if parts:
            merged = merge(parts).columns[name]
            if merged.rows >= min_rows and merged.valid:
                columns[name] = merged
    return Profile(rows=sum(item.profile.rows for item in windows), columns=columns)


def label(windows: Sequence[Window]) -> str:
    """The label of one or several windows, ordered by time: ``2013-01 to 2013-03``."""
    first, last = windows[0], windows[-1]
    return first.label if len(windows) == 1 else f"{first.label} to {last.label}"
