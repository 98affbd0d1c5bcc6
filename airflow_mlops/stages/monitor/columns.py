"""Measure the drift of features, watched columns, scores, labels, and the joint distribution of the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from airflow_mlops.core.errors import SpecError, named
from airflow_mlops.core.zones import UTC
from airflow_mlops.data.columns import LABEL
from airflow_mlops.drift import schema
from airflow_mlops.drift import univariate as drift
from airflow_mlops.drift.findings import Drift, DriftTests, SchemaChange
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.profiles import multivariate, shards
from airflow_mlops.profiles.labels import labels
from airflow_mlops.profiles.profile import Profile, profile
from airflow_mlops.profiles.spans import span_of
from airflow_mlops.profiles.spec import ProfileRef
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.references import Baselines


@dataclass(frozen=True)
class ColumnDrift:
    """The drift of all columns of a window.

    The fields have the same names and meanings as in :class:`~airflow_mlops.policy.findings.Findings`. ``tests`` is
    called ``drift_tests`` there.
    """

    features: list[Drift] = field(default_factory=list)
    watched: list[Drift] = field(default_factory=list)
    prediction: Drift | None = None
    multivariate: Drift | None = None
    label: Drift | None = None
    attributions: Drift | None = None
    tests: DriftTests | None = None


def window_profile(check: Check, reference: TrainingReference, profiles: Sequence[ProfileRef]) -> Profile:
    """Return the profile of the columns of a window.

    :param profiles: profiles of all shards of the predictions, which are merged; if empty, the rows are profiled
    :raises SpecError: ``profiles`` do not cover all rows, or do not have all features
    """
    wanted = reference.columns
    if not profiles:
        return reference.profile_of(check.batches(wanted), wanted)
    merged = shards.whole([shards.read(check.store, ref) for ref in profiles], check.datasets)
    optional = reference.profile.watched.columns
    if missing := [name for name in wanted if name not in merged.columns and name not in optional]:
        raise SpecError(
            f"The profiles of dataset {check.datasets[0].manifest.name!r} have no {named('column', missing)}. Set "
            "model= of ProfileOperator, or name all features in its columns=."
        )
    known = {name: merged.columns[name] for name in [*wanted, multivariate.ERROR] if name in merged.columns}
    return Profile(rows=merged.rows, columns=known)


def measure(
    check: Check,
    reference: TrainingReference,
    current: Profile,
    baselines: Baselines,
    judge_labels: bool,
    attributions: Sequence[Drift] = (),
) -> ColumnDrift:
    """Measure and test the drift of all columns.

    The p-values of all columns are adjusted together: a false alarm about any column is a false alarm about the window.

    :param reference: the training reference of the version that made the predictions
    :param current: the profile of the window
    :param baselines: the profiles with which ``current`` is compared
    :param judge_labels: whether the labels are complete enough to measure their drift
    :param attributions: the measured drift of the attributions; empty if the predictions have none
    """

    # A window in UTC does not show the time zone of the events.
    zone = check.window.zone if check.window.zone != UTC else None
    span = span_of(check.window.end - check.window.start)
    constant = {name: shares[span] for name, shares in reference.profile.constant.items() if span in shares}

    known = reference.profile
    trained = {**known.features.columns, **known.watched.columns, **known.scores.columns}
    designs = clusters.designs(check, {name: column for name, column in trained.items() if name in current.columns})

    def measured(baseline: Mapping[str, Profile]) -> list[Drift]:
        return [
            item
            for name, before in baseline.items()
            for item in drift.measure(before, current, check.policy, name, zone, constant, designs)
        ]

    groups = [
        measured(baselines.features),
        measured(baselines.watched),
        measured(baselines.scores),
        measured(baselines.together) or _not_together(reference),
        _label_drift(check, reference) if judge_labels else [],
        list(attributions),
    ]
    judged = drift.decide([item for group in groups for item in group], check.policy)
    rest = iter(judged)
    features, watched, scores, together, label, explained = ([next(rest) for _ in group] for group in groups)
    importance = reference.profile.importance
    features = [Drift(**{**dict(item), "importance": importance.get(item.column)}) for item in features]
    return ColumnDrift(
        features=[*drift.ranked(features), *_unmeasured(reference.incompatible, reference.profile.features)],
        watched=[*drift.ranked(watched), *_unmeasured_watched(current, reference)],
        prediction=next(iter(scores), None),
        multivariate=next(iter(together), None),
        label=next(iter(label), None),
        attributions=next(iter(explained), None),
        tests=drift.tests_summary(judged, check.policy),
    )


def _unmeasured(changes: Mapping[str, SchemaChange], reference: Profile) -> list[Drift]:
    return [schema.unmeasured(item, reference.columns[name].kind) for name, item in changes.items()]


def _unmeasured_watched(current: Profile, reference: TrainingReference) -> list[Drift]:
    """Return a finding for each watched column that was not measured. The finding has a reason instead of the drift."""
    changes, known = reference.watched_changes, reference.profile.watched
    note = "not measured: the profiles of the shards do not have it"
    left_out = [name for name in known.columns if name not in current.columns and name not in changes]
    return [
        *_unmeasured(changes, known),
        *(Drift(column=name, kind=known.columns[name].kind, note=note) for name in left_out),
    ]


def _not_together(reference: TrainingReference) -> list[Drift]:
    """Return a finding with the reason why the joint distribution of the features was not measured.

    The list is empty if the profile of the model has no principal components.
    """
    if reference.profile.multivariate is None:
        return []
    why = reference.unfit(reference.columns) or "the profiles of the shards were computed without the model"
    return [Drift(column=multivariate.ERROR, kind="numeric", note=f"not measured: {why}")]


def _label_drift(check: Check, reference: TrainingReference) -> list[Drift]:
    known = reference.profile.labels
    if known is None:
        return []
    current = profile(labels(check.batches([LABEL]), reference.contract), [LABEL])
    designs = {LABEL: clusters.label_design(check, reference.contract, known.columns[LABEL])}
    return drift.measure(known, current, check.policy, designs=designs)
