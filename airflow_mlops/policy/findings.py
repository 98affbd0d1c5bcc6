"""Models of the findings about one window, of the decision by the policy, and of the report that contains both."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.drift.findings import Drift, DriftTests, Freshness, SchemaChange
from airflow_mlops.drift.reference import DriftReference
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.findings import (
    Bias,
    Change,
    FairnessDifference,
    IntervalCoverage,
    LossChange,
    Performance,
    PositiveRate,
    Segment,
)
from airflow_mlops.policy.spec import Policy, Trigger
from airflow_mlops.policy.wording import HEADLINE_LENGTH
from airflow_mlops.profiles.spec import LabelDelay

Decision = Literal["healthy", "watch", "retrain"]


class Verdict(Model):
    """The decision about a window and the reasons for the decision.

    :param decision: ``healthy``, ``watch`` or ``retrain``
    :param reason: the headline and the details as one text
    :param headline: the main reason in at most 90 characters; empty in reports of old versions, which had no headline
    :param details: the facts behind the decision, one sentence each, with numbers and units
    """

    decision: Decision
    reason: str
    headline: str = Field(default="", max_length=HEADLINE_LENGTH)
    details: list[str] = Field(default_factory=list)


class Arrivals(Model):
    """The new data in a dataset, from the end of the champion's training data to the end of the window.

    :param dataset: name of the dataset
    :param windows: number of new windows
    :param rows: number of new rows
    :param share: ``rows`` as a share of the rows of the champion's training set; ``None`` if that number is unknown
    """

    dataset: str
    windows: int
    rows: int
    share: float | None = None


class ActiveTrigger(Model):
    """A retraining trigger whose condition is met in a window.

    :param trigger: name of the trigger
    :param reason: why the condition is met, in at most 90 characters
    :param windows: number of windows in which the condition was met, among the last ``n`` windows (``n`` and ``k`` are
        set by ``persistence`` of the policy)
    :param enough: whether ``windows`` is at least ``k``
    """

    trigger: Trigger
    reason: str
    windows: int = 1
    enough: bool = True


class Limit(Model):
    """A limit on requests for retraining, and whether the limit is reached.

    :param name: ``cooldown``, ``budget``, ``refusals`` (refused candidates) or ``inputs`` (broken features)
    :param says: one clause that explains why the limit is reached or not reached
    :param reached: whether the limit postpones a request
    """

    name: Literal["cooldown", "budget", "refusals", "inputs"]
    says: str
    reached: bool


class RetrainingPlan(Model):
    """The policy's decision about retraining in one window.

    :param triggers: the retraining triggers whose condition is met
    :param limits: the limits that were checked; empty if the window has already requested retraining
    :param request: the request that the window made, in this check or in an earlier check
    :param without: broken features that a training on a request must leave out
    """

    triggers: list[ActiveTrigger] = Field(default_factory=list)
    limits: list[Limit] = Field(default_factory=list)
    request: Request | None = None
    without: list[str] = Field(default_factory=list)

    @property
    def due(self) -> list[ActiveTrigger]:
        """Return the retraining triggers whose condition was met in enough windows."""
        return [active for active in self.triggers if active.enough]

    @property
    def is_requested(self) -> bool:
        """Return whether the window requests retraining: a retraining trigger is due and no limit is reached."""
        return bool(self.due) and not any(limit.reached for limit in self.limits)


class VersionFindings(Model):
    """Measurements on the predictions of a version that was replaced within the window.

    :param version: the replaced version
    :param rows: number of predictions by this version
    :param labelled: number of predictions by this version that have a label
    :param performance: realised performance of this version, compared with the training of this version
    :param unmeasured: why realised performance was not measured or cannot be judged; one clause
    :param prediction: drift of the scores of this version
    :param features: drift of each feature since the training of this version
    """

    version: ModelVersionRef
    rows: int
    labelled: int = 0
    performance: Performance | None = None
    unmeasured: str | None = None
    prediction: Drift | None = None
    features: list[Drift] = Field(default_factory=list)


class Findings(Model):
    """All measurements of monitoring in one window.

    :param created: when the window was checked
    :param policy: the retraining policy that was applied
    :param champion: the champion at the time of the check
    :param scored_by: the version that made the predictions; the latest version if several versions made predictions in
        the window
    :param datasets: the datasets of predictions
    :param rows: number of predictions of ``scored_by``
    :param quarantined: number of rows that validation has quarantined, so that they were not scored
    :param quarantined_estimated: whether ``quarantined`` is an estimate from the share in a longer window, because the
        predictions are a part of a dataset
    :param labelled: number of predictions with a label
    :param coverage: share of the predictions that have a label; ``None`` without predictions
    :param age_days: days from the end of the champion's training data to the end of the window
    :param arrivals: new data since training; ``None`` unless the policy has ``new_data``
    :param code_version: version of the code that trained the champion; ``None`` unless the policy has ``code``
    :param performance: realised performance, measured by comparing predictions with labels
    :param unmeasured: why realised performance was not measured or cannot be judged; one clause
    :param bias: mean error of the predictions; ``None`` for multiclass models, or without labels
    :param interval: coverage of the prediction intervals; ``None`` for a model without intervals, or without labels
    :param positives: how often the model predicted its positive class; ``None`` unless the model is binary
    :param fairness: differences in treatment between groups of rows, for each fairness metric of the policy
    :param estimated: performance estimated from the scores without labels. If realised performance is judged, the
        estimate covers only the labelled rows, so that both values are comparable. Otherwise, the estimate covers all
        rows
    :param challenger: comparison of the champion with challengers; ``None`` if no challenger was trained
    :param label_delay: quantiles of the time from an event to the arrival of the label; ``None`` if arrival times of
        labels are unknown
    :param prediction: drift of the scores
    :param label: drift of the labels; ``None`` if there are too few labels, or if more labels may still arrive
    :param multivariate: drift of the joint distribution of the features, measured by the error of
        reconstructing the features from principal components; ``None`` if no components are stored with the model
    :param attributions: drift of the order of the features' attributions since the first checked window of
        ``scored_by`` (:mod:`airflow_mlops.drift.attributions`); ``None`` if the predictions have no attributions
    :param schema_changes: absent features, new columns, and columns whose type differs from training
    :param freshness: age of the newest row; ``None`` if unknown
    :param features: drift of each feature. Drifted features come first. Both groups are ordered by effect times
        importance
    :param watched: drift of watched columns that are not features
    :param reference: the data that drift was measured against: training or earlier windows
    :param drift_tests: number of drift tests and the thresholds of the tests; ``None`` if nothing was tested
    :param loss: change of the mean loss since training; ``None`` if performance cannot be judged
    :param segments: segments with worse performance; the segment that contributes most beyond its share of the rows
        comes first
    :param changes: change points of performance and of the drift of important features
    :param replaced: findings about versions that made predictions in the window before ``scored_by`` replaced them. All
        other fields are about ``scored_by``
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
    quarantined: int = 0
    quarantined_estimated: bool = False
    labelled: int = 0
    coverage: float | None = None
    age_days: float | None = None
    arrivals: Arrivals | None = None
    code_version: str | None = None
    performance: Performance | None = None
    unmeasured: str | None = None
    bias: Bias | None = None
    interval: IntervalCoverage | None = None
    positives: PositiveRate | None = None
    fairness: list[FairnessDifference] = Field(default_factory=list)
    estimated: Performance | None = None
    challenger: Comparison | None = None
    label_delay: LabelDelay | None = None
    prediction: Drift | None = None
    label: Drift | None = None
    multivariate: Drift | None = None
    attributions: Drift | None = None
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
        """Return the findings with another policy, as if the version that made the predictions were the champion.

        :param policy: the policy to apply to the measurements
        """
        measured = {name: getattr(self, name) for name in Findings.model_fields}
        return Findings(**{**measured, "policy": policy, "champion": self.scored_by})


class Report(Findings):
    """The findings about a window and the verdict, stored as ``reports/MODEL/WINDOW.json`` next to the HTML page.

    :param format: version of the format, which increases when a field is removed or changes its meaning;
        ``docs/report.schema.json`` describes the fields
    :param retraining: the decision about retraining; ``None`` in reports of old versions, which did not store the
        decision
    :param provenance: the task that checked the window; empty in reports of old versions, which did not store the task
    """

    format: int = 1
    verdict: Verdict
    retraining: RetrainingPlan | None = None
    provenance: Provenance = Provenance()
