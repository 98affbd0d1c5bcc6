"""Monitoring: what is asked, what is found, what is decided."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Request, Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef, OptionalDatasetLike
from airflow_mlops.core.windows import Window
from airflow_mlops.drift.reference import Reference
from airflow_mlops.policy.findings import Decision
from airflow_mlops.policy.spec import Policy, Trigger
from airflow_mlops.profiles.spec import ProfilesInput


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
