"""Find the windows in which servers ran and logged no prediction, so that they can be recorded as empty windows.

A window without a dataset may also be a gap: no server ran, or the predictions of a server are not in the store yet. A
window is empty only if all of this holds:

- at each moment of the window, a server was ready to answer, apart from interruptions of up to ten minutes;
- each server that ran in the window, or that may still run, has uploaded all its predictions of the window;
- no server has lost predictions of the window.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from airflow_mlops.core.windows import Window, missing
from airflow_mlops.data.datasets.pointers import tombstones, window_keys
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.timeline import window_of
from airflow_mlops.serving.layout import online_folder, window_at
from airflow_mlops.serving.log.uptime import KEPT, MARGIN, PAUSE, Uptime, record_key, records

log = logging.getLogger(__name__)

# When a server starts, it logs why windows that ended within this time were not recorded.
_LOGGED = timedelta(days=1)


class Reason(NamedTuple):
    """Why a window is not recorded as empty.

    :param text: the reason, as a sentence
    :param final: whether the reason can no longer change
    """

    text: str
    final: bool


class QuietWindows:
    """Finds the empty windows of the champion's log. Windows that were examined with a final result are not examined again.

    :param store: the artifact store
    :param model: name of the registered model
    :param name: name of the datasets of predictions
    :param length: length of the windows, ``hour`` or ``day``
    """

    def __init__(self, store: ArtifactStore, model: str, name: str, length: str) -> None:
        self._store, self._model, self._name, self._length = store, model, name, length
        # All windows that end by this time were examined with a final result.
        self._examined: datetime | None = None
        self._logged: set[tuple[Window, str]] = set()
        self._began: datetime | None = None

    def find(self, now: datetime) -> list[Window]:
        """Return the empty windows that have neither a dataset nor files.

        :param now: current time; windows that ended less than a minute ago are not examined
        :raises StoreError: the store cannot be used
        """
        end = window_at((now - MARGIN).timestamp(), self._length).start
        if self._examined is not None and end <= self._examined:
            return []
        servers = self._servers(now)
        if not servers:
            return []
        start = max(min(item.since for item in servers.values()), now - KEPT)
        span = [start, *([self._examined] if self._examined is not None else [])]
        window = window_at(max(span).timestamp(), self._length)
        found: list[Window] = []
        pending = None
        taken = self._taken(Window(start=window.start, end=end)) if window.end <= end else []
        while window.end <= end:
            if not any(window.overlaps(item) for item in taken):
                reason = why_not(window, servers, self._model)
                if reason is None:
                    found.append(window)
                else:
                    self._log(window, reason, now)
                    pending = pending or (None if reason.final else window.start)
            window = window_at(window.end.timestamp(), self._length)
        self._examined = pending or end
        return found

    def _servers(self, now: datetime) -> dict[str, Uptime]:
        """Read the records of the servers, and delete records that are not needed any more."""
        found = records(self._store, self._model)
        for name, record in list(found.items()):
            if record.ended and record.last < now - KEPT:
                self._store.delete(record_key(self._model, name))
                del found[name]
        return found

    def _taken(self, span: Window) -> list[Window]:
        """Return the windows with datasets or files, and the windows whose dataset a person has withdrawn."""
        datasets = map(window_of, window_keys(self._store, self._name, span))
        files = {key.split("/")[-2] for key in self._store.find(online_folder(self._model))}
        withdrawn = [
            Window.model_validate(item["window"]) for item in tombstones(self._store, self._name) if item["window"]
        ]
        return [item for item in (*datasets, *map(Window.from_file_name, files), *withdrawn) if item is not None]

    def _log(self, window: Window, reason: Reason, now: datetime) -> None:
        """Log a reason once, if it does not disappear within minutes and no earlier server has logged it."""
        self._began = self._began or now
        is_new = window.end >= self._began - _LOGGED if reason.final else window.end < now - PAUSE
        if is_new and (window, reason.text) not in self._logged:
            self._logged.add((window, reason.text))
            log.warning(
                "%s has no predictions and is not recorded as a window without requests: %s", window.label, reason.text
            )


def why_not(window: Window, servers: Mapping[str, Uptime], model: str) -> Reason | None:
    """Return why a window without predictions is not empty, or ``None`` if it is.

    :param window: the window, which has ended
    :param servers: the records of all servers, by name
    :param model: name of the registered model
    """
    involved = {name: item for name, item in servers.items() if item.since < window.end}
    for name, item in involved.items():
        if not item.ended and item.until < window.end:
            return Reason(
                f"The server {item.where} has not uploaded all its predictions. Start a server with this spool, or, if the "
                f"spool is lost, run: airflow mlops servers {model} --lost {name}",
                final=False,
            )
    if any(window.file_name in item.incomplete for item in involved.values()):
        return Reason("A server was killed or paused, or could not log all predictions.", final=True)
    running = [Window(start=item.since, end=item.until) for item in involved.values() if item.since < item.until]
    if gaps := [gap for gap in missing(window, running) if gap.end - gap.start > PAUSE]:
        return Reason(f"No server was ready in {', '.join(gap.label for gap in gaps)}.", final=True)
    return None
