"""Retention of predictions: what is asked and what comes back."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.windows import UtcDatetime


class PurgePredictionsSpec(Spec):
    """Delete the rows of old predictions of ``model``, and of what was joined from them.

    :param older_than: how old they must be: since the end of their window, or since they were made if that was later
    :param predictions: the name of the predictions' dataset; ``MODEL_predictions`` unless given
    :param outcomes: the name of the joined dataset; ``MODEL_outcomes`` unless given
    :param dry_run: only say what would be deleted
    """

    model: Name
    older_than: Duration
    predictions: Name | None = None
    outcomes: Name | None = None
    dry_run: bool = Field(default=False, strict=True)


class PurgePredictionsResult(Result):
    """What was deleted.

    :param before: what is older than this was
    :param predictions: datasets of predictions
    :param outcomes: datasets that were joined from those
    :param rows: their rows, both together
    :param files: files, those that no manifest names among them
    :param bytes: the size of these files
    :param orphans: files that no manifest named, left by tasks that died
    """

    before: UtcDatetime
    predictions: int
    outcomes: int
    rows: int
    files: int
    bytes: int
    orphans: int
