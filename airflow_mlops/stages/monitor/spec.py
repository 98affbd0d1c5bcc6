"""Spec and result of monitoring."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Request, Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef, OptionalDatasetLike
from airflow_mlops.core.windows import Window
from airflow_mlops.drift.reference import Reference
from airflow_mlops.models.trainers.spec import AnyTrainer
from airflow_mlops.policy.findings import Decision
from airflow_mlops.policy.spec import Policy, Trigger
from airflow_mlops.profiles.spec import ProfilesInput


class MonitorSpec(Spec):
    """The parameters of a check, which compares a window of predictions with training and decides about retraining.

    :param model: name of the model that made the predictions
    :param dataset: predictions, with a column ``label`` if labels are known; ``None`` without predictions
    :param window: the window of the report; by default the window of ``dataset``
    :param reference: the data against which drift of features and scores is measured; performance is always compared
        with training
    :param profiles: profiles of all shards of ``dataset``, or one profile of all rows; by default the check profiles
        the rows
    :param policy: the retraining policy
    :param trainer: the trainer of challengers; by default the trainers of the champion and of the other candidates in
        the last decision, if they run no user code. If the champion's trainer runs user code, there are no challengers
    """

    model: Name
    dataset: OptionalDatasetLike = None
    window: Window | None = None
    reference: Reference = Reference()
    profiles: ProfilesInput = Field(default_factory=list)
    policy: Policy = Policy()
    trainer: AnyTrainer | None = None
    mlflow: MLflowTarget = MLflowTarget()


class MonitorResult(Result):
    """The decision about a window, the reasons for the decision, and the measured numbers.

    :param headline: the main reason, in at most 90 characters
    :param details: the facts behind the decision, one sentence each
    :param reason: the headline and the details as one text
    :param metrics: the numbers that were measured, by name. ``rows`` and ``labelled`` are numbers of predictions, and
        ``coverage`` is the share of the predictions that have a label. ``features_drifted`` is the number of drifted
        features. ``feature_drift`` (of ``most_drifted``), ``prediction_drift`` (of the scores), ``label_drift`` and
        ``multivariate_drift`` are effect sizes: the share of rows, from 0 to 1, that would need another value to match
        the reference. ``attribution_drift`` is the share of the total importance that moved between features.
        ``newest_row_age_days`` is the age of the newest row at the time of the check, and ``newest_row_behind_days``
        its age at the end of the window. Realised performance has the name of the metric, with the suffixes ``_low``,
        ``_high`` and ``_reference`` for the interval and the value at training. Estimated performance has the same
        names with the prefix ``estimated_``.
        ``bias`` (mean of prediction minus label), ``interval_coverage`` (share of the labels in their prediction
        interval) and ``positive_rate`` (share of positive predictions of a binary model) have the same suffixes.
        ``demographic_parity_over_COLUMN`` and ``equalized_odds_over_COLUMN`` are the fairness metrics of the policy, with
        the same suffixes. Their ``_reference`` is the value in the evaluation of the version.
        ``label_delay_median``, ``label_delay_p90`` and ``label_delay_p99`` are in days
    :param metric: name of the metric of realised performance; ``None`` if realised performance was not measured
    :param most_drifted: the drifted feature with the largest effect; if no feature drifted, the measured feature with
        the largest effect
    :param worst_segment: the segment that contributes most to worse performance, beyond its share of the rows
    :param changed_since: the first window at the current level of realised performance; ``None`` if the level has not
        changed
    :param report_url: URL of the page in the artifact store
    :param superseded: whether a report on a later window makes this report outdated. A later report does so if it
        judges performance, or if this report does not judge performance
    :param request: the request for retraining, if the decision is ``retrain``
    :param request_sent: whether this task sent ``request`` as an asset event. The step itself sends nothing
    :param request_asset: URI of the asset to which ``request`` was sent; ``None`` if it was not sent
    :param request_key: partition key of the asset event, which names the window; ``None`` if ``request`` was not sent
    :param request_note: why ``request`` was not sent, or why it might not start a training
    :param held_back: the retraining triggers of a postponed request. Cooldown, budget, earlier refusals or broken
        inputs postpone requests
    """

    decision: Decision
    reason: str
    headline: str = ""
    details: list[str] = Field(default_factory=list)
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
    request_sent: bool = False
    request_asset: str | None = None
    request_key: str | None = None
    request_note: str | None = None
    held_back: list[Trigger] = Field(default_factory=list)
