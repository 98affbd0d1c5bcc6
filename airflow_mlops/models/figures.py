"""What all plots share. Matplotlib's objects are used without pyplot, which is slow to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by the colour-blind; lines differ in their style as well.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
CLASS_COLOURS = [BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
BARS = 20

# Around whatever draws: what is between two dollars in a name is no formula.
literally = rc_context({"text.parse_math": False})


def save(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write each figure as NAME.png."""
    files = []
    for name, figure in figures.items():
        file = folder / f"{name}.png"
        figure.savefig(file, dpi=110)
        files.append(file)
    return files


def new_figure(title: str, width: float = 5.6, height: float = 4.8) -> tuple[Figure, Axes]:
    """One plot, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    plain(axes)
    axes.set_title(title, loc="left", fontsize=11)
    return figure, axes


def plain(axes: Axes) -> None:
    """No box around the plot, and a grid that stays behind it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
