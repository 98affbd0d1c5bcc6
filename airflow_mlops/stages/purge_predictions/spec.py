"""Spec and result of the stage ``purge_predictions``."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.windows import UtcDatetime


class PurgePredictionsSpec(Spec):
    """Parameters of a purge, which deletes the files of a model's old predictions.

    If labels were joined to deleted predictions, the files of these labelled predictions are deleted too.

    :param model: name of the registered model
    :param older_than: minimum age of the predictions to delete, for example ``90D``. The age is counted from the end of
        the window of the predictions, or from the time when they were written if this is later
    :param predictions: name of the datasets of predictions; by default ``MODEL_predictions``
    :param outcomes: name of the datasets of labelled predictions, written by JoinLabelsOperator; by default
        ``MODEL_outcomes``
    :param dry_run: whether to report what would be deleted, without deleting it
    """

    model: Name
    older_than: Duration
    predictions: Name | None = None
    outcomes: Name | None = None
    dry_run: bool = Field(default=False, strict=True)


class PurgePredictionsResult(Result):
    """The number of datasets, rows and files that were deleted or, in a dry run, would be deleted.

    :param before: start of the retention period. Predictions were deleted if their window ended and they were written
        before this time
    :param predictions: number of deleted datasets of predictions
    :param outcomes: number of deleted datasets of labelled predictions, of live evidence that was made from them, and
        of differences of features
    :param rows: number of rows in all deleted datasets
    :param files: number of deleted files, including orphaned files
    :param bytes: size of the deleted files in bytes
    :param orphans: number of deleted orphaned files. No manifest lists an orphaned file, because the task that wrote
        the file crashed
    """

    before: UtcDatetime
    predictions: int
    outcomes: int
    rows: int
    files: int
    bytes: int
    orphans: int
