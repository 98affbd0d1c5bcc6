"""Draw the marks and SVG elements of a report page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from markupsafe import Markup

from airflow_mlops.policy.findings import Decision

# People with any kind of colour blindness can distinguish Okabe and Ito's colours. Shapes and words show the same
# information.
BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#6b7280"
# Colours that style.css sets, which differ between a light and a dark page.
TEXT, SLATE, LINE, PAGE = "var(--text)", "var(--slate)", "var(--line)", "var(--page)"


class Badge(NamedTuple):
    """The mark and the colours of a decision.

    :param mark: the symbol before the decision
    :param colour: the colour of the background
    :param text: the colour of the text
    """

    mark: str
    colour: str
    text: str


BADGES: dict[Decision, Badge] = {
    "healthy": Badge("✓", BLUE, "#fff"),
    "watch": Badge("!", ORANGE, "#1c1c1c"),
    "retrain": Badge("↻", RED, "#fff"),
}


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Build an SVG element. Text in children and attributes is escaped, and markup is not.

    :param name: name of the element, such as ``rect``
    :param children: text or elements inside the element
    :param attributes: attributes by name, with underscores instead of hyphens; floats are written with one decimal
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else value)
        for key, value in attributes.items()
    )
    if not children:
        return Markup("<{}{}/>").format(name, written)
    return Markup("<{}{}>{}</{}>").format(name, written, Markup("").join(children), name)


def svg(width: float, height: float, title: str, parts: Iterable[str]) -> Markup:
    """Build an SVG image.

    :param width: width in pixels
    :param height: height in pixels
    :param title: the alternative text
    :param parts: the elements of the image
    """
    size = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    return element("svg", Markup("").join(parts), **size, role="img", aria_label=title)


def inline(part: Markup) -> Markup:
    """Build a small SVG image that shows a mark within a line of text."""
    return element("svg", part, width=14, height=12, **{"class": "inline"}, aria_hidden="true")


def mark(decision: Decision, x: float, y: float) -> Markup:
    """Draw the mark of a window, centred at ``x`` and ``y``. The shape of the mark shows the decision."""
    colour = BADGES[decision].colour
    if decision == "healthy":
        return element("circle", cx=float(x), cy=float(y), r=5, fill=colour)
    if decision == "watch":
        points = f"{x:.1f},{y - 6:.1f} {x - 6:.1f},{y + 5:.1f} {x + 6:.1f},{y + 5:.1f}"
        return element("polygon", points=points, fill=colour, stroke="#7a5200", stroke_width=".7")
    return element("rect", x=x - 5.0, y=y - 5.0, width=10, height=10, fill=colour)


def estimate_mark(x: float, y: float) -> Markup:
    """Draw the mark of an estimate, centred at ``x`` and ``y``."""
    return element("path", d=f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5-5z", fill=PAGE, stroke=SLATE, stroke_width="1.4")


def p_value(value: float | None) -> str:
    """Format a p-value. ``None`` is shown as a dash."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def number(value: float | None, spec: str) -> str:
    """Format a number by the format specification ``spec``, such as ``.3f``. ``None`` is shown as a dash."""
    return "-" if value is None else format(value, spec)


def with_note(value: str, note: str) -> Markup:
    """Build the content of a table cell: a value with a small note below."""
    return Markup("{}<small>{}</small>").format(value, note)
