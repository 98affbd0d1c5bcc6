"""Models of what monitoring finds in one window, of the policy's decision, and of the report that contains both."""

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
from airflow_mlops.policy.wording import HEADLINE_LENGTH
from airflow_mlops.profiles.spec import LabelDelay

Decision = Literal["healthy", "watch", "retrain"]


class Verdict(Model):
    """The decision about a window and the reasons for it.

    :param headline: the main reason in at most 90 characters; empty in reports written before there was one
    :param details: the facts behind the decision, one sentence each, with numbers and units
    :param reason: the headline and the details as one text
    """

    decision: Decision
    reason: str
    headline: str = Field(default="", max_length=HEADLINE_LENGTH)
    details: list[str] = Field(default_factory=list)


class Arrivals(Model):
    """The data that arrived in a dataset between the end of the champion's training data and the end of the window.

    :param windows: number of windows
    :param rows: number of rows
    :param share: ``rows`` as a share of the rows of the champion's training set
    """

    dataset: str
    windows: int
    rows: int
    share: float | None = None


class ActiveTrigger(Model):
    """A retraining trigger whose condition is met in a window.

    :param reason: why the condition is met, in at most 90 characters
    :param windows: number of windows in which the condition was met, among the last ``n`` windows of the policy's persistence
    :param enough: whether ``windows`` is at least the ``k`` of the policy's persistence
    """

    trigger: Trigger
    reason: str
    windows: int = 1
    enough: bool = True


class Limit(Model):
    """A limit on requests for retraining, and its state.

    :param name: ``cooldown``, ``budget``, ``refusals`` (refused candidates) or ``inputs`` (broken features)
    :param says: the state of the limit; one clause
    :param reached: whether it postpones a request
    """

    name: Literal["cooldown", "budget", "refusals", "inputs"]
    says: str
    reached: bool


class RetrainingPlan(Model):
    """The policy's decision about retraining in one window.

    :param triggers: the retraining triggers whose condition is met
    :param limits: the limits that were checked; empty if the window has already requested retraining
    :param request: the request of the window, from this check or an earlier one
    """

    triggers: list[ActiveTrigger] = Field(default_factory=list)
    limits: list[Limit] = Field(default_factory=list)
    request: Request | None = None

    @property
    def due(self) -> list[ActiveTrigger]:
        """Return the retraining triggers whose condition was met in enough windows."""
        return [active for active in self.triggers if active.enough]

    @property
    def is_requested(self) -> bool:
        """Return whether the window requests retraining: a retraining trigger is due and no limit is reached."""
        return bool(self.due) and not any(limit.reached for limit in self.limits)


class VersionFindings(Model):
    """What monitoring measured on the predictions of a version that was replaced within the window.

    :param rows: number of its predictions
    :param labelled: number of its predictions with a label
    :param performance: its realised performance, compared with its own training
    :param unmeasured: why realised performance was not measured or cannot be judged; one clause
    :param prediction: drift of its scores
    :param features: drift of each feature in its predictions, compared with its own training
    """

    version: ModelVersionRef
    rows: int
    labelled: int = 0
    performance: Performance | None = None
    unmeasured: str | None = None
    prediction: Drift | None = None
    features: list[Drift] = Field(default_factory=list)


class Findings(Model):
    """Everything that monitoring measured in one window.

    :param created: when the window was checked
    :param policy: the retraining policy that was applied
    :param champion: the champion at the time of the check
    :param scored_by: the version that made the predictions; the latest one, if several versions made predictions in the window
    :param datasets: the datasets of predictions
    :param rows: number of predictions of ``scored_by``
    :param labelled: number of predictions with a label
    :param coverage: share of the predictions that have a label; ``None`` without predictions
    :param age_days: days from the end of the champion's training data to the end of the window
    :param arrivals: new data since training; ``None`` unless the policy has ``new_data``
    :param code_version: version of the code that trained the champion; ``None`` unless the policy has ``code``
    :param performance: realised performance, measured by comparing predictions with labels
    :param unmeasured: why realised performance was not measured or cannot be judged; one clause
    :param estimated: performance estimated from the scores without labels. It covers the labelled rows if realised
        performance is judged, so that the two are comparable, and otherwise all rows
    :param label_delay: quantiles of the time from event to label; ``None`` if arrival times of labels are unknown
    :param prediction: drift of the scores
    :param label: drift of the labels; ``None`` if there are too few labels or more of them may arrive
    :param multivariate: drift of the joint distribution of the features, measured by the error of their reconstruction from
        principal components; ``None`` if the model has no stored components
    :param schema_changes: absent features, new columns, and columns whose type differs from training
    :param freshness: how recent the rows are; ``None`` if unknown
    :param features: drift of each feature, ordered by drift times importance, drifted features first
    :param watched: drift of watched columns that are not features
    :param reference: the data that drift was measured against: training or earlier windows
    :param drift_tests: number of tests and thresholds of drift; ``None`` if nothing was compared
    :param loss: change of the mean loss; ``None`` if performance cannot be judged
    :param segments: segments with worse performance, the largest contribution first
    :param changes: change points of performance and of the drift of important features
    :param replaced: findings about versions that made predictions in the window before ``scored_by`` replaced them. All other
        fields are about ``scored_by``
    :param notes: further remarks, one sentence each
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
    replaced: list[VersionFindings] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def under(self, policy: Policy) -> Findings:
        """Return the same measurements for a check by ``policy``, with the version that made the predictions as champion."""
        measured = {name: getattr(self, name) for name in Findings.model_fields}
        return Findings(**{**measured, "policy": policy, "champion": self.scored_by})


class Report(Findings):
    """The findings and the verdict on them, stored as ``reports/MODEL/WINDOW.json`` next to the HTML page.

    :param format: version of the format, which increases when a field is removed or changes its meaning;
        ``docs/report.schema.json`` describes the fields
    :param retraining: the decision about retraining; ``None`` in reports written before it was stored
    """

    format: int = 1
    verdict: Verdict
    retraining: RetrainingPlan | None = None
