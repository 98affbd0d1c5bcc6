"""Facts about drift: which columns drifted, against which reference, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.core.counts import counted
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.policy.checks import IMPACT, impact
from airflow_mlops.policy.details.observation import Observation, stated
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.wording import DETAIL_LENGTH, effect, fitting, listed, name, only, period, share

_MAX_LISTED = 10


def movements(findings: Findings, inputs_reported: bool = False) -> list[Observation]:
    """Return observations about all drift, harmful or not.

    The drift is that of features, scores, labels, attributions, the joint distribution of the features, and watched
    columns (columns that are monitored although they are not features).

    :param inputs_reported: whether the verdict already names the broken inputs
    """
    if not findings.rows:
        return []
    return [*_input_drift(findings, inputs_reported), *_other_drift(findings), *attribution_drift(findings)]


def harmful_drift(findings: Findings, inputs_reported: bool, why: str) -> list[Observation]:
    """Return the observations about drift of the inputs and the scores. The first observation says why drift matters.

    :param inputs_reported: whether the verdict already names the broken inputs
    :param why: the reason why the drift matters, as a clause
    """
    reason = (
        f"The drift matters because {why}. Its impact (effects weighted by importance) is {effect(impact(findings))}; "
        f"drift with an impact of at least {IMPACT:g} can harm performance."
    )
    first, *rest = _input_drift(findings, inputs_reported)
    return [Observation(first.headline, [*first.details, reason]), *rest]


def labels_not_followed(findings: Findings) -> Observation:
    """Return an observation that the labels drifted further than the scores."""
    label, scores = findings.label, findings.prediction
    moved = effect(scores.effect) if scores is not None else "unknown"
    headline = f"Labels drifted (effect {effect(label.effect if label else None)}), but the scores did not"
    return Observation(headline, [f"{headline} (effect {moved})."])


def attribution_drift(findings: Findings) -> list[Observation]:
    """Return an observation if the order of the features' attributions changed."""
    found = findings.attributions
    if found is None or not found.drifted:
        return []
    headline = f"Attributions drifted{against([found])} ({share(found.effect or 0.0)} of the importance moved)"
    return [Observation(headline, [f"{headline}: {found.remark}."])]


def few_rows(findings: Findings) -> list[Observation]:
    """Return an observation if the window has too few rows to measure drift."""
    least = findings.policy.min_rows
    if findings.rows >= least:
        return []
    return [stated(f"Drift is not measured because there {only(findings.rows, 'row')} ({least:,} needed)")]


def against(drifts: Sequence[Drift]) -> str:
    """Return the end of a clause that names the reference of ``drifts``, such as `` against 2012-04``.

    The text is empty if the reference is training, or if ``drifts`` have several references.
    """
    references = {drift.reference for drift in drifts}
    return f" against {references.pop()}" if len(references) == 1 and TRAINING not in references else ""


def compared_windows(findings: Findings) -> list[str]:
    """Return a sentence that names the earlier windows against which drift is measured.

    The list is empty if drift is measured against training.
    """
    used = findings.reference
    if not used.features:
        return []
    labels = [window.label for window in used.features]
    windows = labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
    if used.asked.season is not None:
        why = f"the window {period(used.asked.season)} earlier"
    else:
        why = "the last window before" if len(labels) == 1 else f"the last {len(labels)} windows before"
    scores = ""
    if not used.scores:
        scores = "; scores are compared with those at training, because a different version scored these windows"
    elif used.scores != used.features:
        same = ", ".join(window.label for window in used.scores)
        scores = f"; scores are compared with {same}, because a different version scored the other windows"
    return [f"Drift is measured against {windows} ({why}){scores}."]


def _input_drift(findings: Findings, inputs_reported: bool) -> list[Observation]:
    """Return observations about drift of the features, the scores, and the joint distribution of the features."""
    found = []
    features = [drift for drift in findings.features if drift.drifted]
    if features:
        found.append(_drifted_features(features, inputs_reported))
    found += _drifted_part(findings.prediction, "Predicted scores")
    together = findings.multivariate
    if together is not None and together.drifted:
        # A single feature that leaves its range changes the joint distribution, too.
        also = " too" if features else ""
        headline = f"Joint distribution of the features drifted{also} (effect {effect(together.effect)})"
        found.append(
            Observation(headline, [f"{headline}, measured by the error of reconstructing the features with PCA."])
        )
    return [_explained(item, findings) for item in found]


def _other_drift(findings: Findings) -> list[Observation]:
    """Return observations about drift of the labels and of watched columns."""
    watched = [drift for drift in findings.watched if drift.drifted]
    found = [*_drifted_part(findings.label, "Labels"), *([_drifted_watched(watched)] if watched else [])]
    return [_explained(item, findings) for item in found]


def _drifted_part(part: Drift | None, noun: str) -> list[Observation]:
    if part is None or not part.drifted:
        return []
    headline = f"{noun} drifted{against([part])} (effect {effect(part.effect)})"
    remark = part.remark
    if not remark and part.test == "missing":
        remark = f"{part.missing:.1%} of the values are missing, and {part.missing_reference:.1%} in the reference"
    return [Observation(headline, [f"{headline}: {remark}." if remark else f"{headline}."])]


def _explained(found: Observation, findings: Findings) -> Observation:
    return Observation(found.headline, [*found.details, *compared_windows(findings), _effect_explained(findings)])


def _drifted_features(drifts: Sequence[Drift], inputs_reported: bool) -> Observation:
    drifted = f"{counted(len(drifts), 'feature')} drifted{against(drifts)}"
    largest = max(drifts, key=lambda drift: drift.effect or 0)
    names = listed([name(drift.column) for drift in drifts])
    if len(drifts) == 1:
        headline = f"{drifted}: {names} (effect {effect(largest.effect)})"
    else:
        most = f"(largest effect {effect(largest.effect)}: {name(largest.column)})"
        headline = fitting(f"{drifted}: {names} {most}", f"{drifted} {most}")
    return Observation(headline, [_with_effects("Drifted features", drifts, inputs_reported)])


def _drifted_watched(drifts: Sequence[Drift]) -> Observation:
    """Return an observation about drifted watched columns (columns that are monitored but are not features).

    :param drifts: the drift of these columns, at least one
    """
    if len(drifts) == 1:
        (drift,) = drifts
        headline = (
            f"Watched column {name(drift.column)!r} (not a feature) drifted{against(drifts)} "
            f"(effect {effect(drift.effect)})"
        )
    else:
        names = listed([name(drift.column) for drift in drifts])
        headline = f"{len(drifts)} watched columns (not features) drifted{against(drifts)}: {names}"
    return Observation(headline, [_with_effects("Drifted watched columns (not features)", drifts, False)])


def _with_effects(subject: str, drifts: Sequence[Drift], inputs_reported: bool) -> str:
    """Return a sentence that lists columns with effects and remarks.

    The sentence lists as many columns as fit into one detail, and at most ten.
    """
    columns = []
    for drift in drifts:
        remark = "" if inputs_reported and drift.broken else drift.remark
        columns.append(f"{drift.column} {effect(drift.effect)}{f' ({remark})' if remark else ''}")
    texts = (f"{subject}, with effects: {listed(columns, shown)}." for shown in range(_MAX_LISTED, 0, -1))
    return fitting(*texts, length=DETAIL_LENGTH)


def _effect_explained(findings: Findings) -> str:
    columns = [*findings.features, *findings.watched, findings.prediction, findings.label, findings.multivariate]
    references = {drift.reference for drift in columns if drift is not None and drift.drifted}
    reference = name(references.pop()) if len(references) == 1 else "the reference"
    return (
        f"Effect: at least this share of rows would need a different value to match {reference}; effects below "
        f"{findings.policy.min_effect:g} (min_effect) do not count."
    )
