"""Build the section *Why*, with change points and segments with worse performance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.performance.findings import LossChange, MeanLoss, Segment, loss_name
from airflow_mlops.policy.findings import Report
from airflow_mlops.policy.wording import capitalized
from airflow_mlops.stages.monitor.page.drawing import BLUE, ORANGE, TEXT, element, p_value, svg, with_note

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class ChangeSection:
    """The subsection on change points.

    :param version: the version that made the predictions, such as ``v1``
    :param rate: the false-alarm rate, such as ``5%``
    :param points: one clause for each change point
    """

    version: str
    rate: str
    points: list[str]


@dataclass(frozen=True)
class SegmentSection:
    """The subsection on segments with worse performance.

    :param loss: name of the loss that the metric determines
    :param reference: mean loss of all rows at training
    :param value: mean loss of all rows in the window
    :param min_rise: the smallest rise of a mean loss that counts
    :param fallen: number of segments with worse performance
    :param tested: number of segments with enough rows
    :param shown: number of segments in the table
    :param confidence: confidence level of the intervals, such as ``95%``
    :param rate: the false-alarm rate, such as ``5% false alarms``
    :param rows: cells of each row of the table
    :param shift: sentences about the decomposition of the change by one feature; may be empty
    """

    loss: str
    reference: str
    value: str
    min_rise: str
    fallen: int
    tested: int
    shown: int
    confidence: str
    rate: str
    rows: list[list[str]]
    shift: str


def change_section(report: Report) -> ChangeSection | None:
    """Build the subsection on change points; ``None`` without change points."""
    if not report.changes:
        return None
    return ChangeSection(
        version=f"v{report.scored_by.version}" if report.scored_by else "-",
        rate=f"{report.policy.false_alarm_rate:.0%}",
        points=[capitalized(str(change)) for change in report.changes],
    )


def segment_section(report: Report) -> SegmentSection | None:
    """Build the subsection on segments with worse performance; ``None`` without such segments."""
    loss = report.loss
    if loss is None or not report.segments:
        return None
    largest = max(max(found.loss.high, found.reference.high) for found in report.segments)
    name = loss_name(loss.metric)
    higher_is_better = find_metric(loss.metric).higher_is_better
    return SegmentSection(
        loss=name + (" (each row counts by its influence)" if name.startswith("1 - ") else ""),
        reference=f"{loss.reference:.4f}",
        value=f"{loss.value:.4f}",
        min_rise=f"{loss.min_rise:.3g}" if higher_is_better else f"{loss.min_rise:.1%} of its value at training",
        fallen=loss.fallen,
        tested=loss.tested,
        shown=len(report.segments),
        confidence=f"{report.policy.confidence:.0%}",
        rate=f"{loss.false_alarm_rate:.0%} false alarms",
        rows=[_row(found, loss.value - loss.reference, largest) for found in report.segments],
        shift=_shift(loss),
    )


def _shift(loss: LossChange) -> str:
    if not loss.shifts:
        return ""
    most, change = loss.shifts[0], loss.value - loss.reference
    return (
        f"The mean loss changed by {change:+.4f}. By segments of {most.feature}, {most.mix:+.4f} comes from changed shares of the "
        f"segments (the largest such effect of all features), and {most.rate:+.4f} from changes inside the segments."
    )


def _row(found: Segment, rise: float, largest: float) -> list[str]:
    return [
        found.name,
        f"{found.rows:,}",
        f"{found.share:.1%}",
        f"{found.share_reference:.1%}",
        _interval(found.reference),
        _interval(found.loss),
        f"{found.loss.value - found.reference.value:+.3f}",
        _bars(found, largest),
        f"{found.contribution / rise:.0%}" if rise > 0 else f"{found.contribution:+.4f}",
        p_value(found.adjusted_p_value),
    ]


def _interval(loss: MeanLoss) -> Markup:
    return with_note(f"{loss.value:.3f}", f"{loss.low:.3f} to {loss.high:.3f}")


def _bars(found: Segment, largest: float) -> Markup:
    """Draw two bars with confidence intervals: the loss at training, and below it the loss in the window."""
    scale, parts = 110 / largest, []
    for y, loss, colour in ((4, found.reference, BLUE), (14, found.loss, ORANGE)):
        middle = y + 3.5
        parts += [
            element("rect", x=0, y=y, width=max(0.0, loss.value * scale), height=7, fill=colour),
            element("line", x1=max(0.0, loss.low * scale), x2=loss.high * scale, y1=middle, y2=middle, stroke=TEXT),
        ]
    return svg(116, 25, f"{found.reference.value:.3f} at training, {found.loss.value:.3f} now", parts)
