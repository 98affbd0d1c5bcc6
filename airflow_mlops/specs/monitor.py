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
    :param false_alarm_rate: the share of windows in which anything may be said to have drifted although nothing has
    :param min_effect: the share of rows that a change must concern to be called drift, however sure it is; 0.1 standard
        deviations of a normal distribution are 0.04
    :param min_rows: with fewer rows drift is not measured
    :param min_labels: with fewer labels performance is not judged
    :param min_coverage: with a smaller share of labelled predictions performance is not judged
    :param grace: how long after a window's end its labels may take; before that performance is not judged
    :param max_age: retrain when the champion's training data ended longer ago than this, seen from the window's end
    """

    metric: str | None = None
    tolerance: float = Field(default=0.02, ge=0)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    false_alarm_rate: float = Field(default=0.05, gt=0, lt=1)
    min_effect: float = Field(default=0.02, ge=0, lt=1)
    min_rows: int = Field(default=50, ge=1)
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
    """How far a column has moved from what it was at training, and whether that is more than chance.

    :param psi: population stability index over the bins of the reference, with one bin more for missing values
    :param jensen_shannon: Jensen-Shannon distance over the same bins, from 0 (the same) to 1 (nothing in common)
    :param ks: largest distance between the two distribution functions; numbers only
    :param wasserstein: mean distance between the two quantile functions in standard deviations of the reference;
        numbers only
    :param total_variation: total variation distance, the share of values that would have to change to what they were at
        training; text and booleans only
    :param missing: share of rows that are missing, NaN or infinite now
    :param missing_reference: the same at training
    :param unseen: share of rows with a value that training never saw; text and booleans of up to about 700 values
    :param p_values: of each measure and test by itself: how likely a value as large is at these numbers of rows if
        nothing has changed. Tests that decide: ``ks``, ``cucconi`` (level and spread), ``chi_square``, ``unseen``,
        ``missing``
    :param test: which of these decides: the surest
    :param effect: how large the change is that it found, as a share of rows: the Kolmogorov-Smirnov distance for
        ``ks`` and ``cucconi``, total variation distance for ``chi_square``, the share that is ``unseen``, the difference
        of the shares that are ``missing``
    :param tests: how many tests could have decided
    :param p_value: that of the column: the deciding test's times ``tests``
    :param adjusted_p_value: the same, adjusted for the number of columns; at most the policy's ``false_alarm_rate``
        where the column has drifted, and 1 where the effect is below the policy's ``min_effect``
    :param note: what is odd about the column, or why it was not measured
    """

    column: str
    kind: str
    psi: float | None = None
    jensen_shannon: float | None = None
    ks: float | None = None
    wasserstein: float | None = None
    total_variation: float | None = None
    missing: float = 0.0
    missing_reference: float = 0.0
    unseen: float | None = None
    p_values: dict[str, float] = Field(default_factory=dict)
    test: str | None = None
    effect: float | None = None
    tests: int = 0
    p_value: float | None = None
    adjusted_p_value: float | None = None
    drifted: bool = False
    note: str | None = None
    bins: list[Bin] = Field(default_factory=list)


class DriftTests(Model):
    """What the drift of a window was tested by: with nothing changed, the share of windows in which anything is said
    to have drifted is at most ``false_alarm_rate``.

    :param min_effect: the floor below which a change is no drift
    :param columns: columns tested, the scores among them
    :param tests: tests done on them
    :param correction: for the tests within a column, and for the columns
    """

    false_alarm_rate: float
    min_effect: float
    columns: int
    tests: int
    correction: str = "Bonferroni within a column, Benjamini-Hochberg over the columns"


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
    :param drift_tests: how drift was tested; ``None`` where nothing was compared
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
    drift_tests: DriftTests | None = None
    notes: list[str] = Field(default_factory=list)


class Report(Findings):
    """The findings and the verdict on them; stored as ``reports/MODEL/WINDOW.json`` beside the page."""

    verdict: Verdict


class MonitorResult(Result):
    """The decision, and the numbers it stands on.

    :param metrics: ``rows``, ``labelled``, ``coverage``, ``features_drifted`` (how many), ``feature_drift`` (the share of
        rows by which ``most_drifted`` moved), ``prediction_drift`` (the same of the scores), and realised performance
        under the metric's own name with ``_low``, ``_high`` and ``_reference``, the same with ``estimated_`` before it,
        ``label_delay_median``, ``_p90`` and ``_p99``; only what was measured
    :param metric: the name of that metric
    :param most_drifted: of the features that have drifted, or of all if none has, the one that moved most
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
