"""Models of the summary of a prediction log."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import UtcDatetime


class PredictionCount(Model):
    """The number of predictions of a version in a window.

    :param window: label of the window; ``None`` if the rows have no window
    :param scored: time at which the dataset of predictions was committed
    :param times: number of times that this version scored the window. The last predictions are the current predictions
    :param deleted: time at which the rows were purged; ``None`` if the rows still exist
    """

    window: str | None
    version: int
    rows: int
    scored: UtcDatetime
    times: int
    deleted: UtcDatetime | None = None


class ScoringSpeed(Model):
    """The speed at which a version scored a window.

    :param rows_per_second: rows per second of reading, scoring and writing together; ``None`` if unknown
    :param latency_ms: quantiles ``p50``, ``p90`` and ``p99`` of the scoring time per row, in milliseconds. The scoring
        time per row is the time that the model took for a batch, divided by the number of rows in the batch
    :param engine: the library that computed the predictions
    """

    window: str | None
    version: int
    rows_per_second: float | None
    latency_ms: dict[str, float]
    engine: str


class ScoringInput(Model):
    """The rows from which predictions were computed, and the task that computed them.

    :param source: name of the scored dataset, followed by the split part if only one split part was scored
    :param datasets: ids of the scored datasets
    :param predictions: id of the dataset of predictions
    :param run: ids of the DAG, the run and the task
    """

    window: str | None
    version: int
    source: str
    datasets: list[str]
    predictions: str
    run: str


class FeatureSummary(Model):
    """A summary of one feature in the predictions of a version.

    :param kept: whether the values are stored: ``yes``, ``hashed`` or ``dropped``. For hashed and dropped features,
        ``mean``, ``most_frequent``, ``share`` and ``missing`` are ``None``
    :param mean: mean of a numeric feature
    :param most_frequent: most frequent value of a text or boolean feature
    :param share: share of rows with the value ``most_frequent``, from 0 to 1
    :param missing: share of rows that are null or not finite, from 0 to 1
    """

    version: int
    feature: str
    kept: str = "yes"
    mean: float | None = None
    most_frequent: str | None = None
    share: float | None = None
    missing: float | None = None


class ResultSummary(Model):
    """A summary of the predictions of a version.

    :param score: quantiles of the score by name: ``min``, ``p10``, ``p50``, ``p90``, ``max``
    :param predicted: share of rows by predicted class, the most frequent first; empty for a regression
    """

    version: int
    rows: int
    score: dict[str, float]
    predicted: dict[str, float]


class MetricSummary(Model):
    """A metric of realised performance.

    :param metric: name of the metric
    :param value: value of the metric; ``None`` if it was not measured
    :param low: lower end of the 95% confidence interval
    :param high: upper end of the 95% confidence interval
    :param note: a clause that explains why the metric was not measured; empty if it was measured
    """

    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


class QuantileSummary(Model):
    """The coverage of a predicted quantile: the share of the labels that are at most the prediction.

    :param alpha: the quantile that the model predicts, which is the nominal coverage
    :param value: the coverage, from 0 to 1
    :param low: lower end of the 95% confidence interval
    :param high: upper end of the 95% confidence interval
    """

    alpha: float
    value: float
    low: float
    high: float


class OutcomeSummary(Model):
    """The labels of a version's predictions that have arrived, and the realised performance measured with them.

    :param window: label of the window of the labelled predictions. This window can cover several windows of predictions
    :param rows: number of predictions
    :param labelled: number of predictions with a label
    :param coverage: share of predictions with a label, from 0 to 1
    :param observed: share of labels by class; for a regression, the mean under the key ``mean``
    :param metric: name of the metric of realised performance, the first of
        :func:`airflow_mlops.metrics.judged.headline_metrics`; ``None`` if performance was not measured
    :param value: value of the metric
    :param low: lower end of the metric's 95% confidence interval
    :param high: upper end of the metric's 95% confidence interval
    :param note: a clause that explains why performance was not measured; empty if it was measured
    :param others: the other metrics of :func:`airflow_mlops.metrics.judged.headline_metrics`
    :param quantile: coverage of the predicted quantile; ``None`` for models that do not predict a quantile
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
    others: list[MetricSummary] = Field(default_factory=list)
    quantile: QuantileSummary | None = None


class LogSummary(Model):
    """The summary of the prediction log of a model.

    :param how_many: number of predictions by window and version
    :param how_fast: speed of scoring by window and version
    :param inputs: scored datasets by window and version
    :param features: features by version
    :param results: scores and predicted classes by version
    :param happened: labels and realised performance by window and version
    """

    model: str
    how_many: list[PredictionCount]
    how_fast: list[ScoringSpeed]
    inputs: list[ScoringInput]
    features: list[FeatureSummary]
    results: list[ResultSummary]
    happened: list[OutcomeSummary]
