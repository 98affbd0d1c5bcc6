"""Models of the comparison of the champion with challengers."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from airflow_mlops.core.base import Model
from airflow_mlops.core.references import ModelVersionRef


class OtherTrainer(Model):
    """A trainer of challengers other than the champion's trainer.

    :param name: name of the trainer, such as the name of the estimator's class
    :param id: hash that identifies the trainer and its parameters. Trainers of one class with different parameters have
        different hashes
    """

    name: str
    id: str


class Challenger(Model):
    """A challenger, compared with the champion on the labelled rows of a window.

    A challenger is fitted twice: each time to the older rows and to one half of the compared window (cross-fitting).

    :param trainer: the trainer that fitted the challenger; ``None`` for the champion's trainer
    :param past: number of windows that the challenger was trained on; ``None`` for all windows. The compared window is
        included
    :param trained_rows: number of rows of the larger of the two fits
    :param value: metric of the challenger
    :param gain: mean loss of the champion minus mean loss of the challenger; positive if the challenger is better
    :param standard_error: standard error of ``gain``
    :param clusters: effective number of clusters, if the rows are clustered; ``None`` for independent rows
    """

    trainer: OtherTrainer | None = None
    past: int | None
    trained_rows: int
    value: float
    gain: float
    standard_error: float
    clusters: float | None = None


class Gain(Model):
    """The gain of one challenger, as a share of the champion's mean loss.

    :param trainer: the trainer that fitted the challenger; ``None`` for the champion's trainer
    :param past: number of windows that the challenger was trained on; ``None`` for all windows
    :param value: metric of the challenger in the current window
    :param share: the gain: the reduction of the mean loss, as a share of the champion's mean loss. If challengers of
        several trainers were compared, the gain is corrected for the selection of the best challenger
    :param low: lower confidence bound of ``share``
    :param windows: number of windows from which the gain was computed
    :param usual: the gain that the challenger usually has in the first window after a training, as a share of the
        champion's mean loss. Another training would not remove this part of ``share``. If past trainings have not paid
        off (:class:`PastTrainings`), the usual gain is the largest gain that is not an outlier
    """

    trainer: OtherTrainer | None = None
    past: int | None
    value: float
    share: float
    low: float
    windows: int
    usual: float = 0.0


class PastTrainings(Model):
    """The gains of past trainings, each measured in the first compared window after the training.

    The gain of a training is the reduction of the mean loss by the new version, as a share of the mean loss of the
    version that it replaced.

    :param number: number of trainings
    :param gain: mean of the gains; negative if the replaced versions were better
    :param paid: whether ``gain`` is at least ``min_gain`` of the policy
    """

    number: int
    gain: float
    paid: bool


class Comparison(Model):
    """The comparison of the champion with all challengers on one window.

    :param champion: the champion
    :param metric: the metric, which defines the loss (see :func:`airflow_mlops.performance.findings.loss_name`)
    :param rows: number of compared rows
    :param value: metric of the champion
    :param loss: mean loss of the champion
    :param challengers: the challengers, which differ in their trainer or in the windows of their training data
    :param correlations: correlation matrix of the challengers' gains, in the order of ``challengers``; ``None`` in
        reports of old versions
    :param since_training: number of windows since the end of the champion's training data, including the compared
        window, so the first window has the number 1; ``None`` in reports of old versions
    :param replaced_loss: mean loss of the version that the champion replaced, on the same rows. It is measured in the
        first window in which the champion is compared, and ``None`` in all other windows
    :param trainings: the gains of past trainings; ``None`` if too few were measured
    :param usual: the largest usual gain of a challenger (:attr:`Gain.usual`), as a share of the champion's mean loss
    :param best: the significant gain that exceeds the usual gain of its challenger most, and by at least ``min_gain``
        of the policy; ``None`` if there is no such gain
    """

    champion: ModelVersionRef
    metric: str
    rows: int
    value: float
    loss: float
    challengers: list[Challenger] = Field(min_length=1)
    correlations: list[list[float]] | None = None
    since_training: int | None = None
    replaced_loss: float | None = None
    trainings: PastTrainings | None = None
    usual: float = 0.0
    best: Gain | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_old_reports(cls, value: Any) -> Any:
        # Reports of earlier versions have the field `rests`, because these versions ignored gains in the first window
        # after a training.
        if isinstance(value, dict) and "rests" in value:
            return {name: item for name, item in value.items() if name != "rests"}
        return value
