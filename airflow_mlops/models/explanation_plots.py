"""Write the importances and shape functions of a glass-box model (EBM) as JSON and as plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.models.explanation import FILE, Axis, Curve, Explanation, Surface, Term
from airflow_mlops.models.plotting import (
    BARS,
    BLUE,
    CLASS_COLOURS,
    GREY,
    ORANGE,
    new_figure,
    no_mathtext,
    save,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

COLUMNS, TEXTS, TEXT_LENGTH = 3, 12, 18
# Line styles and markers of the classes, which differ in addition to the colours.
_STYLES = ["-", "--", ":", "-.", (0, (5, 1)), (0, (1, 3)), (0, (3, 1, 1, 1, 1, 1))]
_MARKS = "os^Dv*P"


def write(folder: Path, explanation: Explanation) -> None:
    """Write the JSON file and the plots of the importances and shape functions into ``folder``."""
    (folder / FILE).write_text(explanation.model_dump_json(indent=1))
    draw(folder, explanation)


@no_mathtext
def draw(folder: Path, explanation: Explanation) -> list[Path]:
    """Plot the importance of the terms, and the shape functions of the most important terms.

    :param folder: the folder for the PNG files
    :return: the PNG files
    """
    shapes = [term for term in explanation.terms if term.curve or term.surface]
    figures = {"terms": _importances(explanation)}
    if shapes:
        figures["shapes"] = _shapes(explanation, shapes)
    return save(folder, figures)


def _importances(explanation: Explanation) -> Figure:
    terms = explanation.terms[:BARS]
    figure, axes = new_figure("Terms of the model", 6.4, 1.6 + 0.27 * len(terms))
    axes.barh([term.name for term in terms], [term.importance for term in terms], color=BLUE)
    axes.set_ylim(len(terms) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"mean absolute contribution ({explanation.unit})")
    return figure


def _shapes(explanation: Explanation, terms: Sequence[Term]) -> Figure:
    from matplotlib.figure import Figure

    lines = -(-len(terms) // COLUMNS)
    figure = Figure(figsize=(12.0, 0.6 + 3.1 * lines), layout="constrained")
    figure.suptitle(f"Contribution of each term: {explanation.unit}", x=0.01, ha="left", fontsize=11)
    grid = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    # All curves share one scale, and so do all surfaces, so less important terms look less important.
    bounds, largest = _bounds(terms), _largest(terms)
    pictures: list[Any] = []
    for axes, term in zip(grid, terms, strict=False):
        style(axes)
        axes.set_title(term.name, loc="left", fontsize=10)
        if term.curve and term.curve.axis.texts:
            _dots(axes, term.curve, bounds)
        elif term.curve:
            _steps(axes, term.curve, bounds)
        elif term.surface:
            pictures.append(_cells(axes, term.surface, largest))
    for axes in grid[len(terms) :]:
        axes.set_visible(False)
    if pictures:
        figure.colorbar(pictures[0], ax=list(grid), shrink=0.6, aspect=40, label="terms of two features")
    if len(explanation.outputs) > 1:
        _name_classes(figure, explanation.outputs)
    return figure


def _bounds(terms: Sequence[Term]) -> tuple[float, float]:
    curves = [term.curve for term in terms if term.curve]
    values = [0.0, *(value for curve in curves for line in [*curve.scores, curve.missing or []] for value in line)]
    margin = 0.06 * ((max(values) - min(values)) or 1.0)
    return min(values) - margin, max(values) + margin


def _largest(terms: Sequence[Term]) -> float:
    return (
        max((abs(value) for term in terms if term.surface for line in term.surface.scores for value in line), default=0)
        or 1.0
    )


def _looks() -> list[dict[str, Any]]:
    return [
        {"color": colour, "linestyle": style, "marker": mark}
        for colour, style, mark in zip(CLASS_COLOURS, _STYLES, _MARKS, strict=True)
    ]


def _steps(axes: Axes, curve: Curve, bounds: tuple[float, float]) -> None:
    edges = _edges(curve.axis)
    axes.axhline(0, color=GREY, linewidth=0.8)
    for place, (scores, errors, look) in enumerate(zip(curve.scores, curve.errors, _looks(), strict=False)):
        values, spread = np.array([*scores, scores[-1]]), np.array([*errors, errors[-1]])
        axes.fill_between(edges, values - spread, values + spread, step="post", color=look["color"], alpha=0.2, lw=0)
        axes.plot(edges, values, drawstyle="steps-post", linewidth=1.6, **{**look, "marker": ""})
        if curve.missing:
            # A null has no position on the axis, so its contribution is drawn outside.
            axes.plot([1.03 + 0.025 * place], curve.missing[place], transform=axes.get_yaxis_transform(), clip_on=False,
                      markersize=5, **{**look, "linestyle": ""})  # fmt: skip
    axes.set(xlim=(edges[0], edges[-1]), ylim=bounds, xlabel=curve.axis.feature)
    if curve.missing:
        axes.text(1.03, 1.03, "missing", transform=axes.transAxes, ha="center", fontsize=8)


def _dots(axes: Axes, curve: Curve, bounds: tuple[float, float]) -> None:
    most = np.argsort(-np.array(curve.rows), kind="stable")[:TEXTS]
    height = min(len(curve.scores), len(CLASS_COLOURS))
    axes.axvline(0, color=GREY, linewidth=0.8)
    for place, (scores, errors, look) in enumerate(zip(curve.scores, curve.errors, _looks(), strict=False)):
        # The markers of the classes are drawn side by side.
        lines = np.arange(len(most)) + (place - (height - 1) / 2) * 0.6 / height
        axes.errorbar(np.array(scores)[most], lines, xerr=np.array(errors)[most], markersize=4, elinewidth=1.2,
                      **{**look, "linestyle": ""})  # fmt: skip
    axes.set_yticks(range(len(most)), [_text(curve.axis.texts[number]) for number in most], fontsize=8)
    axes.set(xlim=bounds, ylim=(len(most) - 0.4, -0.6))
    if len(most) < len(curve.rows):
        axes.set_xlabel(f"the {len(most)} most frequent of {len(curve.rows)}", fontsize=8)


def _cells(axes: Axes, surface: Surface, largest: float) -> Any:
    axes.grid(visible=False)
    found = axes.pcolormesh(
        _edges(surface.second), _edges(surface.first), np.array(surface.scores), cmap=_map(), vmin=-largest,
        vmax=largest, rasterized=True,
    )  # fmt: skip
    for axis, side in ((axes.xaxis, surface.second), (axes.yaxis, surface.first)):
        axis.set_label_text(side.feature)
        if side.texts:
            shown = range(len(side.texts)) if len(side.texts) <= TEXTS else []
            axis.set_ticks([place + 0.5 for place in shown], [_text(side.texts[place]) for place in shown], fontsize=8)
    axes.tick_params(axis="x", rotation=45 if surface.second.texts else 0)
    return found


def _edges(axis: Axis) -> Any:
    if axis.texts:
        return np.arange(len(axis.texts) + 1)
    edges = np.array(axis.edges)
    return edges if edges[-1] > edges[0] else edges[0] + np.linspace(-0.5, 0.5, len(edges))


def _text(texts: Sequence[str]) -> str:
    text = ", ".join(text or "(missing)" for text in texts)
    return text if len(text) <= TEXT_LENGTH else f"{text[: TEXT_LENGTH - 1]}…"


def _map() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("terms", [ORANGE, "#f7f7f7", BLUE])


def _name_classes(figure: Figure, classes: Sequence[Any]) -> None:
    from matplotlib.lines import Line2D

    names = [str(name) for name in classes[: len(CLASS_COLOURS)]]
    if len(names) < len(classes):
        names[-1] += f" (and {len(classes) - len(names)} more, not shown)"
    handles = [Line2D([], [], markersize=5, label=name, **look) for name, look in zip(names, _looks(), strict=False)]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(names), frameon=False)
