"""Render a report as one HTML page that needs no scripts, no network and no fonts.

The templates are in ``templates/`` and escape all text that comes from data.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from airflow_mlops.core.numbers import percent
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.performance.difference import difference
from airflow_mlops.performance.findings import Bias, FairnessDifference, IntervalCoverage, Performance, PositiveRate
from airflow_mlops.policy.checks import is_less_fair, is_worse, missed_estimate
from airflow_mlops.policy.findings import Report
from airflow_mlops.policy.standards import standards
from airflow_mlops.policy.wording import capitalized, duration_text, metric_name, number
from airflow_mlops.stages.monitor.page.drawing import BADGES, BLUE, ORANGE, p_value
from airflow_mlops.stages.monitor.page.drift_table import feature_section, score_sections
from airflow_mlops.stages.monitor.page.reasons import change_section, segment_section
from airflow_mlops.stages.monitor.page.retraining import retraining_section
from airflow_mlops.stages.monitor.page.timeline import timeline


class Figure(NamedTuple):
    """A named number at the top of the page, with a note."""

    name: str
    value: str
    note: str


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(report: Report, history: Sequence[Report] = ()) -> str:
    """Return the HTML page of a report.

    :param history: reports on earlier windows of the same model, ordered by time
    """
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=f"{report.model} · {report.window.label}",
            badge=BADGES[report.verdict.decision],
            verdict=report.verdict,
            figures=[*_figures(report), *_champion(report)],
            timeline=timeline([*history, report]),
            changes=change_section(report),
            segments=segment_section(report),
            retraining=retraining_section(report, history),
            scores=score_sections(report),
            features=feature_section(report),
            facts=_facts(report),
            blue=BLUE,
            orange=ORANGE,
        )
    )


def _figures(report: Report) -> list[Figure]:
    figures = [Figure("Predictions", f"{report.rows:,}", "rows in the window")]
    if report.coverage is not None:
        figures.append(Figure("Label coverage", percent(report.coverage), f"{report.labelled:,} labels"))
    if (found := report.performance) is not None:
        metric = metric_name(found.metric)
        figures.append(Figure(f"Realised {metric}", number(found.value), _interval(found, report)))
        if found.reference is not None:
            name = f"{capitalized(metric)} at training"
            figures.append(Figure(name, number(found.reference), _expected(found, found.reference, report)))
        figures += _standards(found, report)
    if (bias := report.bias) is not None:
        figures.append(Figure("Bias", number(bias.value), _bias(bias, report)))
    if (covered := report.interval) is not None:
        figures.append(Figure("Interval coverage", _rare_percent(covered.value), _covered(covered, report)))
    if (rate := report.positives) is not None:
        figures.append(Figure("Rate of positives", _rare_percent(rate.value), _positives(rate, report)))
    for item in report.fairness:
        figures.append(
            Figure(f"{capitalized(item.difference)} over {item.sensitive}", number(item.value), _fair(item, report))
        )
    if (found := report.estimated) is not None:
        outside = missed_estimate(report)
        checked = (
            "" if outside is None else f"; the realised value lies {'outside' if outside else 'inside'} this interval"
        )
        note = f"from the scores without labels; {_interval(found, report)}{checked}"
        figures.append(Figure(f"Estimated {metric_name(found.metric)}", number(found.value), note))
    if (delay := report.label_delay) is not None:
        note = f"median; 90% within {delay.p90:.3g} days, 99% within {delay.p99:.3g} days"
        figures.append(Figure("Label delay", f"{delay.median:.3g} days", note))
    if (scores := report.prediction) is not None and scores.effect is not None:
        figures.append(Figure("Effect of score drift", f"{scores.effect:.3f}", _result(scores)))
    if measured := [drift for drift in report.features if drift.effect is not None]:
        drifted = sum(drift.drifted for drift in measured)
        note = f"expected false alarms: at most {report.policy.false_alarm_rate:.0%} of windows"
        figures.append(Figure("Features drifted", f"{drifted} of {len(measured)}", note))
    return figures


def _champion(report: Report) -> list[Figure]:
    if report.champion is None:
        return []
    age = f"training data {report.age_days:,.0f} days old" if report.age_days is not None else "current champion"
    return [Figure("Champion", f"v{report.champion.version}", age)]


def _interval(found: Performance, report: Report) -> str:
    return f"{report.policy.confidence:.0%} interval {number(found.low)} to {number(found.high)}"


def _bias(bias: Bias, report: Report) -> str:
    what = "mean score minus share of positive labels" if bias.of_probabilities else "mean of prediction minus label"
    trained = f", {number(bias.reference)} at training" if bias.reference is not None else ""
    interval = f"{report.policy.confidence:.0%} interval {number(bias.low)} to {number(bias.high)}"
    return f"{what}; {interval}{trained}{'' if bias.significant else '; not significant'}"


def _covered(found: IntervalCoverage, report: Report) -> str:
    interval = f"{report.policy.confidence:.0%} interval {_rare_percent(found.low)} to {_rare_percent(found.high)}"
    trained = f", {_rare_percent(found.reference)} at training" if found.reference is not None else ""
    state = "; significantly lower than at training" if is_worse(found, report.policy) else ""
    asked = f"labels in their prediction interval, set to {100 * found.nominal:.6g}%"
    return f"{asked}; {interval}{trained}{state}"


def _positives(rate: PositiveRate, report: Report) -> str:
    trained = f", {_rare_percent(rate.reference)} at training" if rate.reference is not None else ""
    interval = f"{report.policy.confidence:.0%} interval {_rare_percent(rate.low)} to {_rare_percent(rate.high)}"
    return f"{rate.positive!r} is predicted at a score of {rate.threshold:.4g} or more; {interval}{trained}"


def _fair(found: FairnessDifference, report: Report) -> str:
    groups = ", ".join(f"{_rare_percent(item.rate)} where {item.name}" for item in (found.least, found.most))
    interval = f"{report.policy.confidence:.0%} interval {number(found.low)} to {number(found.high)}"
    state = "above" if found.is_significant else "not significantly above" if found.value > found.limit else "within"
    before = ""
    if found.reference is not None:
        rise = "significantly risen from " if is_less_fair(found, report.policy) else ""
        before = f"; {rise}{number(found.reference)} in the evaluation"
    return f"{found.of}: {groups}; {interval}; {state} the limit of {number(found.limit)}{before}"


def _rare_percent(rate: float) -> str:
    # Three digits, because the positive class may be rare.
    return f"{100 * rate:.3g}%"


def _expected(found: Performance, reference: float, report: Report) -> str:
    (bound,) = [item.limit for item in standards(found, report.policy) if item.kind == "training"]
    expected = f"{'at least' if bound <= reference else 'at most'} {number(bound)} expected"
    change = difference(found, report.policy.confidence)
    if change is None or found.reference_low is None or found.reference_high is None:
        return expected
    interval = (
        f"{report.policy.confidence:.0%} interval {number(found.reference_low)} to {number(found.reference_high)}"
    )
    many = f", corrected for {found.compared} compared models" if found.compared > 1 else ""
    return f"{interval}; difference {number(change.low)} to {number(change.high)}{many}; {expected}"


def _standards(found: Performance, report: Report) -> list[Figure]:
    """Return the standards that the policy has in addition to the value at training."""
    metric, figures = metric_name(found.metric), []
    for standard in standards(found, report.policy):
        state = "missed" if standard.broken else "missed, but not significantly" if standard.exceeded else "met"
        if standard.kind == "bound":
            end = "Minimum" if found.higher_is_better else "Maximum"
            figures.append(Figure(f"{end} {metric}", number(standard.limit), f"policy; {state}"))
        elif standard.kind == "recent" and (known := found.recent) is not None:
            note = (
                f"v{known.version} in {known.windows} windows; difference {number(known.low)} to {number(known.high)}"
            )
            many = f", corrected for {known.compared} versions" if known.compared > 1 else ""
            figures.append(Figure(f"Best recent {metric}", number(known.value), f"{note}{many}; {state}"))
    return figures


def _result(drift: Drift) -> str:
    return f"{'drifted' if drift.drifted else 'not drifted'}, adjusted p {p_value(drift.adjusted_p_value)}"


def _facts(report: Report) -> list[tuple[str, str]]:
    """Return the names and values that the section *About this report* lists."""
    unmeasured = [("Performance", f"not judged because {report.unmeasured}")] if report.unmeasured is not None else []
    champion, scored_by = report.champion, report.scored_by
    policy = report.policy.model_dump(mode="json")
    return [
        *unmeasured,
        *(("Note", note) for note in report.notes),
        *(("Schema", str(change)) for change in report.schema_changes),
        ("Window", str(report.window)),
        *_freshness(report),
        ("Predictions made by", f"{scored_by} (MLflow run {scored_by.run_id})" if scored_by else "-"),
        ("Champion", f"{champion} (MLflow run {champion.run_id})" if champion else "none"),
        *(("Dataset", f"{ref.name} {ref.id} ({ref.rows:,} rows)") for ref in report.datasets),
        *(("Drift measured against", text) for text in _references(report)),
        ("Policy", ", ".join(f"{key} {_plain(value)}" for key, value in policy.items() if value is not None)),
        ("Written", f"{report.created:%Y-%m-%d %H:%M:%S} UTC"),
    ]


def _freshness(report: Report) -> list[tuple[str, str]]:
    fresh, facts = report.freshness, []
    if fresh is None:
        return []
    age, behind_days = fresh.age(report.created), fresh.behind_days
    if fresh.newest_event is not None and age is not None and behind_days is not None:
        days = f"{duration_text(age / timedelta(days=1))} old when checked"
        behind = f"{duration_text(behind_days)} before the end of the window"
        facts.append(("Newest row", f"{fresh.newest_event:%Y-%m-%d %H:%M:%S} UTC, {days}, {behind}"))
    if fresh.newest_score is not None:
        facts.append(("Last scored", f"{fresh.newest_score:%Y-%m-%d %H:%M:%S} UTC"))
    return facts


def _references(report: Report) -> list[str]:
    used = report.reference
    if not used.features:
        return [TRAINING] if report.drift_tests else []
    windows = ", ".join(window.label for window in used.features)
    alike = ", ".join(window.label for window in used.scores) or TRAINING
    scores = f"; scores: {alike}" if used.scores != used.features else ""
    return [f"{windows} ({used.asked}){scores}"]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {item}" for key, item in value.items() if item is not None) + ")"
    return " and ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)
