"""What the parts of a report's page share: colours, marks, numbers as text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

# Okabe and Ito's colours keep apart under every kind of colour blindness; marks differ in shape and words as well.
BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#6b7280"
DECISIONS = {"healthy": ("✓", BLUE, "#fff"), "watch": ("!", ORANGE, "#1c1c1c"), "retrain": ("↻", RED, "#fff")}


def mark(decision: str, x: float, y: float) -> str:
    """The mark of a window, in the shape of what was decided, around ``x`` and ``y``."""
    colour = DECISIONS[decision][1]
    if decision == "healthy":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    if decision == "watch":
        points = f"{x:.1f},{y - 6:.1f} {x - 6:.1f},{y + 5:.1f} {x + 6:.1f},{y + 5:.1f}"
        return f'<polygon points="{points}" fill="{colour}" stroke="#7a5200" stroke-width=".7"/>'
    return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>'


def estimate_mark(x: float, y: float) -> str:
    """The mark of an estimate."""
    path = f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5-5z"
    return f'<path d="{path}" fill="#fff" stroke="#3c4450" stroke-width="1.4"/>'


def shown_p(value: float | None) -> str:
    """A p-value as text."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def number(value: float | None, how: str) -> str:
    """``value`` in the format ``how``, a dash where there is none."""
    return "-" if value is None else format(value, how)


def key(when: str) -> str:
    """Which colour is which.

    :param when: of the reference, as in ``at training``
    """
    return (
        f'<p class="muted"><span class="key" style="background:{BLUE};margin-left:0"></span>{escape(when)}'
        f'<span class="key" style="background:{ORANGE}"></span>this window</p>'
    )


def svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """A picture with a title for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
