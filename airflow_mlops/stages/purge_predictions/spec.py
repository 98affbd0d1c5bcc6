"""Spec and result of the stage ``purge_predictions``."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.windows import UtcDatetime


class PurgePredictionsSpec(Spec):
    """Delete the files of old predictions of ``model``, and of the outcomes joined from them.

    :param older_than: minimum age of predictions to delete. Age counts from the end of their window, or from when they were
        written if that was later
    :param predictions: name of the dataset of predictions; ``MODEL_predictions`` by default
    :param outcomes: name of the dataset with labels joined to predictions; ``MODEL_outcomes`` by default
    :param dry_run: only report what would be deleted
    """

    model: Name
    older_than: Duration
    predictions: Name | None = None
    outcomes: Name | None = None
    dry_run: bool = Field(default=False, strict=True)


class PurgePredictionsResult(Result):
    """What was deleted, or would be deleted in a dry run.

    :param before: predictions older than this time were deleted
    :param predictions: number of datasets of predictions
    :param outcomes: number of datasets of outcomes
    :param rows: number of rows in all these datasets
    :param files: number of files, including orphans
    :param bytes: size of the files in bytes
    :param orphans: number of files that no manifest lists, left by tasks that crashed
    """

    before: UtcDatetime
    predictions: int
    outcomes: int
    rows: int
    files: int
    bytes: int
    orphans: int
