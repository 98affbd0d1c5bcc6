"""Build the sections on drift of scores, labels and features, with tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from airflow_mlops.core.numbers import percent
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.policy.findings import Report
from airflow_mlops.stages.monitor.page.drawing import BLUE, ORANGE, RED, TEXT, element, number, p_value, svg, with_note

_MAX_PLOTS = 24
_RECONSTRUCTION = (
    "The plot shows the reconstruction error: the distance between a row and its reconstruction from the principal "
    "components of the training data, in standard deviations. The error drifts if relations between features change, even "
    "if the distribution of each feature stays the same."
)
_ATTRIBUTIONS = (
    "The plot shows each feature's share of the sum of all absolute attributions. The effect is the share that moved from some "
    "features to others. The permutation test compares the order of the features (NDCG)."
)
_TESTS = {
    "chi_square": "chi-square test of the shares of the values",
    "cucconi": "Cucconi test for a change of the level or the spread",
    "hour": "chi-square test of the hours of the day",
    "ks": "Kolmogorov-Smirnov test for any difference of the distributions",
    "missing": "test of the share of rows without a usable value",
    "norm": "Kolmogorov-Smirnov test of the lengths of the embeddings",
    "projection": "Kolmogorov-Smirnov test of the embeddings along a random direction",
    "unseen": "test of the share of rows with values that do not occur in the reference",
    "weekday": "chi-square test of the weekdays",
    "words": "test of the shares of rows with a word",
}


@dataclass(frozen=True)
class Figure:
    """A plot of the drift of a column, or the reason why there is no plot.

    :param name: name of the column
    :param effect: the end of the caption, with the effect of the drift
    :param picture: the plot; ``None`` if there is no plot
    :param note: why there is no plot
    """

    name: str
    effect: str = ""
    picture: Markup | None = None
    note: str = ""


@dataclass(frozen=True)
class ScoreSection:
    """A section on drift of the scores, the labels, the reconstruction error, or the attributions.

    :param about: an explanation of the column; may be empty
    :param when: the reference as the end of a phrase, such as ``at training``
    :param result: a sentence that says whether the column drifted
    """

    title: str
    about: str
    when: str
    result: str
    figure: Figure


@dataclass(frozen=True)
class Row:
    """A row of the table, with the drift of one feature or watched column.

    :param cells: texts of the cells, except name and note
    :param note: remarks, such as ``not a feature``
    """

    name: str
    drifted: bool
    cells: list[str]
    note: str


@dataclass(frozen=True)
class FeatureSection:
    """The section on features and watched columns.

    :param tests: sentences about the number of tests and the thresholds of the tests
    :param order: the end of a sentence that explains the order of the rows
    :param deciding: sentences that explain each test that decided about a row of the table
    :param when: the reference as the end of a phrase, such as ``at training``
    :param more: number of plots if only the first columns are plotted; ``None`` if all columns are plotted
    """

    tests: str
    order: str
    deciding: list[str]
    when: str
    rows: list[Row]
    figures: list[Figure]
    more: int | None


def score_sections(report: Report) -> list[ScoreSection]:
    """Build the sections on the scores, the labels, the joint distribution of the features, and the attributions.

    A section is left out if the report has no such drift.
    """
    parts = (
        ("Predicted scores", report.prediction, "score", ""),
        ("Labels", report.label, "label", ""),
        ("The features together", report.multivariate, "reconstruction error", _RECONSTRUCTION),
        ("Attributions", report.attributions, "attributions", _ATTRIBUTIONS),
    )
    return [
        ScoreSection(title, about, drift.when, _result(drift), _figure(drift, name, "the held-out data"))
        for title, drift, name, about in parts
        if drift is not None
    ]


def feature_section(report: Report) -> FeatureSection | None:
    """Build the section on features and watched columns; ``None`` if the report has no such columns."""
    watched = {id(drift) for drift in report.watched}
    drifts = [*report.features, *report.watched]
    if not drifts:
        return None
    plotted = [drift for drift in drifts if drift.bins]
    largest = max([0.1, *(drift.effect or 0 for drift in drifts)])
    when = _when(drifts)
    return FeatureSection(
        tests=_tests(report),
        order=_order(report),
        deciding=_deciding(drifts),
        when=when,
        rows=[_row(drift, largest, report.policy.min_effect, when, watched=id(drift) in watched) for drift in drifts],
        figures=[_figure(drift, drift.column, TRAINING) for drift in plotted[:_MAX_PLOTS]],
        more=_MAX_PLOTS if len(plotted) > _MAX_PLOTS else None,
    )


def _result(drift: Drift) -> str:
    if drift.effect is None:
        return drift.note or "Not measured."
    result = "Drifted" if drift.drifted else "Not drifted"
    remark = f"; {drift.remark}" if drift.remark else ""
    return f"{result} (adjusted p {p_value(drift.adjusted_p_value)}){remark}."


def _when(drifts: Sequence[Drift]) -> str:
    """Return the reference of the columns as the end of a phrase, such as ``at training``."""
    times = {drift.when for drift in drifts}
    return times.pop() if len(times) == 1 else "in the reference"


def _order(report: Report) -> str:
    if all(drift.importance is None for drift in report.features):
        return "by the size of the drift."
    return (
        "by drift times importance. Importance is the loss of performance on held-out rows when the feature is "
        "shuffled, as a share of the sum over all features; correlated features share their importance."
    )


def _deciding(drifts: Sequence[Drift]) -> list[str]:
    kinds = {drift.test.partition(" ")[0] for drift in drifts if drift.test}
    return [f"{kind.replace('_', ' ')}: {_TESTS[kind]}" for kind in sorted(kinds & _TESTS.keys())]


def _tests(report: Report) -> str:
    tests = report.drift_tests
    if tests is None:
        return ""
    parts = (
        (report.label, "the labels"),
        (report.multivariate, "the reconstruction error"),
        (report.attributions, "the attributions"),
    )
    also = [name for part, name in parts if part is not None and part.effect is not None]
    return (
        f"{tests.tests} tests on {tests.columns} columns, including {' and '.join(['the scores', *also])}. If nothing "
        f"changes, at most {tests.false_alarm_rate:.0%} of windows raise an alarm, because p-values are adjusted for the "
        f"number of tests ({tests.correction}). Effects below {tests.min_effect:g} (min_effect) do not count."
    )


def _row(drift: Drift, largest: float, min_effect: float, when: str, *, watched: bool) -> Row:
    distance = ("ks", drift.ks) if drift.ks is not None else ("chi_square", drift.total_variation)
    cells = [
        number(drift.importance, ".1%"),
        Markup("{}{}").format(number(drift.effect, ".3f"), _bar(drift, largest, min_effect)),
        p_value(drift.adjusted_p_value),
        (drift.test or "-").replace("_", " "),
        _tested(drift, "psi", drift.psi, ".3f"),
        _tested(drift, "jensen_shannon", drift.jensen_shannon, ".2f"),
        _tested(drift, *distance, ".2f"),
        _tested(drift, "wasserstein", drift.wasserstein, ".2f"),
        _tested(drift, "missing", drift.missing, ".1%"),
        number(drift.missing_reference, ".1%"),
        _tested(drift, "unseen", drift.unseen, ".1%"),
    ]
    notes = [
        "drifted" if drift.drifted else "",
        f"compared with {drift.reference}" if drift.when != when else "",
        "not a feature" if watched else "",
        drift.remark,
    ]
    return Row(drift.column, drift.drifted, cells, "; ".join(filter(None, notes)))


def _bar(drift: Drift, largest: float, min_effect: float) -> Markup:
    """Draw a bar for the effect, with a dashed line at the smallest effect that counts.

    :param largest: effect at the full length of the bar
    """
    if drift.effect is None:
        return Markup("")
    limit = 78.0 * min(min_effect / largest, 1)
    bar = element("rect", x=0, y=2, width=78 * drift.effect / largest, height=8, fill=RED if drift.drifted else BLUE)
    line = element("line", x1=limit, x2=limit, y1=0, y2=12, stroke=TEXT, stroke_dasharray="2 2")
    return svg(80, 12, f"effect {drift.effect:.3f}; effects of at least {min_effect:g} count", [bar, line])


def _tested(drift: Drift, name: str, value: float | None, spec: str) -> str:
    tested = drift.p_values.get(name)
    text = number(value, spec)
    return text if tested is None else with_note(text, f"p {p_value(tested)}")


def _figure(drift: Drift, name: str, training: str) -> Figure:
    """Draw two bars for each bin: the share of rows in the reference, and below it the share in the window.

    :param name: name of the column in the caption
    :param training: text that names the reference if the reference is training
    """
    if not drift.bins:
        return Figure(name, note=drift.note or "not measured")
    reference = training if drift.reference == TRAINING else drift.reference
    width, left, line = 360, 148, 24
    largest = max(max(item.reference, item.current) for item in drift.bins) or 1.0
    scale = (width - left - 48) / largest
    parts = []
    for index, item in enumerate(drift.bins):
        y = index * line + 4
        label = item.label if len(item.label) <= 18 else f"{item.label[:17]}…"
        end = left + max(item.reference, item.current) * scale + 5
        parts.append(
            element(
                "g",
                element(
                    "title",
                    f"{item.label}: {percent(item.reference)} in {reference}, {percent(item.current)} in this window",
                ),
                element("text", label, x=left - 6, y=y + 13, text_anchor="end"),
                element("rect", x=left, y=y, width=item.reference * scale, height=8, fill=BLUE),
                element("rect", x=left, y=y + 9, width=item.current * scale, height=8, fill=ORANGE),
                element("text", percent(item.current), x=end, y=y + 13),
            )
        )
    effect = f" · effect {drift.effect:.3f}" if drift.effect is not None else ""
    title = f"{name}: shares by bin, {drift.when} and in this window"
    return Figure(name, effect, svg(width, len(drift.bins) * line + 4, title, parts))
