"""What the prediction log answers: how many, how fast, which inputs, which features, which results, what really happened."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import UtcDatetime


class HowMany(Model):
    """How many predictions a version made for a window.

    :param window: ``None`` where the rows had none
    :param scored: when the dataset was committed
    :param times: how often the window was scored by this version; the last time counts
    :param deleted: when retention deleted the rows
    """

    window: str | None
    version: int
    rows: int
    scored: UtcDatetime
    times: int
    deleted: UtcDatetime | None = None


class HowFast(Model):
    """How fast that was.

    :param rows_per_second: over reading, scoring and writing
    :param latency_ms: a row's share of its batch's time in the model, in milliseconds, by quantile: ``p50``, ``p90``, ``p99``
    :param engine: what computed the predictions
    """

    window: str | None
    version: int
    rows_per_second: float | None
    latency_ms: dict[str, float]
    engine: str


class Inputs(Model):
    """What the predictions were made from.

    :param source: the name of the dataset, and of its part if only that was scored
    :param datasets: ids of the datasets
    :param predictions: id of the predictions
    :param run: DAG, run and task
    """

    window: str | None
    version: int
    source: str
    datasets: list[str]
    predictions: str
    run: str


class FeatureFound(Model):
    """A feature, as a version saw it.

    :param kept: ``yes``, or ``hashed`` or ``dropped``, and then nothing else is known
    :param mean: of numbers
    :param most_frequent: of text and booleans, with the share of rows that have it
    :param missing: the share of rows without a finite value
    """

    version: int
    feature: str
    kept: str = "yes"
    mean: float | None = None
    most_frequent: str | None = None
    share: float | None = None
    missing: float | None = None


class Results(Model):
    """What a version predicted.

    :param score: by quantile: ``min``, ``p10``, ``p50``, ``p90``, ``max``
    :param predicted: the share of rows of each class, most frequent first; empty for a regression
    """

    version: int
    rows: int
    score: dict[str, float]
    predicted: dict[str, float]


class Happened(Model):
    """What really happened, as far as labels have come.

    :param window: of the outcomes, which may hold several windows of predictions
    :param coverage: the share of predictions that have a label
    :param observed: the share of each class among the labels; of a regression ``mean``
    :param metric: the realised metric, with its 95% interval
    :param note: why there is none
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


class Answers(Model):
    """Everything together."""

    model: str
    how_many: list[HowMany]
    how_fast: list[HowFast]
    inputs: list[Inputs]
    features: list[FeatureFound]
    results: list[Results]
    happened: list[Happened]
