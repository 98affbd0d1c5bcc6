"""Choose earlier windows as the reference for drift, and combine the profiles of these windows.

Only windows that end before the checked window begins are chosen. A check that runs late, or is repeated, therefore
uses the same earlier windows as a check that runs on time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from airflow_mlops.core.base import Model
from airflow_mlops.core.durations import subtract_period
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.core.zones import instant, local
from airflow_mlops.drift.reference import Reference
from airflow_mlops.profiles.profile import Profile, merge


class WindowProfile(Model):
    """The profile of the predictions in a window. The last drift check of this window stored the profile.

    :param version: the model version that made the predictions
    :param profile: profiles of the features, the watched columns and the column ``score``
    """

    window: Window
    version: int
    profile: Profile


def choose(reference: Reference, window: Window, known: Iterable[Window]) -> list[Window]:
    """Choose the windows with which ``window`` is compared.

    :param reference: which earlier windows to use: the last windows (``rolling``), or the window one period earlier
        (``season``)
    :param window: the checked window
    :param known: windows that were checked before
    :return: the chosen windows, ordered by time; empty if none of ``known`` can be used
    :raises SpecError: ``reference.season`` is shorter than the window, so the window would be compared with itself
    """
    if reference.season is not None:
        wanted = seasonal(window, reference.season)
        return [item for item in known if item == wanted][:1]
    return rolling(reference.rolling or 0, window, known)


def seasonal(window: Window, period: str) -> Window:
    """Return the window that lies ``period`` before ``window``.

    :param period: an ISO 8601 period, such as ``P1Y``
    :raises SpecError: the two windows overlap
    """
    start, end = (_earlier(moment, period, window.zone) for moment in (window.start, window.end))
    # One month before 30 March and one month before 31 March are the same day. A window between these days would become
    # empty, so its length is kept instead.
    found = Window(start=start, end=end if end > start else start + (window.end - window.start), zone=window.zone)
    if found.overlaps(window):
        raise SpecError(
            f"The reference {{'season': {period!r}}} is shorter than the window {window.label}, so the window would be "
            "compared with itself. Set a longer period in reference=."
        )
    return found


def _earlier(moment: datetime, period: str, name: str) -> datetime:
    # Calendar periods are subtracted in local time, because a day may have 23 or 25 hours.
    return instant(subtract_period(local(moment, name), period), name)


def rolling(count: int, window: Window, known: Iterable[Window]) -> list[Window]:
    """Return the last ``count`` windows before ``window`` that do not overlap each other, ordered by time.

    :param count: largest number of windows to return
    :param known: windows that were checked before, in any order
    """
    found: list[Window] = []
    free = window.start
    for item in sorted(known, key=lambda item: (item.end, item.start), reverse=True):
        if len(found) < count and item.end <= free:
            found.append(item)
            free = item.start
    return found[::-1]


def combined(windows: Sequence[WindowProfile], like: Profile, min_rows: int) -> Profile:
    """Merge the profiles of ``windows`` into one profile with the columns of ``like``.

    :param windows: the profiles of the earlier windows
    :param like: profile of the checked window. A column is merged from the earlier windows in which it has the same
        kind (numeric, categorical, ...) as in this profile
    :param min_rows: smallest number of rows of a column, summed over the windows. Columns with fewer rows, and columns
        with only null values, are left out
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
    """Return the label of one or several windows, for example ``2013-01 to 2013-03``.

    :param windows: at least one window, ordered by time
    """
    first, last = windows[0], windows[-1]
    return first.label if len(windows) == 1 else f"{first.label} to {last.label}"
