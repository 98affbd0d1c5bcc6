"""The summary of a model's prediction log."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import UtcDatetime


class PredictionCount(Model):
    """The number of predictions of a version in a window.

    :param window: ``None`` if the rows have no window
    :param scored: when the dataset was committed
    :param times: how often this version scored the window; the last time counts
    :param deleted: when retention deleted the rows
    """

    window: str | None
    version: int
    rows: int
    scored: UtcDatetime
    times: int
    deleted: UtcDatetime | None = None


class ScoringSpeed(Model):
    """The speed of scoring.

    :param rows_per_second: over reading, scoring and writing
    :param latency_ms: time of the model for a batch, divided by the rows of the batch, in milliseconds; by quantile: ``p50``,
        ``p90``, ``p99``
    :param engine: the library that computed the predictions
    """

    window: str | None
    version: int
    rows_per_second: float | None
    latency_ms: dict[str, float]
    engine: str


class ScoringInput(Model):
    """The origin of predictions.

    :param source: name of the scored dataset, and of its part if only one was scored
    :param datasets: ids of the scored datasets
    :param predictions: id of the predictions
    :param run: DAG, run and task
    """

    window: str | None
    version: int
    source: str
    datasets: list[str]
    predictions: str
    run: str


class FeatureSummary(Model):
    """A feature in the predictions of a version.

    :param kept: ``yes``; or ``hashed`` or ``dropped``, and then the other fields are ``None``
    :param mean: mean of a numeric feature
    :param most_frequent: most frequent value of text or booleans
    :param share: share of rows with this value
    :param missing: share of rows without a finite value
    """

    version: int
    feature: str
    kept: str = "yes"
    mean: float | None = None
    most_frequent: str | None = None
    share: float | None = None
    missing: float | None = None


class ResultSummary(Model):
    """The predictions of a version.

    :param score: quantiles of the score: ``min``, ``p10``, ``p50``, ``p90``, ``max``
    :param predicted: share of rows by predicted class, the most frequent first; empty for a regression
    """

    version: int
    rows: int
    score: dict[str, float]
    predicted: dict[str, float]


class OutcomeSummary(Model):
    """The outcomes of predictions, as far as labels have arrived.

    :param window: the window of the outcomes, which may cover several windows of predictions
    :param coverage: share of predictions with a label
    :param observed: share of labels by class; for a regression ``mean``
    :param metric: the metric of realised performance
    :param low: lower end of its 95% confidence interval
    :param high: upper end of its 95% confidence interval
    :param note: why the metric was not measured
    """

    window: str | None
    version: int
    rows: int
    labelled: int
    coverage: float | None = None
    observed: dict[str, float] = Field(default_factory=dict)
    metric: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


class LogSummary(Model):
    """The prediction log of a model."""

    model: str
    how_many: list[PredictionCount]
    how_fast: list[ScoringSpeed]
    inputs: list[ScoringInput]
    features: list[FeatureSummary]
    results: list[ResultSummary]
    happened: list[OutcomeSummary]
