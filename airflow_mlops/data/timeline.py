"""Small files that are named by time windows, stored so that few requests find the files of a given time.

Listing a folder of an object store takes one request for each 1,000 files. Therefore the files of short windows are in
subfolders, each of which has the files of one period::

    FOLDER/2013-04.json                          a window of more than eight days
    FOLDER/days/2013/2013-04-01.json             of at most eight days
    FOLDER/hours/2013-04/2013-04-01T06.json      of at most six hours
    FOLDER/minutes/2013-04-01/....json           of at most a quarter of an hour

Earlier versions of this package wrote all files into FOLDER itself. Files are found there as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any

from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore

_SECOND = timedelta(seconds=1)
_FIRST = datetime.min.replace(tzinfo=timezone.utc)
# If more periods than this are needed, all periods of the level are listed together.
_FEW_PERIODS = 8


@dataclass(frozen=True)
class _Level:
    """A subfolder for windows of similar length.

    :param name: name of the subfolder
    :param longest: length of the longest window
    :param digits: number of characters in the name of a period's folder. The name is the beginning of the window's start in
        ISO 8601, such as ``2013-04``
    """

    name: str
    longest: timedelta
    digits: int

    def period(self, window: Window) -> str:
        """Return the name of the period in which a window begins."""
        return window.start.isoformat()[: self.digits]

    def first_period(self, window: Window) -> str:
        """Return the name of the first period whose windows may overlap ``window``."""
        earliest = _FIRST + self.longest + _SECOND
        return (max(window.start, earliest) - self.longest - _SECOND).isoformat()[: self.digits]


_LEVELS = {
    level.name: level
    for level in (
        _Level("minutes", timedelta(minutes=15), len("2013-04-01")),
        _Level("hours", timedelta(hours=6), len("2013-04")),
        _Level("days", timedelta(days=8), len("2013")),
    )
}


class Timeline:
    """The files of a folder whose names begin with a window.

    A file name begins with :attr:`~airflow_mlops.core.windows.Window.key` or
    :attr:`~airflow_mlops.core.windows.Window.file_name` of the window. A hyphen and more text may follow.

    :param store: artifact store with the folder
    :param folder: key of the folder
    :param suffix: end of the file names. Other files are ignored
    """

    def __init__(self, store: ArtifactStore, folder: str, suffix: str = ".json") -> None:
        self.store = store
        self.folder = folder
        self.suffix = suffix

    def key(self, name: str, window: Window | None) -> str:
        """Return the key of a file.

        :param name: name of the file without suffix
        :param window: the window with which the name begins; ``None`` for the name of a file without a window
        """
        level = _level(window) if window is not None else None
        folder = f"{self.folder}/{level.name}/{level.period(window)}" if level and window else self.folder
        return f"{folder}/{name}{self.suffix}"

    def existing(self, name: str, window: Window | None) -> str:
        """Return the key under which a file can be read, even if an earlier version of this package wrote it.

        :param name: name of the file without suffix
        :param window: the window with which the name begins; ``None`` for the name of a file without a window
        :return: the key in the folder itself, where earlier versions wrote the file, if it exists only there; otherwise
            the result of :meth:`key`
        """
        key = self.key(name, window)
        earlier = f"{self.folder}/{name}{self.suffix}"
        return earlier if key != earlier and not self.store.exists(key) and self.store.exists(earlier) else key

    def read_bytes(self, name: str, window: Window | None) -> bytes:
        """Read a file, even from the folder in which an earlier version of this package wrote it.

        :raises FileNotFoundError: there is no such file
        """
        key, earlier = self.key(name, window), f"{self.folder}/{name}{self.suffix}"
        try:
            return self.store.read_bytes(key)
        except FileNotFoundError:
            if key == earlier:
                raise
            return self.store.read_bytes(earlier)

    def delete(self, key: str) -> None:
        """Delete a file, even from the folder in which an earlier version of this package wrote it.

        :param key: key of the file, from any method of this class
        """
        # The file at the earlier location is deleted first. Otherwise, it would be found after a crash.
        if (earlier := f"{self.folder}/{_name(key)}") != key:
            self.store.delete(earlier)
        self.store.delete(key)

    def find(self, within: Window | None = None) -> list[str]:
        """List the keys of the files, ordered by their names and therefore by time.

        :param within: time window. Only files whose window may overlap it are listed, see :func:`may_overlap`
        :raises StoreError: the store cannot be read
        """
        if within is None:
            return self._sorted(self.store.find(self.folder))
        found = self.store.keys(self.folder)
        for level in _levels_of(found):
            folder = f"{self.folder}/{level.name}"
            first, last = f"{folder}/{level.first_period(within)}", f"{folder}/{within.end.isoformat()[: level.digits]}"
            periods = [first] if first == last else self.store.keys(folder)
            found += self._files(folder, [period for period in periods if first <= period <= last])
        return [key for key in self._sorted(found) if may_overlap(key, within)]

    def find_info(self) -> dict[str, dict[str, Any]]:
        """List the keys of all files, ordered by their names, each with the filesystem's metadata of the file.

        :raises StoreError: the store cannot be read
        """
        found = self.store.find_info(self.folder)
        return {key: found[key] for key in self._sorted(found)}

    def _files(self, folder: str, periods: list[str]) -> list[str]:
        """List the files of several periods of one level."""
        if len(periods) > _FEW_PERIODS:
            return self.store.find(folder)
        return [key for period in periods for key in self.store.keys(period)]

    def last(self, count: int, before: Window | None = None) -> list[str]:
        """List the keys of the files of the last windows, ordered by the start of the window.

        :param count: largest number of files
        :param before: time window. Only files of windows that start earlier are listed
        :raises StoreError: the store cannot be read
        """
        top = self.store.keys(self.folder)
        found = self._dated(top, before)
        for level in _levels_of(top):
            of_level: list[tuple[Window, str]] = []
            for dated in self._by_period(level, before):
                of_level += dated
                if len(of_level) >= count:
                    break
            found += of_level
        chosen = dict(sorted(found, key=lambda item: (item[0].start, item[0].end)))
        return list(chosen.values())[-count:]

    def recent(self, count: int, before: Window) -> tuple[dict[Window, str], datetime | None]:
        """Find the last windows of each length that start before a window.

        :param count: number of files to find in the subfolder of each length. Fewer files are found if the subfolder
            does not contain that many. More files may be found, because whole periods are listed
        :param before: time window. Only files of windows that start earlier are found
        :return: the keys of the found files by window, and a time. All windows that start before ``before`` and end
            after this time were found. The time is ``None`` if all windows that start before ``before`` were found
        :raises StoreError: the store cannot be read
        """
        top = self.store.keys(self.folder)
        found = self._dated(top, before)
        ends: list[datetime] = []
        for level in _levels_of(top):
            of_level: list[tuple[Window, str]] = []
            for dated in self._by_period(level, before):
                of_level += dated
                if len(of_level) >= count:
                    ends.append(min(window.start for window, _ in of_level) + level.longest)
                    break
            found += of_level
        return dict(found), max(ends, default=None)

    def latest(self) -> str | None:
        """Return the key of the file whose window ends last; ``None`` if there is no file.

        :raises StoreError: the store cannot be read
        """
        top = self.store.keys(self.folder)
        found = self._dated(top)
        for level in _levels_of(top):
            # A period is longer than the longest window of its level. Therefore the window that ends last begins in one
            # of the last two periods with files.
            for dated in islice(filter(None, self._by_period(level)), 2):
                found += dated
        # If two files have the same window, the second file is in a subfolder and therefore newer.
        ends = {key: window.end for window, key in dict(found).items()}
        return max(ends, key=ends.__getitem__, default=None)

    def _by_period(self, level: _Level, before: Window | None = None) -> Iterator[list[tuple[Window, str]]]:
        """Yield the files of each period of a level, the last period first, each file with its window."""
        for period in reversed(self.store.keys(f"{self.folder}/{level.name}")):
            if before is None or _name(period) <= level.period(before):
                yield self._dated(self.store.keys(period), before)

    def _dated(self, keys: Iterable[str], before: Window | None = None) -> list[tuple[Window, str]]:
        """Return the files with a window in their name, each with its window."""
        dated = [(window_of(key), key) for key in keys if key.endswith(self.suffix)]
        return [(window, key) for window, key in dated if window and (before is None or window.start < before.start)]

    def _sorted(self, keys: Iterable[str]) -> list[str]:
        return self._newest_places(sorted((key for key in keys if key.endswith(self.suffix)), key=_name))

    def _newest_places(self, keys: Iterable[str]) -> list[str]:
        """Return ``keys`` without outdated and hidden files.

        A file in FOLDER is outdated if a subfolder contains a file with the same name.
        """
        places: dict[str, str] = {}
        for key in keys:
            if not _name(key).startswith(".") and len(key) > len(places.get(_name(key), "")):
                places[_name(key)] = key
        return list(places.values())


def window_of(key: str) -> Window | None:
    """Return the window with which the name of a file begins; ``None`` if there is none.

    The names of files of earlier versions of this package are exact to the second only.

    :param key: key of the file
    """
    stem = _name(key).partition(".")[0]
    start = "-".join(stem.split("-")[:2])
    return Window.from_file_name(stem) or (Window.from_file_name(start) if start.endswith("Z") else None)


def may_overlap(key: str, within: Window) -> bool:
    """Return whether the window in the name of a file may overlap ``within``.

    Earlier versions of this package rounded the times in names down to seconds. Therefore every window is treated as up
    to one second longer. The result is also ``True`` if the name does not begin with a window.

    :param key: key of the file
    """
    found = window_of(key)
    return found is None or (found.start < within.end and within.start - found.end < _SECOND)


def _level(window: Window) -> _Level | None:
    length = window.end - window.start
    return next((level for level in _LEVELS.values() if length <= level.longest), None)


def _levels_of(keys: Iterable[str]) -> list[_Level]:
    """Return the levels that have a subfolder in a listing."""
    return [_LEVELS[_name(key)] for key in keys if _name(key) in _LEVELS]


def _name(key: str) -> str:
    return key.rpartition("/")[2]
