"""The monitoring report as one page that needs nothing but itself: no script, no network, no font to load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from airflow_mlops.monitoring.policy import limit, unforeseen
from airflow_mlops.specs.monitor import Drift, Performance, Report

# Okabe and Ito's colours keep apart under every kind of colour blindness; marks differ in shape and words as well.
_BLUE, _ORANGE, _RED, _GREY = "#0072B2", "#E69F00", "#D55E00", "#6b7280"
_DECISIONS = {"healthy": ("✓", _BLUE, "#fff"), "watch": ("!", _ORANGE, "#1c1c1c"), "retrain": ("↻", _RED, "#fff")}
_PLOTS = 24
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
th,td{text-align:right;padding:5px 8px;border-bottom:1px solid #e6e9ed;vertical-align:middle}
th{color:#55606d;font-weight:600;vertical-align:bottom}th:first-child,td:first-child,td.note,th.note{text-align:left}
td.note,td small{color:#55606d}td small{display:block;font-size:11px;white-space:nowrap}
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
"""


def render(report: Report, history: Sequence[Report] = ()) -> str:
    """The page for ``report``.

    :param history: reports on earlier windows of the same model, by time
    """
    title = f"{report.model} · {report.window.label}"
    parts = [
        _header(report, title),
        _figures(report),
        _timeline([*history, report]),
        _scores(report),
        _features(report),
        _about(report),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>\n{''.join(parts)}</body></html>\n"
    )


def _header(report: Report, title: str) -> str:
    mark, colour, text = _DECISIONS[report.verdict.decision]
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
    p_value = f"adjusted p {_p(drift.adjusted_p_value)}"
    return f"drifted, {p_value}" if drift.drifted else f"not drifted, {p_value}"


def _asked(found: Performance, report: Report) -> str:
    bound = limit(found, report.policy)
    return f"good enough: {'from' if bound is not None and bound <= (found.reference or 0) else 'up to'} {bound:.3f}"


def _timeline(reports: Sequence[Report]) -> str:
    known = [found.metric for report in reports for found in (report.performance, report.estimated) if found]
    if not known:
        return ""
    metric = known[-1]
    shown = [
        report
        for report in reports
        if any(found is not None and found.metric == metric for found in (report.performance, report.estimated))
    ]
    estimates = (
        f'<svg width="14" height="12" class="inline" aria-hidden="true">{_estimate_mark(7, 6)}</svg> estimated from the '
        "scores alone. "
        if any(report.estimated is not None for report in shown)
        else ""
    )
    return (
        f"<h2>{escape(metric)} over time</h2>"
        '<p class="muted">Each mark is a window with its confidence interval, in the shape of what was decided: '
        f"{_legend()}. {estimates}The dashed line is what the model reached at training.</p>"
        f"<figure>{_timeline_plot(shown, metric)}</figure>\n"
    )


def _legend() -> str:
    return ", ".join(
        f'<svg width="14" height="12" class="inline" aria-hidden="true">{_mark(decision, 7, 6)}</svg> {decision}'
        for decision in _DECISIONS
    )


def _mark(decision: str, x: float, y: float) -> str:
    colour = _DECISIONS[decision][1]
    if decision == "healthy":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    if decision == "watch":
        points = f"{x:.1f},{y - 6:.1f} {x - 6:.1f},{y + 5:.1f} {x + 6:.1f},{y + 5:.1f}"
        return f'<polygon points="{points}" fill="{colour}" stroke="#7a5200" stroke-width=".7"/>'
    return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>'


def _estimate_mark(x: float, y: float) -> str:
    path = f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5-5z"
    return f'<path d="{path}" fill="#fff" stroke="#3c4450" stroke-width="1.4"/>'


def _timeline_plot(reports: Sequence[Report], metric: str) -> str:
    width, height, left, right, top, bottom = 1000, 250, 52, 16, 12, 44
    found = [
        [
            item if item is not None and item.metric == metric else None
            for item in (report.performance, report.estimated)
        ]
        for report in reports
    ]
    known = [item for pair in found for item in pair if item is not None]
    values = [value for item in known for value in (item.low, item.high, item.reference) if value is not None]
    margin = (max(values) - min(values)) * 0.08 or 0.01
    low, high = min(values) - margin, max(values) + margin
    step = (width - left - right) / len(reports)

    def across(index: float) -> float:
        return left + step * (index + 0.5)

    def up(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - bottom)

    parts = []
    for tick in _ticks(low, high):
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="#e6e9ed"/>'
        )
        parts.append(f'<text x="{left - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    every = max(1, -(-len(reports) // 14))
    for index, (report, (realised, estimated)) in enumerate(zip(reports, found, strict=True)):
        x = across(index)
        reference = next((item.reference for item in (realised, estimated) if item is not None), None)
        if reference is not None:
            y = up(reference)
            parts.append(
                f'<line x1="{x - step / 2:.1f}" x2="{x + step / 2:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GREY}" '
                'stroke-width="1.5" stroke-dasharray="5 4"/>'
            )
        version = f"v{report.scored_by.version}" if report.scored_by else ""
        for item, how, at in ((estimated, "estimated ", min(x + 12, x + step * 0.3)), (realised, "", x)):
            if item is None:
                continue
            interval = f"{item.value:.3f} ({item.low:.3f} to {item.high:.3f})"
            tip = f"{report.window.label}: {how}{metric} {interval}, {version}, {report.verdict.decision}"
            y, dashed = up(item.value), ' stroke-dasharray="3 2"' if how else ""
            parts.append(
                f"<g><title>{escape(tip)}</title>"
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{up(item.low):.1f}" y2="{up(item.high):.1f}" stroke="#3c4450"'
                f"{dashed}/>{_estimate_mark(at, y) if how else _mark(report.verdict.decision, at, y)}</g>"
            )
        if (len(reports) - 1 - index) % every == 0:
            parts.append(
                f'<text x="{x:.1f}" y="{height - 26}" text-anchor="middle">{escape(report.window.label[:10])}</text>'
            )
    position = 0
    for number, items in groupby(reports, key=lambda report: report.scored_by.version if report.scored_by else None):
        count = len(list(items))
        if number is not None:
            start, end = across(position) - step * 0.42, across(position + count - 1) + step * 0.42
            parts.append(
                f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{height - 19}" y2="{height - 19}" stroke="{_GREY}"/>'
                f'<text x="{(start + end) / 2:.1f}" y="{height - 6}" text-anchor="middle">v{number}</text>'
            )
        position += count
    return _svg(width, height, f"{metric} by window, with confidence intervals", parts)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    magnitude = 10.0 ** _exponent(raw)
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first = -(-low // step)
    return [round((first + index) * step, 12) for index in range(6) if (first + index) * step <= high]


def _exponent(value: float) -> int:
    return int(f"{value:e}".rpartition("e")[2])


def _scores(report: Report) -> str:
    if report.prediction is None:
        return ""
    return (
        f"<h2>Predicted scores</h2>{_key()}"
        f'<div class="plots">{_plot(report.prediction, "score", "the held-out data")}</div>\n'
    )


def _features(report: Report) -> str:
    if not report.features:
        return ""
    plotted = [drift for drift in report.features if drift.bins]
    full = max([0.1, *(drift.effect or 0 for drift in report.features)])
    rows = "".join(_row(drift, full, report.policy.min_effect) for drift in report.features)
    more = f" The first {_PLOTS} are drawn." if len(plotted) > _PLOTS else ""
    heads = (
        "Drift", "", "Adjusted<br>p", "Decided<br>by", "PSI", "Jensen-<br>Shannon", "KS or total<br>variation",
        "Wasser-<br>stein", "Missing<br>now", "Missing at<br>training", "Unseen<br>values",
    )  # fmt: skip
    return (
        f"<h2>Features</h2>{_testing(report)}"
        '<p class="muted">What has drifted comes first, then by size. Drift is the share of rows that the deciding test '
        "found to have moved, the dashed line the least that counts. PSI, the population stability index, and "
        "Jensen-Shannon distance compare the bins below; Kolmogorov-Smirnov (KS) and Wasserstein distance compare whole "
        "distributions of numbers, the latter in standard deviations; total variation compares the shares of values. "
        f"Below each is its p-value by itself, uncorrected.{more}</p>"
        '<div class="wide"><table><thead><tr><th scope="col">Feature</th>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + '<th scope="col" class="note">Note</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f"{_key()}"
        f'<div class="plots">{"".join(_plot(drift, drift.column, "training") for drift in plotted[:_PLOTS])}</div>\n'
    )


def _testing(report: Report) -> str:
    found = report.drift_tests
    if found is None:
        return ""
    return (
        f"<p>{found.tests} tests were done on {found.columns} columns, the scores among them. With nothing changed, at "
        f"most {found.false_alarm_rate:.0%} of windows raise any alarm: p-values are corrected for their number "
        f"({escape(found.correction)}). A change that concerns less than {found.min_effect:.1%} of the rows raises "
        "none.</p>"
    )


def _row(drift: Drift, full: float, floor: float) -> str:
    bar = ""
    if drift.effect is not None:
        colour = _RED if drift.drifted else _BLUE
        least = 90 * min(floor / full, 1)
        bar = _svg(
            96,
            14,
            f"drift {drift.effect:.1%}, {floor:.1%} counts",
            [
                f'<rect x="0" y="3" width="{90 * drift.effect / full:.1f}" height="8" fill="{colour}"/>',
                f'<line x1="{least:.1f}" x2="{least:.1f}" y1="0" y2="14" stroke="#1c1c1c" stroke-dasharray="2 2"/>',
            ],
        )
    apart = ("ks", drift.ks) if drift.ks is not None else ("chi_square", drift.total_variation)
    cells = [
        f"<b>{escape(drift.column)}</b>" if drift.drifted else escape(drift.column),
        _number(drift.effect, ".1%"),
        bar,
        escape(_p(drift.adjusted_p_value)),
        escape((drift.test or "-").replace("_", " ")),
        _tested(drift, "psi", drift.psi, ".3f"),
        _tested(drift, "jensen_shannon", drift.jensen_shannon, ".2f"),
        _tested(drift, *apart, ".2f"),
        _tested(drift, "wasserstein", drift.wasserstein, ".2f"),
        _tested(drift, "missing", drift.missing, ".1%"),
        _number(drift.missing_reference, ".1%"),
        _tested(drift, "unseen", drift.unseen, ".1%"),
    ]
    note = "; ".join(item for item in ("drifted" if drift.drifted else None, drift.note) if item)
    return f'<tr>{"".join(f"<td>{cell}</td>" for cell in cells)}<td class="note">{escape(note)}</td></tr>'


def _tested(drift: Drift, name: str, value: float | None, how: str) -> str:
    p_value = drift.p_values.get(name)
    return _number(value, how) + (f"<small>p {escape(_p(p_value))}</small>" if p_value is not None else "")


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def _key() -> str:
    return (
        f'<p class="muted"><span class="key" style="background:{_BLUE};margin-left:0"></span>at training'
        f'<span class="key" style="background:{_ORANGE}"></span>this window</p>'
    )


def _plot(drift: Drift, name: str, reference: str) -> str:
    """Two bars a bin, one below the other, with the bin's name before them."""
    if not drift.bins:
        return f"<figure><h3>{escape(name)}</h3><p class='muted'>{escape(drift.note or 'not measured')}</p></figure>"
    width, left, line = 340, 128, 24
    largest = max(max(item.reference, item.current) for item in drift.bins) or 1.0
    scale = (width - left - 48) / largest
    parts = []
    for index, item in enumerate(drift.bins):
        y = index * line + 4
        label = item.label if len(item.label) <= 20 else f"{item.label[:19]}…"
        tip = f"{item.label}: {item.reference:.1%} in {reference}, {item.current:.1%} in this window"
        parts.append(
            f"<g><title>{escape(tip)}</title>"
            f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{left}" y="{y}" width="{item.reference * scale:.1f}" height="8" fill="{_BLUE}"/>'
            f'<rect x="{left}" y="{y + 9}" width="{item.current * scale:.1f}" height="8" fill="{_ORANGE}"/>'
            f'<text x="{left + max(item.reference, item.current) * scale + 5:.1f}" y="{y + 13}">'
            f"{item.current:.1%}</text></g>"
        )
    moved = f" · {drift.effect:.1%}" if drift.effect is not None else ""
    picture = _svg(width, len(drift.bins) * line + 4, f"{name}: shares by bin, at training and in this window", parts)
    return f"<figure><figcaption><b>{escape(name)}</b>{moved}</figcaption>{picture}</figure>"


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _about(report: Report) -> str:
    facts: list[tuple[str, str]] = []
    if report.unmeasured is not None:
        facts.append(("Performance", f"not judged: {report.unmeasured}"))
    facts += [("Note", note) for note in report.notes]
    facts += [
        ("Window", str(report.window)),
        (
            "Predictions made by",
            f"{report.scored_by} (MLflow run {report.scored_by.run_id})" if report.scored_by else "-",
        ),
        ("Champion", f"{report.champion} (MLflow run {report.champion.run_id})" if report.champion else "none"),
        *(("Dataset", f"{ref.name} {ref.id} ({ref.rows:,} rows)") for ref in report.datasets),
        (
            "Policy",
            ", ".join(
                f"{key} {value}" for key, value in report.policy.model_dump(mode="json").items() if value is not None
            ),
        ),
        ("Written", f"{report.created:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<h2>About this report</h2><dl class="about">{listed}</dl>\n'
