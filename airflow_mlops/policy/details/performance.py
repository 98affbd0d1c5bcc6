"""Facts about realised and estimated performance."""

from __future__ import annotations

from airflow_mlops.core.counts import counted
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.metrics.catalog import find_metric, is_coverage_gap
from airflow_mlops.performance.difference import difference
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.checks import (
    exceeds_limit,
    is_acceptable,
    is_replaced,
    is_worse,
    judged_performance,
    lost_coverage,
    missed_estimate,
)
from airflow_mlops.policy.details.drift import against
from airflow_mlops.policy.details.observation import Observation, stated
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.standards import Standard, standards, tolerance
from airflow_mlops.policy.wording import capitalized, duration_text, listed, metric_name, number, share

_MAX_LISTED = 10
# The factor is large because errors with heavy tails double by chance, and rare positives double a log loss.
_FAR = 10.0


def change_of(performance: Performance, policy: Policy, estimated: bool = False) -> str:
    """Return a clause about worse performance, such as ``ROC AUC fell to 0.598 (at least 0.662 was expected)``.

    The clause names the first standard that performance does not meet.
    """
    metric, broken = metric_name(performance.metric), _broken(performance, policy)
    subject = f"Estimated {metric}" if estimated else capitalized(metric)
    if broken is not None and broken.kind == "recent" and performance.recent is not None:
        reached = f"v{performance.recent.version} reached {number(performance.recent.value)}"
        return f"{subject} {fell(performance, policy)} ({reached} before)"
    verb = "is allowed" if broken is not None and broken.kind == "bound" else "was expected"
    return f"{subject} {fell(performance, policy)} ({_limit(performance, broken)} {verb})"


def levels_of(performance: Performance, policy: Policy, kind: str = "Realised") -> list[str]:
    """Return sentences that compare performance with training, with the bound, and with the best recent level.

    :param kind: ``Realised`` or ``Estimated``
    """
    found = {standard.kind: standard for standard in standards(performance, policy)}
    sentences = [level_of(performance, policy, kind)]
    if (bound := found.get("bound")) is not None:
        sentences.append(f"The policy allows {metric_name(performance.metric)} of {_limit(performance, bound)}.")
    if (recent := performance.recent) is not None and policy.best_recent is not None:
        allowed = tolerance(performance, recent.value, policy)
        many = f", corrected for {counted(recent.compared, 'version')}" if recent.compared > 1 else ""
        sentences.append(
            f"v{recent.version} reached a mean {metric_name(performance.metric)} of {number(recent.value)} in {recent.windows} windows, "
            f"the best level in {duration_text(policy.best_recent.total_seconds() / 86_400)}: difference "
            f"{number(recent.low)} to {number(recent.high)} ({share(policy.confidence, 0)} interval{many}; "
            f"{number(allowed)} is tolerated)."
        )
    return sentences


def level_of(performance: Performance, policy: Policy, kind: str = "Realised") -> str:
    """Return a sentence with the value of the metric, the confidence interval, the value at training, and the limit.

    :param kind: ``Realised`` or ``Estimated``
    """
    interval = f"{share(policy.confidence, 0)} interval {number(performance.low)} to {number(performance.high)}"
    subject, value = f"{kind} {metric_name(performance.metric)}", number(performance.value)
    if performance.reference is None:
        return f"{subject}: {value} ({interval})."
    trained = f"{number(performance.reference)} on the held-out part at training{_difference(performance, policy)}"
    (training,) = [standard for standard in standards(performance, policy) if standard.kind == "training"]
    if training.exceeded and not training.broken:
        return f"{subject}: {_not_significant(performance, training)} ({interval}, {trained})."
    return f"{subject}: {value} ({interval}, {trained}, {_limit(performance, training)} expected)."


def acceptable(performance: Performance, policy: Policy) -> str:
    """Return a headline clause for performance that is not significantly worse than a standard allows."""
    metric = metric_name(performance.metric)
    if exceeds_limit(performance, policy):
        exceeded = next(standard for standard in standards(performance, policy) if standard.exceeded)
        return f"{metric} {_not_significant(performance, exceeded)}"
    return f"performance as expected ({metric} {number(performance.value)})"


def few_large_errors(findings: Findings) -> list[Observation]:
    """Return an observation if performance is far worse than the limit, but not significantly.

    A metric that should be low is far worse if it is more than ten times the limit. A metric that should be high is far
    worse if it is below the limit by more than nine times the limit. Only metrics without a lower bound, such as R²,
    can be so low. Limits of 0 and below are not considered.

    The likely cause is a few rows with very large errors, such as rows with wrong labels. These rows also make the
    confidence interval wide, so that the difference is not significant.
    """
    judged, policy = judged_performance(findings), findings.policy
    # A coverage gap is a share of rows, so the size of the errors does not change it.
    if judged is None or is_worse(judged, policy) or is_coverage_gap(judged.metric):
        return []
    limits = [standard.limit for standard in standards(judged, policy)]
    sign = -1 if judged.higher_is_better else 1
    exceeded = [limit for limit in limits if limit > 0 and sign * (judged.value - limit) > (_FAR - 1) * limit]
    if not exceeded:
        return []
    metric = f"{capitalized(metric_name(judged.metric))} {number(judged.value)}"
    why = "a few rows have very large errors"
    if judged.higher_is_better:
        return [stated(f"{metric} is far below the required {number(max(exceeded))}; {why}")]
    return [stated(f"{metric} is more than ten times the allowed {number(min(exceeded))}; {why}")]


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


def coverage_of(findings: Findings) -> list[str]:
    """Return a sentence about the coverage of the prediction intervals; empty unless it is significantly too low."""
    lost = lost_coverage(findings)
    if lost is None:
        return []
    level = level_of(lost, findings.policy).removesuffix(".")
    return [
        f"{level}. The intervals were built for a coverage of {share(lost.nominal, 4 if lost.nominal > 0.9999 else 2)}."
    ]


def narrow_intervals(findings: Findings) -> list[Observation]:
    """Return an observation if the coverage of the prediction intervals is significantly lower than at training.

    Intervals of a version that is no longer the champion are left out.
    """
    lost = lost_coverage(findings)
    if lost is None or is_replaced(findings):
        return []
    return [Observation(change_of(lost, findings.policy), coverage_of(findings))]


def worse_performance(findings: Findings) -> list[str]:
    """Return the facts behind the trigger ``performance``.

    The facts are the levels of the metric, the coverage of the prediction intervals and, if the metric is significantly
    worse, possible reasons. The list is empty if realised performance was not measured.
    """
    measured, policy = findings.performance, findings.policy
    if measured is None:
        return []
    if is_worse(measured, policy):
        return [*levels_of(measured, policy), *reasons_for_worse_performance(findings), *coverage_of(findings)]
    return [*coverage_of(findings), *levels_of(measured, policy)]


def reasons_for_worse_performance(findings: Findings) -> list[str]:
    """Return sentences that help to explain worse performance.

    They are about columns with unusual values, the bias of the predictions, estimated performance, and the segment that
    contributes most to the change. A sentence without content is left out.
    """
    return [*_unusual_columns(findings), *bias_of(findings), *_estimate(findings), *_largest_segment(findings)]


def unjudged_performance(findings: Findings) -> list[Observation]:
    """Return an observation if realised performance cannot be judged."""
    if findings.unmeasured is None:
        return []
    headline = f"Realised performance is not judged because {findings.unmeasured}"
    details = [f"{headline}."]
    estimated, policy = findings.estimated, findings.policy
    if estimated is not None and is_acceptable(estimated, policy):
        details += levels_of(estimated, policy, "Estimated")
    return [Observation(headline, details)]


def fell(performance: Performance, policy: Policy) -> str:
    """Return a clause without a subject: ``fell to 0.598`` or ``rose to 31.2``.

    If the value breaks the absolute bound, the clause is ``is 0.598``, because the value need not have changed since
    training.
    """
    broken = _broken(performance, policy)
    if broken is not None and broken.kind == "bound":
        return f"is {number(performance.value)}"
    return f"{'fell' if performance.higher_is_better else 'rose'} to {number(performance.value)}"


def _broken(performance: Performance, policy: Policy) -> Standard | None:
    """Return the first standard that performance does not meet."""
    return next((standard for standard in standards(performance, policy) if standard.broken), None)


def _difference(performance: Performance, policy: Policy) -> str:
    """Return the end of a clause with the confidence interval of the difference from training.

    The text is empty if the difference, or the confidence interval of the value at training, is unknown.
    """
    change = difference(performance, policy.confidence)
    if change is None or performance.reference_low is None:
        return ""
    many = f", corrected for {performance.compared} compared models" if performance.compared > 1 else ""
    return f", difference {number(change.low)} to {number(change.high)}{many}"


def _not_significant(performance: Performance, standard: Standard) -> str:
    side, end = ("below", "minimum") if performance.higher_is_better else ("above", "maximum")
    which = "allowed" if standard.kind == "bound" else "expected"
    return f"{number(performance.value)} is not significantly {side} the {which} {end} {number(standard.limit)}"


def _limit(performance: Performance, standard: Standard | None) -> str:
    limit = standard.limit if standard is not None else performance.value
    return f"{'at least' if performance.higher_is_better else 'at most'} {number(limit)}"


def _unusual_columns(findings: Findings) -> list[str]:
    """Return a sentence that lists drifted columns with unusual values.

    Broken features are left out, because another sentence of the report lists them.
    """
    columns = [drift for drift in findings.features if not drift.broken]
    columns += [findings.prediction] if findings.prediction else []
    odd = [drift.column for drift in columns if drift.note and drift.drifted]
    return [f"Columns with unusual values, to be checked first: {listed(odd, _MAX_LISTED)}."] if odd else []


def _estimate(findings: Findings) -> list[str]:
    """Return a sentence about estimated performance, if the estimate helps to explain worse realised performance.

    If estimated performance is significantly worse than at training, changed inputs explain at least part of the drop.
    If realised performance lies outside the confidence interval of an estimate that is not worse, concept drift is
    likely. Concept drift is then likely even if the inputs drifted, because the estimate takes the drift of the inputs
    into account. In all other cases, the list is empty.
    """
    estimated, realised = findings.estimated, judged_performance(findings)
    if estimated is None or realised is None:
        return []
    interval = f"{number(estimated.low)} to {number(estimated.high)}"
    estimate = f"{capitalized(metric_name(estimated.metric))} estimated from the scores, without labels, is {interval}"
    change = "drop" if realised.higher_is_better else "rise"
    if any(item.broken for item in standards(estimated, findings.policy) if item.kind == "training"):
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
    change = "drop" if find_metric(loss.metric).higher_is_better else "rise"
    part = ""
    if increase > 0:
        ratio = worst.contribution / increase
        if ratio <= 1:
            part = f", {share(ratio, 0)} of the {change}"
        else:
            part = f"; the {change} in this segment exceeds the total {change}, because other segments improved"
    return [f"Largest {change}: {worst.name} ({share(worst.share, 0)} of rows{part})."]
