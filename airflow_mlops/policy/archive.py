"""Find and read reports in the artifact store.

A report is stored as ``reports/MODEL/WINDOW.json``, next to an HTML page ``reports/MODEL/WINDOW.html``. The reports on
short windows are in subfolders, see :mod:`airflow_mlops.data.timeline`.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.timeline import Timeline, window_of
from airflow_mlops.policy.findings import Verdict

_END = datetime.max.replace(tzinfo=timezone.utc)


class ReportSummary(BaseModel):
    """The fields that a report has in every version of this package.

    :param model: name of the registered model
    :param window: the monitored window
    :param created: time at which the window was checked
    :param verdict: the verdict on the window
    """

    model_config = ConfigDict(frozen=True)

    model: str
    window: Window
    created: UtcDatetime
    verdict: Verdict


def timeline(store: ArtifactStore, model: str) -> Timeline:
    """Return the folder with the reports on ``model``."""
    return Timeline(store, f"reports/{model}")


def key(store: ArtifactStore, model: str, window: Window) -> str:
    """Return the store key of a new report on ``model`` in ``window``."""
    return timeline(store, model).key(window.file_name, window)


def existing(store: ArtifactStore, model: str, window: Window) -> str:
    """Return the store key of the report on ``model`` in ``window``.

    A report that an earlier version of the package wrote is found as well.
    """
    return timeline(store, model).existing(window.file_name, window)


def page(key: str) -> str:
    """Return the store key of the HTML page of a report.

    :param key: store key of the report
    """
    return f"{key.removesuffix('.json')}.html"


def all_info(store: ArtifactStore, model: str) -> dict[str, dict[str, Any]]:
    """Return the store keys of all reports on ``model``, each with metadata that changes if the report is replaced."""
    return timeline(store, model).find_info()


def newest(store: ArtifactStore, model: str) -> str | None:
    """Return the store key of the report on the latest window of ``model``; ``None`` without a report.

    Only the names of the files are read.
    """
    return timeline(store, model).latest()


def before(store: ArtifactStore, model: str, window: Window, count: int) -> list[str]:
    """Return the store keys of the last ``count`` reports on windows that start before ``window``, ordered by time.

    Only the names of the files are read.
    """
    return timeline(store, model).last(count, before=window)


def after(store: ArtifactStore, model: str, window: Window) -> list[str]:
    """Return the store keys of the reports on windows of ``model`` that end after ``window``.

    Only the names of the files are read.
    """
    if window.end >= _END:
        return []
    later = timeline(store, model).find(Window(start=window.end, end=_END))
    return [key for key in later if (found := window_of(key)) is not None and found.end > window.end]


def read(store: ArtifactStore, key: str) -> ReportSummary | None:
    """Read the summary of a report; ``None`` if there is no such report.

    :param key: store key of the report

    :raises StoreError: the store cannot be read, or the file is not a report
    """
    try:
        return ReportSummary.model_validate(store.read_json(key))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StoreError(
            f"The file {key} in the artifact store {store.url} is not a report ({error.errors()[0]['msg']}). "
            "Run MonitorOperator for the window of this report again to replace the file."
        ) from None
