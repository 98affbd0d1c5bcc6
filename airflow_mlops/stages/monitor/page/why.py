"""The section of a report's page that says why: where performance fell, and since when something is different."""

from __future__ import annotations

from html import escape

from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.performance.findings import LOSSES, LossChange, MeanLoss, Segment
from airflow_mlops.policy.findings import Report
from airflow_mlops.stages.monitor.page.drawing import BLUE, ORANGE, shown_p, svg


def why(report: Report) -> str:
    """The section; nothing where nothing was found."""
    parts = [_changes(report), _segments(report)]
    return f"<h2>Why</h2>{''.join(parts)}\n" if any(parts) else ""


def _changes(report: Report) -> str:
    if not report.changes:
        return ""
    listed = "".join(f"<li>{escape(_capital(str(change)))}.</li>" for change in report.changes)
    return (
        '<h3>Change points</h3><p class="muted">Windows since which the level of realised performance, or of the drift of '
        f"an important feature, is another one, for predictions by v{report.scored_by.version if report.scored_by else '-'}. "
        f"With nothing changed, any is found in at most {report.policy.false_alarm_rate:.0%} of reports.</p>"
        f"<ul>{listed}</ul>"
    )


def _segments(report: Report) -> str:
    loss = report.loss
    if loss is None or not report.segments:
        return ""
    rise = loss.value - loss.reference
    full = max(found.loss.high for found in report.segments)
    full = max(full, *(found.reference.high for found in report.segments))
    rows = "".join(_row(found, rise, full) for found in report.segments)
    heads = (
        "Rows", "Share<br>of rows", "Share at<br>training", "Loss at<br>training", "Loss<br>now", "Rise", "", "Share of<br>the rise",
        "Adjusted<br>p",
    )  # fmt: skip
    return (
        f"<h3>Where performance fell</h3>{_tested(report, loss)}"
        '<div class="wide"><table><thead><tr><th scope="col">Segment</th>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{rows}</tbody></table></div>{_mix(loss)}"
    )


def _tested(report: Report, loss: LossChange) -> str:
    name = LOSSES[loss.metric]
    pairs = ", to which each row counts by its influence" if loss.metric == "roc_auc" else ""
    first = f"; the first {len(report.segments)} are shown" if loss.fallen > len(report.segments) else ""
    floor = f"{loss.min_rise:.3g}" if METRICS[loss.metric].higher_is_better else f"{loss.min_rise:.1%} of what it was"
    return (
        f"<p>Measured by the mean of {name}{pairs}: {loss.reference:.4f} at training, {loss.value:.4f} now, the less the "
        f"better. In {loss.fallen} of {loss.tested} segments it rose by more than chance and by more than {floor}{first}.</p>"
        '<p class="muted">First comes what added most to the rise beyond its share of the rows. A segment adds its share '
        "of the rows times its own rise; segments of different features overlap, so that only those of one feature add "
        f"up. Losses have {report.policy.confidence:.0%} intervals; p-values of all segments are corrected together "
        f"(Benjamini-Hochberg, {loss.false_alarm_rate:.0%}).</p>"
    )


def _mix(loss: LossChange) -> str:
    if not loss.shifts:
        return ""
    most, change = loss.shifts[0], loss.value - loss.reference
    return (
        f"<p>Of the change of the mean by {change:+.4f}, rows that moved between the segments of {escape(most.feature)} "
        f"account for {most.mix:+.4f}, the most of any feature; {most.rate:+.4f} happened inside its segments.</p>"
    )


def _row(found: Segment, rise: float, full: float) -> str:
    of_rise = f"{found.contribution / rise:.0%}" if rise > 0 else f"{found.contribution:+.4f}"
    cells = [
        escape(found.name),
        f"{found.rows:,}",
        f"{found.share:.1%}",
        f"{found.share_reference:.1%}",
        _interval(found.reference),
        _interval(found.loss),
        f"{found.loss.value - found.reference.value:+.3f}",
        _bars(found, full),
        of_rise,
        escape(shown_p(found.adjusted_p_value)),
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _interval(loss: MeanLoss) -> str:
    return f"{loss.value:.3f}<small>{loss.low:.3f} to {loss.high:.3f}</small>"


def _bars(found: Segment, full: float) -> str:
    """The loss at training above the loss now, each with its interval."""
    scale, parts = 110 / full, []
    for y, loss, colour in ((4, found.reference, BLUE), (14, found.loss, ORANGE)):
        ends = f'x1="{max(0.0, loss.low * scale):.1f}" x2="{loss.high * scale:.1f}" y1="{y + 3.5}" y2="{y + 3.5}"'
        parts += [
            f'<rect x="0" y="{y}" width="{max(0.0, loss.value * scale):.1f}" height="7" fill="{colour}"/>',
            f'<line {ends} stroke="#1c1c1c"/>',
        ]
    return svg(116, 25, f"{found.reference.value:.3f} at training, {found.loss.value:.3f} now", parts)


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
