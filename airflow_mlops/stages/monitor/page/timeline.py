"""The timeline of a report's page: performance by window."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from airflow_mlops.performance.findings import Change
from airflow_mlops.policy.findings import Report
from airflow_mlops.stages.monitor.page.drawing import DECISIONS, GREY, estimate_mark, mark, svg


def timeline(reports: Sequence[Report]) -> str:
    """The section that shows ``reports`` by window."""
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
        f'<svg width="14" height="12" class="inline" aria-hidden="true">{estimate_mark(7, 6)}</svg> estimated from the '
        "scores alone. "
        if any(report.estimated is not None for report in shown)
        else ""
    )
    changes = [item for item in reports[-1].changes if item.kind == "performance" and item.of == metric]
    marked = (
        f"A vertical line marks a window since which the level is another one: {'; '.join(map(str, changes))}. "
        if changes
        else ""
    )
    return (
        f"<h2>{escape(metric)} over time</h2>"
        '<p class="muted">Each mark is a window with its confidence interval, in the shape of what was decided: '
        f"{_legend()}. {estimates}{escape(marked)}The dashed line is what the model reached at training.</p>"
        f"<figure>{_timeline_plot(shown, metric, changes)}</figure>\n"
    )


def _legend() -> str:
    return ", ".join(
        f'<svg width="14" height="12" class="inline" aria-hidden="true">{mark(decision, 7, 6)}</svg> {decision}'
        for decision in DECISIONS
    )


def _timeline_plot(reports: Sequence[Report], metric: str, changes: Sequence[Change]) -> str:
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
    known_at = {str(report.window): index for index, report in enumerate(reports)}
    for change in changes:
        if (place := known_at.get(str(change.window))) is not None:
            x = left + step * place
            parts.append(
                f"<g><title>{escape(str(change))}</title>"
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}" stroke="#1c1c1c" stroke-width="2"/>'
                f'<text x="{x + 5:.1f}" y="{top + 10}">change</text></g>'
            )
    every = max(1, -(-len(reports) // 14))
    for index, (report, (realised, estimated)) in enumerate(zip(reports, found, strict=True)):
        x = across(index)
        reference = next((item.reference for item in (realised, estimated) if item is not None), None)
        if reference is not None:
            y = up(reference)
            parts.append(
                f'<line x1="{x - step / 2:.1f}" x2="{x + step / 2:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GREY}" '
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
                f"{dashed}/>{estimate_mark(at, y) if how else mark(report.verdict.decision, at, y)}</g>"
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
                f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{height - 19}" y2="{height - 19}" stroke="{GREY}"/>'
                f'<text x="{(start + end) / 2:.1f}" y="{height - 6}" text-anchor="middle">v{number}</text>'
            )
        position += count
    return svg(width, height, f"{metric} by window, with confidence intervals", parts)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    magnitude = 10.0 ** _exponent(raw)
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first = -(-low // step)
    return [round((first + index) * step, 12) for index in range(6) if (first + index) * step <= high]


def _exponent(value: float) -> int:
    return int(f"{value:e}".rpartition("e")[2])
