"""Build the section on performance over time, with a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from airflow_mlops.performance.findings import Change, Performance
from airflow_mlops.policy.findings import Report
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.wording import capitalized, metric_name
from airflow_mlops.stages.monitor.page.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axes,
    grid,
    window_labels,
)
from airflow_mlops.stages.monitor.page.drawing import (
    BADGES,
    GREY,
    RED,
    SLATE,
    TEXT,
    element,
    estimate_mark,
    inline,
    mark,
    svg,
)

if TYPE_CHECKING:
    from markupsafe import Markup


class LegendItem(NamedTuple):
    """An item of the legend: the name of a decision, and the mark that shows the decision."""

    mark: Markup
    name: str


@dataclass(frozen=True)
class Timeline:
    """The plot of performance by window, with a legend.

    :param metric: usual name of the metric, capitalized
    :param estimate_mark: the mark of estimated performance; ``None`` without estimates
    :param bound: name of the line for the policy's absolute bound, such as ``max 30``; ``None`` if no line is drawn
    :param changes: one clause for each change point
    """

    metric: str
    legend: list[LegendItem]
    estimate_mark: Markup | None
    bound: str | None
    changes: list[str]
    plot: Markup


class _Window(NamedTuple):
    """A window of the timeline. Performance is ``None`` if it is unknown or was measured by a different metric."""

    report: Report
    realised: Performance | None
    estimated: Performance | None

    @property
    def known(self) -> list[Performance]:
        return [item for item in (self.realised, self.estimated) if item is not None]


def timeline(reports: Sequence[Report]) -> Timeline | None:
    """Build the section on performance over time; ``None`` if no report has realised or estimated performance.

    :param reports: reports on the windows of a model, ordered by time
    """
    metrics = [found.metric for report in reports for found in (report.performance, report.estimated) if found]
    if not metrics:
        return None
    metric = metrics[-1]
    windows = [_Window(item, _of(item.performance, metric), _of(item.estimated, metric)) for item in reports]
    windows = [window for window in windows if window.known]
    changes = [item for item in reports[-1].changes if item.kind == "performance" and item.of == metric]
    estimates = any(window.estimated is not None for window in windows)
    axes = _axes(windows)
    bound = _bound(windows[-1].report.policy, axes)
    return Timeline(
        metric=capitalized(metric_name(metric)),
        legend=[LegendItem(inline(mark(decision, 7, 6)), decision) for decision in BADGES],
        estimate_mark=inline(estimate_mark(7, 6)) if estimates else None,
        bound=bound.name if bound is not None else None,
        changes=[str(change) for change in changes],
        plot=_plot(windows, metric, changes, bound, axes),
    )


def _of(found: Performance | None, metric: str) -> Performance | None:
    return found if found is not None and found.metric == metric else None


def _axes(windows: Sequence[_Window]) -> Axes:
    values = [
        value
        for window in windows
        for item in window.known
        for value in (item.low, item.high, item.reference)
        if value is not None
    ]
    return Axes.around(values, len(windows))


class _Bound(NamedTuple):
    """The absolute bound of the policy, with a name such as ``max 30``."""

    value: float
    name: str


def _bound(policy: Policy, axes: Axes) -> _Bound | None:
    """Return the absolute bound of the policy; ``None`` without a bound, or if it is outside the range of the plot."""
    bound = policy.min if policy.min is not None else policy.max
    if bound is None or not axes.low <= bound <= axes.high:
        return None
    return _Bound(bound, f"{'min' if policy.min is not None else 'max'} {bound:g}")


def _plot(
    windows: Sequence[_Window], metric: str, changes: Sequence[Change], bound: _Bound | None, axes: Axes
) -> Markup:
    parts = [
        *grid(axes),
        *(_bound_line(bound, axes) if bound is not None else []),
        *_change_lines(windows, changes, axes),
        *(part for index, window in enumerate(windows) for part in _window(window, index, metric, axes)),
        *window_labels([window.report.window for window in windows], axes),
        *_versions(windows, axes),
    ]
    return svg(WIDTH, HEIGHT, f"{metric} by window, with confidence intervals", parts)


def _bound_line(bound: _Bound, axes: Axes) -> list[Markup]:
    y = axes.y(bound.value)
    return [
        element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, stroke=RED, stroke_width="1.5"),
        element("text", bound.name, x=WIDTH - RIGHT, y=y - 4, text_anchor="end"),
    ]


def _change_lines(windows: Sequence[_Window], changes: Sequence[Change], axes: Axes) -> list[Markup]:
    index = {str(window.report.window): number for number, window in enumerate(windows)}
    shown = [(change, index[str(change.window)]) for change in changes if str(change.window) in index]
    return [
        element(
            "g",
            element("title", str(change)),
            element("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, stroke=TEXT, stroke_width=2),
            element("text", "change", x=x + 5, y=TOP + 10),
        )
        for change, number in shown
        for x in (float(LEFT + axes.step * number),)
    ]


def _window(window: _Window, index: int, metric: str, axes: Axes) -> list[Markup]:
    """Draw the value at training, the estimate and the realised value of one window."""
    report, x, parts = window.report, axes.x(index), []
    reference = window.known[0].reference
    if reference is not None:
        y, half = axes.y(reference), axes.step / 2
        parts.append(
            element(
                "line", x1=x - half, x2=x + half, y1=y, y2=y, stroke=GREY, stroke_width="1.5", stroke_dasharray="5 4"
            )
        )
    version = f"v{report.scored_by.version}" if report.scored_by else ""

    def draw(
        item: Performance, at: float, prefix: str, point: Callable[[float, float], Markup], **style: str
    ) -> Markup:
        interval = f"{item.value:.3f} ({item.low:.3f} to {item.high:.3f})"
        return element(
            "g",
            element(
                "title", f"{report.window.label}: {prefix}{metric} {interval}, {version}, {report.verdict.decision}"
            ),
            element("line", x1=at, x2=at, y1=axes.y(item.low), y2=axes.y(item.high), stroke=SLATE, **style),
            point(at, axes.y(item.value)),
        )

    if window.estimated is not None:
        at = min(x + 12, x + axes.step * 0.3)
        parts.append(draw(window.estimated, at, "estimated ", estimate_mark, stroke_dasharray="3 2"))
    if window.realised is not None:
        parts.append(draw(window.realised, x, "", lambda x, y: mark(report.verdict.decision, x, y)))
    return parts


def _versions(windows: Sequence[_Window], axes: Axes) -> list[Markup]:
    """Draw a line below each run of windows with predictions of the same version."""
    parts, first = [], 0
    versions = [window.report.scored_by.version if window.report.scored_by else None for window in windows]
    for version, items in groupby(versions):
        count = len(list(items))
        if version is not None:
            start, end = axes.x(first) - axes.step * 0.42, axes.x(first + count - 1) + axes.step * 0.42
            parts += [
                element("line", x1=start, x2=end, y1=HEIGHT - 19, y2=HEIGHT - 19, stroke=GREY),
                element("text", f"v{version}", x=(start + end) / 2, y=HEIGHT - 6, text_anchor="middle"),
            ]
        first += count
    return parts
