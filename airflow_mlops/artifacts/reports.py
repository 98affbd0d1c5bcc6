"""Monitoring's reports in the artifact store: ``reports/MODEL/WINDOW.json``, and the page beside each."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_mlops.artifacts.store import ArtifactStore
from airflow_mlops.exceptions import StoreError
from airflow_mlops.specs.base import UtcDatetime, Window
from airflow_mlops.specs.monitor import Verdict

_KEY_TIME = "%Y%m%dT%H%M%SZ"


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
    name = window.label
    if re.search(r"[^\w.-]", name):
        name = window.key
    return f"reports/{model}/{name}.json"


def page(key: str) -> str:
    """Where the page is that shows the report ``key``."""
    return f"{key.removesuffix('.json')}.html"


def keys(store: ArtifactStore, model: str) -> list[str]:
    """The reports on ``model``."""
    return [key for key in store.keys(f"reports/{model}") if key.endswith(".json")]


def newest(store: ArtifactStore, model: str) -> str | None:
    """The report on the latest window of ``model``, if there is any; known by the names alone."""
    ends = {key: end for key in keys(store, model) if (end := _end(key)) is not None}
    return max(ends, key=ends.__getitem__, default=None)


def after(store: ArtifactStore, model: str, window: Window) -> list[str]:
    """The reports on windows of ``model`` that end after ``window``; known by the names alone."""
    return [key for key in keys(store, model) if (end := _end(key)) is not None and end > window.end]


def _end(key: str) -> datetime | None:
    """Where the window ends that a report is named after."""
    name = key.rpartition("/")[2].removesuffix(".json")
    try:
        if name.endswith("Z"):
            return datetime.strptime(name.rpartition("-")[2], _KEY_TIME).replace(tzinfo=timezone.utc)
        return Window.model_validate(name).end
    except ValueError:
        return None


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
