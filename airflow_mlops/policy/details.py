"""The facts behind a verdict, as sentences with numbers and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.drift.findings import Drift, SchemaChange
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.metrics.catalog import METRICS, find_metric
from airflow_mlops.performance.challenger import Comparison, Gain
from airflow_mlops.performance.difference import difference
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.checks import (
    IMPACT,
    accepted_estimate,
    days,
    exceeds_limit,
    impact,
    is_replaced,
    is_worse,
    judged_performance,
    limit,
    missed_estimate,
    scores_do_not_follow,
    why_drift_matters,
)
from airflow_mlops.policy.findings import Findings, VersionFindings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.wording import (
    DETAIL_LENGTH,
    capitalized,
    counted,
    effect,
    fitting,
    in_days,
    listed,
    metric_name,
    name,
    number,
    only,
    period,
    share,
)

_MAX_LISTED = 10


@dataclass(frozen=True)
class Observation:
    """A fact that a verdict reports.

    :param headline: one short clause, without a full stop
    :param details: sentences that state the fact with all numbers
    """

    headline: str
    details: list[str] = field(default_factory=list)


def observations(
    findings: Findings, inputs_reported: bool = False, earlier: Sequence[Findings] = ()
) -> list[Observation]:
    """Return the observations that a person should look at, most urgent first.

    :param inputs_reported: whether the verdict already names the broken inputs; if so, broken inputs are left out here
    :param earlier: findings of earlier windows, ordered by time
    """
    if not findings.rows:
        return [_stated(f"No predictions in {name(findings.window.label)}")]
    matters = why_drift_matters(findings, earlier)
    return [
        *([] if inputs_reported else _broken(findings)),
        *_broken_others(findings),
        *_worse_estimate(findings),
        *_infinite_values(findings),
        *_staleness(findings),
        *(_important_drift(findings, inputs_reported, matters) if matters is not None else []),
        *([_labels_not_followed(findings)] if scores_do_not_follow(findings) else []),
        *([] if accepted_estimate(findings) is not None else _unjudged_performance(findings)),
        *_few_rows(findings),
    ]


def movements(findings: Findings, inputs_reported: bool = False) -> list[Observation]:
    """Return an observation about each kind of drift, harmful or not: features, scores, labels, and watched columns.

    :param inputs_reported: whether the verdict already names the broken inputs
    """
    return [*_input_drift(findings, inputs_reported), *_other_drift(findings)] if findings.rows else []


def change_of(performance: Performance, policy: Policy, estimated: bool = False) -> str:
    """Return a clause about worse performance, such as ``ROC AUC fell to 0.598 (at least 0.662 was expected)``."""
    metric = metric_name(performance.metric)
    subject = f"Estimated {metric}" if estimated else capitalized(metric)
    return f"{subject} {_fell(performance)} ({_bound(performance, policy)} was expected)"


def deciding_comparison(findings: Findings) -> Comparison | None:
    """Return the comparison with challengers if it decides about retraining instead of worse performance.

    With broken inputs, a challenger cannot show whether a model that is trained on repaired inputs would be better.
    """
    decides = "challenger" in findings.policy.retrain_on and not broken_inputs(findings)
    return findings.challenger if decides else None


def gain_of(comparison: Comparison, gain: Gain) -> str:
    """Return a clause about a better challenger, such as ``Retraining would raise ROC AUC from 0.598 to 0.640``."""
    better = find_metric(comparison.metric).higher_is_better
    values = f"from {number(comparison.value)} to {number(gain.value)}"
    return f"Retraining would {'raise' if better else 'lower'} {metric_name(comparison.metric)} {values}"


def challengers_of(comparison: Comparison, policy: Policy) -> list[str]:
    """Return sentences with the values of the champion and of all challengers, and the largest significant gain."""
    metric = metric_name(comparison.metric)
    values = listed(
        [f"{number(item.value)} with {_past(item.past)}" for item in comparison.challengers],
        len(comparison.challengers),
    )
    rows = counted(comparison.rows, "labelled row")
    values = f"{number(comparison.value)} by champion v{comparison.champion.version}, and by challengers {values}"
    facts = [f"{capitalized(metric)} on {rows}: {values}."]
    needed = f"{share(policy.min_gain, 0)} needed"
    if (best := comparison.best) is None:
        facts.append(f"No challenger reduces the mean loss significantly and by enough ({needed}).")
    else:
        over = f"mean of {best.windows} windows" if best.windows > 1 else "this window"
        facts.append(
            f"The challenger with {_past(best.past)} reduces the mean loss by {share(best.share)} ({over}; at least "
            f"{share(best.low)} with {share(policy.confidence, 0)} confidence, {needed})."
        )
    return facts


def _past(windows: int | None) -> str:
    if windows is None:
        return "all windows"
    return "this window alone" if windows == 1 else f"the last {windows} windows"


def level_of(performance: Performance, policy: Policy, kind: str = "Realised") -> str:
    """Return a sentence with the value of the metric, the confidence interval, the value at training, and the limit.

    :param kind: ``Realised`` or ``Estimated``
    """
    interval = f"{share(policy.confidence, 0)} interval {number(performance.low)} to {number(performance.high)}"
    subject, value = f"{kind} {metric_name(performance.metric)}", number(performance.value)
    if performance.reference is None:
        return f"{subject}: {value} ({interval})."
    trained = f"{number(performance.reference)} on the held-out part at training{_difference(performance, policy)}"
    if exceeds_limit(performance, policy) and not is_worse(performance, policy):
        return f"{subject}: {_not_significant(performance, policy)} ({interval}, {trained})."
    return f"{subject}: {value} ({interval}, {trained}, {_bound(performance, policy)} expected)."


def _difference(performance: Performance, policy: Policy) -> str:
    """Return the end of a clause with the interval of the difference from training; empty without an interval."""
    change = difference(performance, policy.confidence)
    if change is None or performance.reference_low is None:
        return ""
    many = f", corrected for {performance.compared} compared models" if performance.compared > 1 else ""
    return f", difference {number(change.low)} to {number(change.high)}{many}"


def acceptable(performance: Performance, policy: Policy) -> str:
    """Return a headline clause for performance that is not significantly worse than the limit."""
    metric = metric_name(performance.metric)
    if exceeds_limit(performance, policy):
        return f"{metric} {_not_significant(performance, policy)}"
    return f"performance as expected ({metric} {number(performance.value)})"


def replaced_version(findings: Findings, estimated: bool = False) -> Observation | None:
    """Return an observation about worse performance of a version that is no longer the champion.

    :param estimated: whether to report estimated instead of realised performance
    :return: ``None`` if the champion made the predictions
    """
    measured = findings.estimated if estimated else findings.performance
    scored_by, champion = findings.scored_by, findings.champion
    if measured is None or scored_by is None or champion is None or not is_replaced(findings):
        return None
    kind, prefix = ("Estimated", "Estimated ") if estimated else ("Realised", "")
    version = f"v{scored_by.version}"
    because = f"because {model_version(champion)} has replaced {version}, which made these predictions"
    subject = capitalized(f"{prefix}{metric_name(measured.metric)} of {version}")
    return Observation(
        f"{subject} {_fell(measured)}; {version} was already replaced by v{champion.version}",
        [level_of(measured, findings.policy, kind), f"No retraining is requested {because}."],
    )


def replaced_in_window(findings: Findings) -> list[Observation]:
    """Return an observation about versions that were replaced within the window.

    :return: empty if one version made all predictions
    """
    if not findings.replaced or findings.scored_by is None:
        return []
    rows = findings.rows + sum(item.rows for item in findings.replaced)
    version = f"v{findings.scored_by.version}"
    headline = f"{version} made {findings.rows:,} of {counted(rows, 'prediction')}"
    others = "Each version is compared with its own training, and the decision is about the latest version"
    return [
        Observation(headline, [f"{headline}. {others}.", *(_replaced(item, findings) for item in findings.replaced)])
    ]


def _replaced(item: VersionFindings, findings: Findings) -> str:
    made = f"v{item.version.version} made {counted(item.rows, 'prediction')}"
    if item.performance is not None and item.unmeasured is None:
        level = level_of(item.performance, findings.policy)
    else:
        level = f"Its performance is not judged, because {item.unmeasured or 'it was not measured'}."
    drifted = [name(drift.column) for drift in item.features if drift.drifted]
    return f"{made}. {level} {f'Drifted: {listed(drifted)}' if drifted else 'No feature drifted'}."


def reasons_for_worse_performance(findings: Findings) -> list[str]:
    """Return sentences about unusual columns, the estimate, and the segment that contributes most to the drop."""
    return [*_unusual_columns(findings), *bias_of(findings), *_estimate(findings), *_largest_segment(findings)]


def bias_of(findings: Findings) -> list[str]:
    """Return a sentence about the bias of the predictions; empty if the bias is not significant."""
    bias = findings.bias
    if bias is None or not bias.significant or judged_performance(findings) is None:
        return []
    side = "high" if bias.value > 0 else "low"
    trained = f", {number(bias.reference)} on the held-out part at training" if bias.reference is not None else ""
    interval = f"{share(findings.policy.confidence, 0)} interval {number(bias.low)} to {number(bias.high)}"
    what = "Predicted probabilities" if bias.of_probabilities else "Predictions"
    return [f"{what} are too {side} on average: mean error {number(bias.value)} ({interval}{trained})."]


def broken_inputs(findings: Findings) -> dict[str, str]:
    """Return, for each broken feature, a clause without a subject about what is broken.

    A feature is broken if it is absent, has an incompatible type, or if :mod:`airflow_mlops.drift.breakage` says so.
    """
    broken = {
        drift.column: drift.fault or ("has no values" if drift.missing == 1 else "has one value in all rows")
        for drift in findings.features
        if drift.broken and drift.drifted
    }
    return broken | {change.column: _change(change) for change in _incompatible(findings)}


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


def model_version(version: ModelVersionRef) -> str:
    """Return the name of a version for use within a sentence, such as ``model delays v1``."""
    return f"model {version}"


def _stated(headline: str) -> Observation:
    return Observation(headline, [f"{headline}."])


def _fell(performance: Performance) -> str:
    return f"{'fell' if performance.higher_is_better else 'rose'} to {number(performance.value)}"


def _not_significant(performance: Performance, policy: Policy) -> str:
    bound = limit(performance, policy)
    side = "below the expected minimum" if performance.higher_is_better else "above the expected maximum"
    return f"{number(performance.value)} is not significantly {side} {number(bound or 0)}"


def _broken(findings: Findings) -> list[Observation]:
    """Return an observation about broken features. Changes of the schema are one of the ways in which features break."""
    broken = broken_inputs(findings)
    if not broken:
        return []
    clauses = [f"{column} {what}" for column, what in broken.items()]
    schema = len(_incompatible(findings)) == len(broken)
    subject = "Schema changed since training" if schema else "Broken inputs"
    headlines = [f"{subject}: {listed(clauses, shown)}" for shown in (3, 2, 1)]
    names = f"{subject}: {listed([name(column) for column in broken])}"
    return [Observation(fitting(*headlines, names), [f"{subject}: {listed(clauses, _MAX_LISTED)}."])]


def _broken_others(findings: Findings) -> list[Observation]:
    """Return observations about broken scores and broken watched columns."""
    others = [*([findings.prediction] if findings.prediction else []), *findings.watched]
    broken = [drift for drift in others if drift.broken and drift.drifted]
    stated = []
    for drift in broken:
        subject = "The score" if drift is findings.prediction else f"Monitored column {name(drift.column)!r}"
        stated.append(_stated(f"{subject} {drift.fault or 'has no values, or one value in all rows'}"))
    return stated


def _worse_estimate(findings: Findings) -> list[Observation]:
    estimated, policy = findings.estimated, findings.policy
    if findings.unmeasured is None or estimated is None or not is_worse(estimated, policy):
        return []
    if (replaced := replaced_version(findings, estimated=True)) is not None:
        return [replaced]
    level = level_of(estimated, policy, "Estimated")
    if "estimated_performance" in policy.retrain_on:
        return [Observation(change_of(estimated, policy, estimated=True), [level])]
    labels_decide = "performance" in policy.retrain_on
    consequence = "retraining waits for labels" if labels_decide else "an estimate requests no retraining"
    headline = f"Estimated {metric_name(estimated.metric)} {_fell(estimated)}; {consequence}"
    why = (
        "The estimate uses the scores and no labels. It does not request retraining, because retrain_on does not "
        "contain 'estimated_performance'."
    )
    wait = " Retraining waits for labels." if labels_decide else ""
    return [Observation(headline, [level, f"{why}{wait}"])]


def _infinite_values(findings: Findings) -> list[Observation]:
    found = [drift for drift in findings.features if drift.infinite and not drift.drifted]
    if not found:
        return []
    if len(found) == 1:
        (drift,) = found
        return [
            _stated(
                f"Feature {name(drift.column)} is infinite in {counted(drift.infinite, 'row')}; it never was {drift.when}"
            )
        ]
    times = {drift.when for drift in found}
    when = times.pop() if len(times) == 1 else "in the reference"
    columns = [f"{name(drift.column)} ({counted(drift.infinite, 'row')})" for drift in found]
    headline, detail = (
        f"Infinite values in {listed(columns, shown)}; they had none {when}" for shown in (3, _MAX_LISTED)
    )
    return [Observation(headline, [f"{detail}."])]


def _staleness(findings: Findings) -> list[Observation]:
    allowed, freshness = findings.policy.max_staleness, findings.freshness
    if allowed is None or freshness is None or freshness.behind_days is None or freshness.behind_days <= days(allowed):
        return []
    window = name(findings.window.label)
    age = f"{in_days(freshness.behind_days)} older than the end of {window}"
    return [_stated(f"The newest prediction is {age} (limit: {in_days(days(allowed))})")]


def _input_drift(findings: Findings, inputs_reported: bool) -> list[Observation]:
    """Return observations about drift of the features, the scores, and the joint distribution of the features."""
    found = []
    features = [drift for drift in findings.features if drift.drifted]
    if features:
        found.append(_drifted_features(features, inputs_reported))
    found += _drifted_part(findings.prediction, "Predicted scores")
    together = findings.multivariate
    if together is not None and together.drifted:
        # Single features that leave their range change the joint distribution, too.
        also = " too" if features else ""
        headline = f"Joint distribution of the features drifted{also} (effect {effect(together.effect)})"
        found.append(
            Observation(headline, [f"{headline}, measured by the error of reconstructing the features with PCA."])
        )
    return [_explained(item, findings) for item in found]


def _other_drift(findings: Findings) -> list[Observation]:
    """Return observations about drift of the labels and of watched columns."""
    watched = [drift for drift in findings.watched if drift.drifted]
    found = [*_drifted_part(findings.label, "Labels"), *([_drifted_monitored(watched)] if watched else [])]
    return [_explained(item, findings) for item in found]


def _drifted_part(part: Drift | None, noun: str) -> list[Observation]:
    if part is None or not part.drifted:
        return []
    headline = f"{noun} drifted{against([part])} (effect {effect(part.effect)})"
    return [Observation(headline, [f"{headline}: {part.remark}." if part.remark else f"{headline}."])]


def _explained(found: Observation, findings: Findings) -> Observation:
    return Observation(found.headline, [*found.details, *compared_windows(findings), _effect_explained(findings)])


def _important_drift(findings: Findings, inputs_reported: bool, why: str) -> list[Observation]:
    """Return the observations about drift of the inputs and the scores, and why the drift matters."""
    reason = (
        f"The drift matters because {why}. Its impact (effects weighted with importance) is {effect(impact(findings))}; "
        f"{IMPACT:g} and more can matter."
    )
    first, *rest = _input_drift(findings, inputs_reported)
    return [Observation(first.headline, [*first.details, reason]), *rest]


def _labels_not_followed(findings: Findings) -> Observation:
    label, scores = findings.label, findings.prediction
    moved = effect(scores.effect) if scores is not None else "unknown"
    headline = f"Labels drifted (effect {effect(label.effect if label else None)}), and the scores did not follow"
    return Observation(headline, [f"{headline}: the effect of score drift is {moved}."])


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


def _drifted_monitored(drifts: Sequence[Drift]) -> Observation:
    """Return an observation about drifted columns that are monitored but are not features."""
    if len(drifts) == 1:
        (drift,) = drifts
        headline = (
            f"Monitored column {name(drift.column)!r} (not a feature) drifted{against(drifts)} "
            f"(effect {effect(drift.effect)})"
        )
    else:
        names = listed([name(drift.column) for drift in drifts])
        headline = f"{len(drifts)} monitored columns (not features) drifted{against(drifts)}: {names}"
    return Observation(headline, [_with_effects("Drifted columns that are not features", drifts, False)])


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


def _unjudged_performance(findings: Findings) -> list[Observation]:
    if findings.unmeasured is None:
        return []
    headline = f"Realised performance is not judged because {findings.unmeasured}"
    details = [f"{headline}."]
    estimated, policy = findings.estimated, findings.policy
    if estimated is not None and estimated.reference is not None and not is_worse(estimated, policy):
        details.append(level_of(estimated, policy, "Estimated"))
    return [Observation(headline, details)]


def _few_rows(findings: Findings) -> list[Observation]:
    least = findings.policy.min_rows
    if findings.rows >= least:
        return []
    return [_stated(f"Drift is not measured because there {only(findings.rows, 'row')} ({least:,} needed)")]


def _unusual_columns(findings: Findings) -> list[str]:
    """Return a sentence that lists drifted columns with unusual values.

    Broken features are left out, because the limit ``inputs`` on requests lists them.
    """
    columns = [drift for drift in findings.features if not drift.broken]
    columns += [findings.prediction] if findings.prediction else []
    odd = [drift.column for drift in columns if drift.note and drift.drifted]
    return [f"Columns with unusual values, to be checked first: {listed(odd, _MAX_LISTED)}."] if odd else []


def _estimate(findings: Findings) -> list[str]:
    """Return a sentence about estimated performance, if the estimate helps to explain worse realised performance.

    A worse estimate means that changed inputs explain part of the drop. If the estimate is unchanged, concept drift is
    likely, whether the inputs drifted or not: the estimate takes drift of the inputs into account.
    """
    estimated, realised = findings.estimated, judged_performance(findings)
    if estimated is None or realised is None:
        return []
    interval = f"{number(estimated.low)} to {number(estimated.high)}"
    estimate = f"{capitalized(metric_name(estimated.metric))} estimated from the scores, without labels, is {interval}"
    change = "drop" if realised.higher_is_better else "rise"
    if is_worse(estimated, findings.policy):
        return [f"{estimate}, so changed inputs explain at least part of the {change}."]
    if not missed_estimate(findings) or all(drift.effect is None for drift in findings.features):
        return []
    parts = [*findings.features, findings.prediction, findings.multivariate]
    conclusion = "relation between features and label has therefore probably changed (concept drift)."
    if any(drift is not None and drift.drifted for drift in parts):
        return [f"{estimate}. The inputs drifted, but this does not explain the {change}. The {conclusion}"]
    if any(drift.reference != TRAINING for drift in findings.features):
        return [f"{estimate}. The inputs have not drifted{against(findings.features)}. The {conclusion}"]
    return [f"{estimate}, and the inputs have not drifted. The {conclusion}"]


def _largest_segment(findings: Findings) -> list[str]:
    loss = findings.loss
    if not findings.segments or loss is None:
        return []
    worst, increase = findings.segments[0], loss.value - loss.reference
    change = "drop" if METRICS[loss.metric].higher_is_better else "rise"
    part = ""
    if increase > 0:
        ratio = worst.contribution / increase
        if ratio <= 1:
            part = f", {share(ratio, 0)} of the {change}"
        else:
            part = f"; the {change} in this segment exceeds the total {change}, because other segments improved"
    return [f"Largest {change}: {worst.name} ({share(worst.share, 0)} of rows{part})."]


def _incompatible(findings: Findings) -> list[SchemaChange]:
    """Return the columns of the training data that are absent or have an incompatible type."""
    return [change for change in findings.schema_changes if change.before is not None and not change.compared]


def _changed(change: SchemaChange) -> str:
    return f"{change.column} {_change(change)}"


def _change(change: SchemaChange) -> str:
    return "is absent" if change.now is None else f"changed from {change.before} to {change.now}"


def _bound(performance: Performance, policy: Policy) -> str:
    bound = limit(performance, policy)
    return f"{'at least' if performance.higher_is_better else 'at most'} {number(bound if bound is not None else 0)}"
