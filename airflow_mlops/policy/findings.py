"""What monitoring found about one window, and what the policy makes of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Request
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.drift.findings import Drift, DriftTests, Freshness, SchemaChange
from airflow_mlops.drift.reference import DriftReference
from airflow_mlops.performance.findings import Change, LossChange, Performance, Segment
from airflow_mlops.policy.spec import Policy, Trigger
from airflow_mlops.profiles.spec import LabelDelay

Decision = Literal["healthy", "watch", "retrain"]


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
