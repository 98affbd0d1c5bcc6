"""Combine the measurements of a check by MonitorOperator into findings, from which the policy decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.drift.findings import Freshness, SchemaChange
from airflow_mlops.drift.reference import DriftReference
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.findings import Change, FairnessDifference, PositiveRate
from airflow_mlops.policy.findings import Findings, VersionFindings
from airflow_mlops.profiles.spec import LabelDelay
from airflow_mlops.stages.monitor.champion import ChampionFacts
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.columns import ColumnDrift
from airflow_mlops.stages.monitor.performance import Estimated, Realised
from airflow_mlops.stages.monitor.segments import SegmentFindings


@dataclass(frozen=True)
class Measurements:
    """Measurements on the predictions of a window.

    The default of each field means "not measured".
    """

    scored_by: ModelVersionRef | None = None
    rows: int | None = None
    schema_changes: Sequence[SchemaChange] = ()
    freshness: Freshness | None = None
    label_delay: LabelDelay | None = None
    realised: Realised = field(default_factory=Realised)
    estimated: Estimated = field(default_factory=Estimated)
    positives: PositiveRate | None = None
    fairness: Sequence[FairnessDifference] = ()
    drift: ColumnDrift = field(default_factory=ColumnDrift)
    reference: DriftReference = field(default_factory=DriftReference)
    segments: SegmentFindings = field(default_factory=SegmentFindings)
    replaced: Sequence[VersionFindings] = ()
    challenger: Comparison | None = None
    notes: list[str] = field(default_factory=list)


def compose(check: Check, champion: ChampionFacts, measured: Measurements, changes: Sequence[Change] = ()) -> Findings:
    """Combine facts about the champion and measurements on the predictions into findings.

    :param changes: change points, found by comparison with the findings of earlier windows
    """
    realised, drift = measured.realised, measured.drift
    return Findings(
        model=check.model,
        window=check.window,
        created=check.created,
        policy=check.policy,
        champion=champion.champion,
        scored_by=measured.scored_by,
        datasets=[dataset.ref for dataset in check.datasets],
        rows=check.rows if measured.rows is None else measured.rows,
        quarantined=check.quarantined,
        quarantined_estimated=check.is_quarantine_estimated,
        labelled=realised.labelled,
        coverage=realised.coverage,
        age_days=champion.age_days,
        arrivals=champion.arrivals,
        code_version=champion.code_version,
        performance=realised.performance,
        unmeasured=realised.unmeasured,
        bias=realised.bias,
        interval=realised.interval,
        positives=measured.positives,
        fairness=list(measured.fairness),
        estimated=measured.estimated.performance,
        challenger=measured.challenger,
        label_delay=measured.label_delay,
        prediction=drift.prediction,
        label=drift.label,
        multivariate=drift.multivariate,
        attributions=drift.attributions,
        schema_changes=list(measured.schema_changes),
        freshness=measured.freshness,
        features=drift.features,
        watched=drift.watched,
        reference=measured.reference,
        drift_tests=drift.tests,
        loss=measured.segments.loss,
        segments=measured.segments.segments,
        changes=list(changes),
        replaced=list(measured.replaced),
        notes=[*champion.notes, *measured.notes],
    )
