"""Monitoring's reports in the artifact store: ``reports/MODEL/WINDOW.json``, and the page beside each."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy.findings import Verdict


class Judgement(BaseModel):
    """What every report says, whichever version of this package wrote it.

    :param created: when the window was checked
    """

    model_config = ConfigDict(frozen=True)

    model: str
    window: Window
    created: UtcDatetime
    verdict: Verdict


def key(model: str, window: Window) -> str:
    """Where the report on ``model`` in ``window`` is."""
    return f"reports/{model}/{window.file_name}.json"


def page(key: str) -> str:
    """Where the page is that shows the report ``key``."""
    return f"{key.removesuffix('.json')}.html"


def keys(store: ArtifactStore, model: str) -> list[str]:
    """The reports on ``model``."""
    return [key for key in store.keys(f"reports/{model}") if key.endswith(".json")]


def newest(store: ArtifactStore, model: str) -> str | None:
    """The report on the latest window of ``model``, if there is any; known by the names alone."""
    ends = _ends(store, model)
    return max(ends, key=ends.__getitem__, default=None)


def after(store: ArtifactStore, model: str, window: Window) -> list[str]:
    """The reports on windows of ``model`` that end after ``window``; known by the names alone."""
    return [key for key, end in _ends(store, model).items() if end > window.end]


def _ends(store: ArtifactStore, model: str) -> dict[str, datetime]:
    """The reports on ``model``, and where the windows end that they are named after."""
    named = {key: Window.from_file_name(key.rpartition("/")[2].removesuffix(".json")) for key in keys(store, model)}
    return {key: window.end for key, window in named.items() if window is not None}


def read(store: ArtifactStore, key: str) -> Judgement | None:
    """What the report ``key`` says, or ``None`` where there is none.

    :raises StoreError: the store cannot be read, or what is there is no report
    """
    try:
        return Judgement.model_validate(store.read_json(key))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StoreError(f"{key} in the artifact store {store.url} is no report: {error.errors()[0]['msg']}.") from None
