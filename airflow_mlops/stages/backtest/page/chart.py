"""Draw the metric of each strategy by window as an SVG line chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from airflow_mlops.core.numbers import rounded
from airflow_mlops.stages.backtest.spec import Replayed, Step
from airflow_mlops.stages.monitor.page.axes import HEIGHT, WIDTH, Axes, grid, window_labels
from airflow_mlops.stages.monitor.page.drawing import BLUE, GREY, RED, TEXT, element, inline, svg

if TYPE_CHECKING:
    from markupsafe import Markup


class Style(NamedTuple):
    """How a strategy is drawn.

    :param colour: the colour of the line and of its marks
    :param dash: lengths of dashes and gaps in pixels; empty for a solid line
    :param width: width of the line in pixels
    """

    colour: str
    dash: str
    width: str


class LegendItem(NamedTuple):
    """An item of the legend: a short line, and the name of the strategy."""

    mark: Markup
    name: str


# The dashes distinguish the lines for readers who cannot distinguish the colours.
STYLES = {
    "never": Style(GREY, "2 3", "1.6"),
    "every window": Style(BLUE, "7 4", "1.6"),
    "oracle": Style(TEXT, "10 3 2 3", "1.2"),
    "policy": Style(RED, "", "2.4"),
}


def chart(strategies: Sequence[Replayed], metric: str) -> Markup:
    """Draw one line for each strategy. A square marks a window after which the policy trained a model.

    :param strategies: strategies over the same windows
    :param metric: name of the metric
    """
    values = [step.value for item in strategies for step in item.steps if step.value is not None]
    windows = [step.window for step in strategies[0].steps]
    axes = Axes.around(values, len(windows))
    # The policy is drawn last, above the other lines.
    ordered = sorted(strategies, key=lambda item: list(STYLES).index(item.strategy))
    parts = [
        *grid(axes),
        *(part for item in ordered for part in _line(item, metric, axes)),
        *window_labels(windows, axes),
    ]
    return svg(WIDTH, HEIGHT, f"{metric} by window for each strategy", parts)


def legend(strategies: Sequence[Replayed]) -> list[LegendItem]:
    """Return the items of the legend, in the order of the strategies."""
    return [LegendItem(_sample(STYLES[item.strategy]), item.strategy) for item in strategies]


def trained_mark() -> Markup:
    """Return the mark of a window after which a model was trained, for the legend."""
    return inline(_square(7, 6))


def _sample(style: Style) -> Markup:
    return element("svg", _stroke("M0 6H28", style), width=28, height=12, **{"class": "inline"}, aria_hidden="true")


def _line(item: Replayed, metric: str, axes: Axes) -> list[Markup]:
    style = STYLES[item.strategy]
    # The line skips windows without labels.
    points = [
        (step, axes.x(index), axes.y(step.value)) for index, step in enumerate(item.steps) if step.value is not None
    ]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for _, x, y in points)
    draw = _point(item, style)
    return [
        _stroke(path, style),
        *(element("g", element("title", _title(item, step, metric)), draw(step, x, y)) for step, x, y in points),
    ]


def _stroke(path: str, style: Style) -> Markup:
    dash = {"stroke_dasharray": style.dash} if style.dash else {}
    return element("path", d=path, fill="none", stroke=style.colour, stroke_width=style.width, **dash)


def _point(item: Replayed, style: Style) -> Callable[[Step, float, float], Markup]:
    def draw(step: Step, x: float, y: float) -> Markup:
        if item.strategy == "policy" and step.trained:
            return _square(x, y)
        return element("circle", cx=x, cy=y, r="2.5", fill=style.colour)

    return draw


def _square(x: float, y: float) -> Markup:
    return element("rect", x=x - 5.0, y=y - 5.0, width=10, height=10, fill=RED)


def _title(item: Replayed, step: Step, metric: str) -> str:
    trained = f", trained afterwards ({', '.join(step.triggers)})" if step.triggers and step.trained else ""
    return f"{step.window.label}: {metric} {rounded(step.value or 0.0)} by {item.strategy}{trained}"
