"""Find and read reports in the artifact store.

A report is stored as ``reports/MODEL/WINDOW.json``, next to an HTML page ``reports/MODEL/WINDOW.html``.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy.findings import Verdict


class ReportSummary(BaseModel):
    """The fields that a report has in every version of this package.

    :param created: when the window was checked
    """

    model_config = ConfigDict(frozen=True)

    model: str
    window: Window
    created: UtcDatetime
    verdict: Verdict


def key(model: str, window: Window) -> str:
    """Return the store key of the report on ``model`` in ``window``."""
    return f"reports/{model}/{window.file_name}.json"


def page(key: str) -> str:
    """Return the store key of the HTML page of a report.

    :param key: store key of the report
    """
    return f"{key.removesuffix('.json')}.html"


def keys(store: ArtifactStore, model: str) -> list[str]:
    """Return the store keys of all reports on ``model``."""
    return [key for key in store.keys(f"reports/{model}") if key.endswith(".json")]


def newest(store: ArtifactStore, model: str) -> str | None:
    """Return the store key of the report on the latest window of ``model``; ``None`` without a report.

    Only the names of the files are read.
    """
    ends = _ends(store, model)
    return max(ends, key=ends.__getitem__, default=None)


def after(store: ArtifactStore, model: str, window: Window) -> list[str]:
    """Return the store keys of the reports on windows of ``model`` that end after ``window``.

    Only the names of the files are read.
    """
    return [key for key, end in _ends(store, model).items() if end > window.end]


def _ends(store: ArtifactStore, model: str) -> dict[str, datetime]:
    """Return the end of the window of each report, by store key."""
    named = {key: Window.from_file_name(key.rpartition("/")[2].removesuffix(".json")) for key in keys(store, model)}
    return {key: window.end for key, window in named.items() if window is not None}


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
