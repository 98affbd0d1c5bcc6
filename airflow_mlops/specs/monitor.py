"""Monitoring: what is asked, what is found, what is decided."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from airflow_mlops.specs.base import (
    DatasetRef,
    MLflowTarget,
    Model,
    ModelVersionRef,
    Name,
    Result,
    Spec,
    UtcDatetime,
    Window,
)
from airflow_mlops.specs.durations import Duration
from airflow_mlops.specs.model import Task
from airflow_mlops.specs.selection import OptionalDatasetLike

Decision = Literal["healthy", "watch", "retrain"]

REALISED: dict[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "accuracy", "log_loss", "brier"),
    "multiclass": ("accuracy",),
    "regression": ("rmse", "mae"),
}
"""The metrics that can be measured on predictions with their labels; the first one decides unless another is named."""


class Policy(Model):
    """When to ask for retraining, and when to look closer.

    :param metric: the metric of realised performance that decides; by task ``roc_auc``, ``accuracy`` or ``rmse``
        unless given
    :param tolerance: how much worse than at training is still good enough: a difference for metrics where more is
        better, a share of the reference for errors and losses
    :param confidence: of the interval around realised performance
    :param feature_drift: population stability index of a feature that is worth a look
    :param prediction_drift: the same for the predicted scores
    :param min_rows: with fewer rows drift is not measured
    :param min_labels: with fewer labels performance is not judged
    :param min_coverage: with a smaller share of labelled predictions performance is not judged
    :param grace: how long after a window's end its labels may take; before that performance is not judged
    :param max_age: retrain when the champion's training data ended longer ago than this, seen from the window's end
    """

    metric: str | None = None
    tolerance: float = Field(default=0.02, ge=0)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    feature_drift: float = Field(default=0.2, gt=0)
    prediction_drift: float = Field(default=0.2, gt=0)
    min_rows: int = Field(default=200, ge=1)
    min_labels: int = Field(default=200, ge=1)
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    grace: Duration | None = None
    max_age: timedelta | None = None


class MonitorSpec(Spec):
    """Compare a window of predictions with what was known at training, and decide.

    :param dataset: predictions, with a column ``label`` where labels are known; ``None`` where scoring was skipped
    :param window: the window that is monitored; that of ``dataset`` unless given
    """

    model: Name
    dataset: OptionalDatasetLike = None
    window: Window | None = None
    policy: Policy = Policy()
    mlflow: MLflowTarget = MLflowTarget()


class Bin(Model):
    """One bar of a histogram: its label and the shares of rows in it, at training and now."""

    label: str
    reference: float
    current: float


class Drift(Model):
    """How far a column has moved from what it was at training.

    :param psi: population stability index over the bins of the reference, with one bin more for missing values
    :param jensen_shannon: Jensen-Shannon distance over the same bins, from 0 (the same) to 1 (nothing in common)
    :param ks: largest distance between the two distribution functions; numbers only
    :param wasserstein: mean distance between the two quantile functions in standard deviations of the reference;
        numbers only
    :param missing: share of rows that are missing, NaN or infinite now
    :param missing_reference: the same at training
    :param unseen: share of rows with a value that training never saw; text only
    :param note: what is odd about the column, or why it was not measured
    """

    column: str
    kind: str
    psi: float | None = None
    jensen_shannon: float | None = None
    ks: float | None = None
    wasserstein: float | None = None
    missing: float = 0.0
    missing_reference: float = 0.0
    unseen: float | None = None
    note: str | None = None
    bins: list[Bin] = Field(default_factory=list)


class Performance(Model):
    """Performance: realised, predictions against the labels that came later; or estimated, from the scores alone.

    :param low: lower end of the confidence interval
    :param high: upper end of it
    :param reference: the same metric on the held-out data at training
    :param labels: how many labels it was measured on; of an estimate, how many rows it is for
    """

    metric: str
    value: float
    low: float
    high: float
    reference: float | None = None
    labels: int


class LabelDelay(Model):
    """How long after their event labels came, in days: half of them within ``median``, 90% within ``p90``."""

    median: float
    p90: float
    p99: float


class Verdict(Model):
    """What to do, and why in one sentence."""

    decision: Decision
    reason: str


class Findings(Model):
    """All that monitoring found out about one window.

    :param policy: what the findings are judged by
    :param champion: the champion at the time
    :param scored_by: the version that made the predictions
    :param coverage: share of the predictions that have a label; ``None`` without predictions
    :param age_days: from the end of the champion's training data to the end of the window
    :param unmeasured: why realised performance was not measured or not judged, if so; one clause
    :param estimated: what the metric should be, from the scores alone: of the rows that have a label where realised
        performance is judged, so that the two can be compared, else of all rows
    :param label_delay: of the labels that have come, where the time of their coming is known
    :param notes: what else is worth knowing
    """

    model: str
    window: Window
    created: UtcDatetime
    policy: Policy
    champion: ModelVersionRef | None = None
    scored_by: ModelVersionRef | None = None
    datasets: list[DatasetRef] = Field(default_factory=list)
    rows: int = 0
    labelled: int = 0
    coverage: float | None = None
    age_days: float | None = None
    performance: Performance | None = None
    unmeasured: str | None = None
    estimated: Performance | None = None
    label_delay: LabelDelay | None = None
    prediction: Drift | None = None
    features: list[Drift] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Report(Findings):
    """The findings and the verdict on them; stored as ``reports/MODEL/WINDOW.json`` beside the page."""

    verdict: Verdict


class MonitorResult(Result):
    """The decision, and the numbers it stands on.

    :param metrics: ``rows``, ``labelled``, ``coverage``, ``feature_drift`` (the largest), ``prediction_drift``, and
        realised performance under the metric's own name with ``_low``, ``_high`` and ``_reference``, the same with
        ``estimated_`` before it, ``label_delay_median``, ``_p90`` and ``_p99``; only what was measured
    :param metric: the name of that metric
    :param most_drifted: the feature that moved most
    :param report_url: where the page is in the artifact store
    """

    decision: Decision
    reason: str
    model: str
    window: Window
    champion: ModelVersionRef | None
    scored_by: ModelVersionRef | None
    metrics: dict[str, float]
    metric: str | None
    most_drifted: str | None
    report_url: str
