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
    Request,
    Result,
    Spec,
    UtcDatetime,
    Window,
)
from airflow_mlops.specs.drift import Drift, DriftTests
from airflow_mlops.specs.model import Task
from airflow_mlops.specs.policy import Policy, Trigger
from airflow_mlops.specs.profile import ProfilesInput
from airflow_mlops.specs.reference import DriftReference, Reference
from airflow_mlops.specs.selection import OptionalDatasetLike
from airflow_mlops.specs.why import Change, LossChange, Segment

Decision = Literal["healthy", "watch", "retrain"]
REALISED: dict[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "accuracy", "log_loss", "brier"),
    "multiclass": ("accuracy",),
    "regression": ("rmse", "mae"),
}
"""The metrics that can be measured on predictions with their labels; the first one decides unless another is named."""


class MonitorSpec(Spec):
    """Compare a window of predictions with what was known at training, and decide.

    :param dataset: predictions, with a column ``label`` where labels are known; ``None`` where scoring was skipped
    :param window: the window that is monitored; that of ``dataset`` unless given
    :param reference: what the drift of features and scores is measured against; performance is always compared with
        training
    :param profiles: of all the shards of ``dataset``, or of the whole; its columns are read unless given
    """

    model: Name
    dataset: OptionalDatasetLike = None
    window: Window | None = None
    reference: Reference = Reference()
    profiles: ProfilesInput = Field(default_factory=list)
    policy: Policy = Policy()
    mlflow: MLflowTarget = MLflowTarget()


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


class SchemaChange(Model):
    """A column that is not what it was at training.

    :param before: its type at training; ``None`` where there was no such column
    :param now: its type in the window; ``None`` where it is gone, several where parts of the window differ
    :param compared: whether drift could be measured all the same
    """

    column: str
    before: str | None
    now: str | None
    compared: bool

    def __str__(self) -> str:
        if self.now is None:
            return f"{self.column} is gone"
        return f"{self.column} was {self.before} and is {self.now}" if self.before else f"{self.column} is new"


class Freshness(Model):
    """How recent the rows are.

    :param newest_event: event time of the newest row
    :param newest_score: when the last row was scored
    :param behind_days: from ``newest_event`` to the end of the window
    """

    newest_event: UtcDatetime | None = None
    newest_score: UtcDatetime | None = None
    behind_days: float | None = None

    def age(self, at: UtcDatetime) -> timedelta | None:
        """How old the newest row is."""
        return at - self.newest_event if self.newest_event is not None else None


class Verdict(Model):
    """What to do, and why in one sentence."""

    decision: Decision
    reason: str


class Arrivals(Model):
    """What has come of a dataset between the end of the champion's training data and the end of the window.

    :param share: its rows, as a share of the rows of the champion's training set
    """

    dataset: str
    windows: int
    rows: int
    share: float | None = None


class Held(Model):
    """A trigger that holds in a window.

    :param reason: why; one clause
    :param windows: in how many of the policy's last windows it held, of those that count
    :param enough: whether these are enough
    """

    trigger: Trigger
    reason: str
    windows: int = 1
    enough: bool = True


class Limit(Model):
    """Something that may hold a request back.

    :param says: how far it is used up; one clause
    :param reached: whether it holds a request back
    """

    name: Literal["cooldown", "budget", "refusals", "inputs"]
    says: str
    reached: bool


class Retraining(Model):
    """What the policy makes of its triggers in one window.

    :param triggers: those that hold
    :param limits: what may hold a request back; nothing where the window has asked already
    :param request: what the window asked for, now or in an earlier check
    """

    triggers: list[Held] = Field(default_factory=list)
    limits: list[Limit] = Field(default_factory=list)
    request: Request | None = None

    @property
    def due(self) -> list[Held]:
        """The triggers that held often enough."""
        return [held for held in self.triggers if held.enough]

    @property
    def asks(self) -> bool:
        """Whether to ask for retraining."""
        return bool(self.due) and not any(limit.reached for limit in self.limits)


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
    :param arrivals: new data, where the policy asks for it and it is known
    :param code_version: of the code that trained the champion, where the policy asks for it and it is known
    :param label_delay: of the labels that have come, where the time of their coming is known
    :param prediction: the drift of the scores
    :param label: the drift of what really happened; ``None`` where labels are too few or too young, as for performance
    :param multivariate: whether the features still hang together as they did: the drift of the error of their
        reconstruction by principal components; ``None`` where none were stored with the model
    :param schema_changes: features that are gone, columns that are new, columns of another type
    :param freshness: how recent the rows are, where that is known
    :param watched: columns that are no features, and are judged like them
    :param reference: what drift was measured against
    :param drift_tests: how drift was tested; ``None`` where nothing was compared
    :param loss: how the mean loss of the rows has changed; ``None`` where performance is not judged
    :param segments: where performance fell, what adds most to it first
    :param changes: since when performance, or the drift of what matters, has stood at another level
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
    arrivals: Arrivals | None = None
    code_version: str | None = None
    performance: Performance | None = None
    unmeasured: str | None = None
    estimated: Performance | None = None
    label_delay: LabelDelay | None = None
    prediction: Drift | None = None
    label: Drift | None = None
    multivariate: Drift | None = None
    schema_changes: list[SchemaChange] = Field(default_factory=list)
    freshness: Freshness | None = None
    features: list[Drift] = Field(default_factory=list)
    watched: list[Drift] = Field(default_factory=list)
    reference: DriftReference = DriftReference()
    drift_tests: DriftTests | None = None
    loss: LossChange | None = None
    segments: list[Segment] = Field(default_factory=list)
    changes: list[Change] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Report(Findings):
    """The findings and the verdict on them; stored as ``reports/MODEL/WINDOW.json`` beside the page.

    :param format: raised when a field is taken away or means something else; ``docs/report.schema.json`` describes it
    :param retraining: what the policy makes of it; ``None`` in reports from before this was kept
    """

    format: int = 1
    verdict: Verdict
    retraining: Retraining | None = None


class MonitorResult(Result):
    """The decision, and the numbers it stands on.

    :param metrics: ``rows``, ``labelled``, ``coverage``, ``features_drifted`` (how many), ``feature_drift`` (the share of
        rows by which ``most_drifted`` moved), ``prediction_drift`` (the same of the scores), ``label_drift``,
        ``multivariate_drift``, ``newest_row_age_days`` (when it was checked), ``newest_row_behind_days`` (when the window
        ended), and realised performance under the metric's own name with ``_low``, ``_high`` and ``_reference``, the same with ``estimated_`` before it,
        ``label_delay_median``, ``_p90`` and ``_p99``; only what was measured
    :param metric: the name of that metric
    :param most_drifted: of the features that have drifted, or of all if none has, the one that moved most
    :param worst_segment: of the segments where performance fell, the first
    :param changed_since: the window since which realised performance has stood at its present level, if it changed
    :param report_url: where the page is in the artifact store
    :param superseded: whether there is a report on a later window that knows as much: one with realised performance that
        was judged, or any where this one has none
    :param request: what is asked for, where the decision is ``retrain``
    :param held_back: what would have been asked for, had the policy's cooldown or budget, earlier refusals or broken inputs
        not held it back: the triggers
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
    worst_segment: str | None = None
    changed_since: str | None = None
    report_url: str
    superseded: bool = False
    request: Request | None = None
    held_back: list[Trigger] = Field(default_factory=list)
