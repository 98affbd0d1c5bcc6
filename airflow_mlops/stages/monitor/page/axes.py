"""The axes of a plot of metric values by window: scales, grid lines, and labels of the windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from airflow_mlops.core.windows import Window
from airflow_mlops.stages.monitor.page.drawing import LINE, element

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000, 250, 52, 16, 12, 44
"""The size of a plot and of the margins around its values, in pixels."""
_MAX_LABELS = 14


class Axes(NamedTuple):
    """The scales of the plot, which convert windows and metric values to coordinates.

    :param low: metric value at the bottom
    :param high: metric value at the top
    :param step: width of a window, in pixels
    """

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, values: Sequence[float], windows: int) -> Axes:
        """Return axes that show all values with a margin.

        :param values: at least one value
        :param windows: number of windows
        """
        # If all values are equal, the margin grows with the value: a fixed margin would be invisible next to a large
        # value.
        margin = (max(values) - min(values)) * 0.08 or 0.01 * max(1.0, abs(values[0]))
        return cls(min(values) - margin, max(values) + margin, (WIDTH - LEFT - RIGHT) / windows)

    def x(self, index: float) -> float:
        """Return the middle of a window, in pixels."""
        return LEFT + self.step * (index + 0.5)

    def y(self, value: float) -> float:
        """Return the height of a value, in pixels from the top."""
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def grid(axes: Axes) -> list[Markup]:
    """Draw a line and a label at each round value."""
    return [
        part
        for tick in _ticks(axes.low, axes.high)
        for part in (
            element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=axes.y(tick), y2=axes.y(tick), stroke=LINE),
            element("text", f"{tick:,.6g}", x=LEFT - 6, y=axes.y(tick) + 4, text_anchor="end"),
        )
    ]


def window_labels(windows: Sequence[Window], axes: Axes) -> list[Markup]:
    """Draw the labels of at most 14 windows, including the last one."""
    every = max(1, -(-len(windows) // _MAX_LABELS))
    return [
        element("text", window.short_label, x=axes.x(index), y=HEIGHT - 26, text_anchor="middle")
        for index, window in enumerate(windows)
        if (len(windows) - 1 - index) % every == 0
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Return at most six round numbers between ``low`` and ``high``."""
    raw = (high - low) / 4
    magnitude = 10.0 ** int(f"{raw:e}".rpartition("e")[2])
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first = -(-low // step)
    return [round((first + index) * step, 12) for index in range(6) if (first + index) * step <= high]
