"""The common style of all plots. Plots are drawn without pyplot, which is slow to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The palette of Okabe and Ito, which is safe for colour-blind readers. Lines also differ in their style.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
CLASS_COLOURS = [BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
BARS = 20

# Decorator of drawing functions. It keeps Matplotlib from rendering a name with two dollar signs as a formula.
no_mathtext = rc_context({"text.parse_math": False})


def save(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write each figure to ``NAME.png`` in ``folder``, and return the files."""
    files = []
    for name, figure in figures.items():
        file = folder / f"{name}.png"
        figure.savefig(file, dpi=110)
        files.append(file)
    return files


def new_figure(title: str, width: float = 5.6, height: float = 4.8) -> tuple[Figure, Axes]:
    """Create a figure with one plot.

    :param title: title of the plot
    :param width: width in inches
    :param height: height in inches
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    style(axes)
    axes.set_title(title, loc="left", fontsize=11)
    return figure, axes


def style(axes: Axes) -> None:
    """Remove the top and the right line of the frame, and draw the grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
