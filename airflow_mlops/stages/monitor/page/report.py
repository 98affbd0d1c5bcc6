"""The monitoring report as one page that needs nothing but itself: no script, no network, no font to load."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from html import escape
from typing import Any

from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.findings import Report
from airflow_mlops.policy.judgement import limit, unforeseen
from airflow_mlops.stages.monitor.page.columns import features, scores
from airflow_mlops.stages.monitor.page.drawing import DECISIONS, shown_p
from airflow_mlops.stages.monitor.page.retraining import retraining
from airflow_mlops.stages.monitor.page.timeline import timeline
from airflow_mlops.stages.monitor.page.why import why

_STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:24px;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
 color:#1c1c1c;background:#fff}
h1{font-size:22px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 4px}h3{font-size:14px;margin:0 0 6px}
p{margin:4px 0 12px;max-width:75ch}.muted{color:#55606d}
.verdict{display:flex;gap:18px;align-items:center;border-left:8px solid var(--c);background:#f6f7f9;padding:16px 20px}
.badge{background:var(--c);color:var(--t);font-weight:700;font-size:20px;padding:8px 16px;border-radius:6px;
 white-space:nowrap}
.verdict p{margin:0;font-size:16px}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:12px;margin:18px 0 0;padding:0}
.figures div{border:1px solid #dfe3e8;border-radius:6px;padding:10px 12px}
.figures dt{font-size:12px;color:#55606d}.figures dd{margin:0;font-size:20px;font-weight:600}
.figures small{display:block;font-size:12px;font-weight:400;color:#55606d}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:5px 6px;border-bottom:1px solid #e6e9ed;vertical-align:middle}
th{color:#55606d;font-weight:600;vertical-align:bottom}th:first-child,td:first-child,td.note,th.note{text-align:left}
td.note,td small{color:#55606d}td small{display:block;font-size:11px;white-space:nowrap}
td svg{max-width:none}td.note{overflow-wrap:anywhere;min-width:90px}
.wide{overflow-x:auto}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(310px,1fr));gap:18px;margin-top:10px}
.plots figure{margin:0;border:1px solid #e6e9ed;border-radius:6px;padding:10px 12px}
figure{margin:0}figcaption{font-size:13px;margin-bottom:4px}
svg{display:block;max-width:100%;height:auto}svg.inline{display:inline}
svg text{font:11px system-ui,sans-serif;fill:#3c4450}
.key{display:inline-block;width:11px;height:11px;border-radius:2px;margin:0 5px 0 12px;vertical-align:-1px}
code{font:12px ui-monospace,SFMono-Regular,Menlo,monospace}a{color:#0b5c92}
dl.about{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;font-size:13px}dl.about dt{color:#55606d}
dl.about dd{margin:0;overflow-wrap:anywhere}
@page{size:A4 landscape;margin:12mm}
@media print{body{max-width:none;padding:0;font-size:12px;print-color-adjust:exact;-webkit-print-color-adjust:exact}
 .wide{overflow-x:visible}table{font-size:11px}thead{display:table-header-group}
 tr,figure,.verdict,.figures div{break-inside:avoid}h2,h2+p,h3{break-after:avoid}}
"""


def render(report: Report, history: Sequence[Report] = ()) -> str:
    """The page for ``report``.

    :param history: reports on earlier windows of the same model, by time
    """
    title = f"{report.model} · {report.window.label}"
    parts = [
        _header(report, title),
        _figures(report),
        timeline([*history, report]),
        why(report),
        retraining(report, history),
        scores(report),
        features(report),
        _about(report),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>\n{''.join(parts)}</body></html>\n"
    )


def _header(report: Report, title: str) -> str:
    mark, colour, text = DECISIONS[report.verdict.decision]
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<div class="verdict" style="--c:{colour};--t:{text}">'
        f'<span class="badge">{mark} {report.verdict.decision}</span>'
        f"<p>{escape(report.verdict.reason)}</p></div></header>\n"
    )


def _figures(report: Report) -> str:
    policy = report.policy
    figures: list[tuple[str, str, str]] = [("Predictions", f"{report.rows:,}", "rows in the window")]
    if report.coverage is not None:
        figures.append(("Label coverage", f"{report.coverage:.1%}", f"{report.labelled:,} labels"))
    if (found := report.performance) is not None:
        interval = f"{policy.confidence:.0%} interval {found.low:.3f} to {found.high:.3f}"
        figures.append((f"Realised {found.metric}", f"{found.value:.3f}", interval))
        if found.reference is not None:
            figures.append((f"{found.metric} at training", f"{found.reference:.3f}", _asked(found, report)))
    figures += _expected(report)
    if report.prediction is not None and report.prediction.effect is not None:
        figures.append(
            ("Score drift", f"{report.prediction.effect:.1%}", f"of the rows; {_judgement(report.prediction)}")
        )
    measured = [drift for drift in report.features if drift.effect is not None]
    if measured:
        moved = sum(drift.drifted for drift in measured)
        alarms = f"false alarms in at most {policy.false_alarm_rate:.0%} of windows"
        figures.append(("Features drifted", f"{moved} of {len(measured)}", alarms))
    if report.champion is not None:
        age = (
            f"its data ended {report.age_days:,.0f} days earlier" if report.age_days is not None else "present champion"
        )
        figures.append(("Champion", f"v{report.champion.version}", age))
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in figures
    )
    return f'<dl class="figures">{cards}</dl>\n'


def _expected(report: Report) -> list[tuple[str, str, str]]:
    """What is known without the labels, and about their coming."""
    figures = []
    if (found := report.estimated) is not None:
        outside = unforeseen(report)
        checked = "" if outside is None else f"; the realised value lies {'outside' if outside else 'inside'}"
        more = f"from the scores alone; {report.policy.confidence:.0%} interval {found.low:.3f} to {found.high:.3f}"
        figures.append((f"Estimated {found.metric}", f"{found.value:.3f}", f"{more}{checked}"))
    if (delay := report.label_delay) is not None:
        more = f"the median; 90% within {delay.p90:.3g}, 99% within {delay.p99:.3g}"
        figures.append(("Label delay", f"{delay.median:.3g} days", more))
    return figures


def _judgement(drift: Drift) -> str:
    p_value = f"adjusted p {shown_p(drift.adjusted_p_value)}"
    return f"drifted, {p_value}" if drift.drifted else f"not drifted, {p_value}"


def _asked(found: Performance, report: Report) -> str:
    bound = limit(found, report.policy)
    return f"good enough: {'from' if bound is not None and bound <= (found.reference or 0) else 'up to'} {bound:.3f}"


def _recent(report: Report) -> list[tuple[str, str]]:
    fresh, facts = report.freshness, []
    if fresh is None:
        return []
    age = fresh.age(report.created)
    if fresh.newest_event is not None and age is not None:
        ages = (
            f"{age / timedelta(days=1):.3g} days old when checked, {fresh.behind_days:.3g} days before the window's end"
        )
        facts.append(("Newest row", f"{fresh.newest_event:%Y-%m-%d %H:%M:%S} UTC, {ages}"))
    if fresh.newest_score is not None:
        facts.append(("Last scored", f"{fresh.newest_score:%Y-%m-%d %H:%M:%S} UTC"))
    return facts


def _about(report: Report) -> str:
    facts: list[tuple[str, str]] = []
    if report.unmeasured is not None:
        facts.append(("Performance", f"not judged: {report.unmeasured}"))
    facts += [("Note", note) for note in report.notes]
    facts += [("Schema", str(change)) for change in report.schema_changes]
    facts += [
        ("Window", str(report.window)),
        *_recent(report),
        (
            "Predictions made by",
            f"{report.scored_by} (MLflow run {report.scored_by.run_id})" if report.scored_by else "-",
        ),
        ("Champion", f"{report.champion} (MLflow run {report.champion.run_id})" if report.champion else "none"),
        *(("Dataset", f"{ref.name} {ref.id} ({ref.rows:,} rows)") for ref in report.datasets),
        *(("Drift measured against", text) for text in _references(report)),
        (
            "Policy",
            ", ".join(
                f"{key} {_plain(value)}"
                for key, value in report.policy.model_dump(mode="json").items()
                if value is not None
            ),
        ),
        ("Written", f"{report.created:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<h2>About this report</h2><dl class="about">{listed}</dl>\n'


def _references(report: Report) -> list[str]:
    used = report.reference
    if not used.features:
        return [TRAINING] if report.drift_tests else []
    windows = ", ".join(window.label for window in used.features)
    alike = ", ".join(window.label for window in used.scores) or TRAINING
    scores = f"; of the scores, {alike}" if used.scores != used.features else ""
    return [f"{windows} ({used.asked}){scores}"]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {item}" for key, item in value.items() if item is not None) + ")"
    return " and ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)
