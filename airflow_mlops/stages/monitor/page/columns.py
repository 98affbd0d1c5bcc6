"""The columns of a report's page: how each has drifted, as a table and as plots."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.policy.findings import Report
from airflow_mlops.stages.monitor.page.drawing import BLUE, ORANGE, RED, key, number, shown_p, svg

_PLOTS = 24
_RECONSTRUCTION = (
    '<p class="muted">How far rows lie from what the principal components of the training data make of them, in standard '
    "deviations. It moves where features no longer have to do with one another what they had, even if each by itself looks "
    "as before.</p>"
)


def scores(report: Report) -> str:
    """The sections on the scores, the labels, and the features together."""
    parts = (
        ("Predicted scores", report.prediction, "score", ""),
        ("Labels", report.label, "label", ""),
        (
            "The features together",
            report.multivariate,
            "reconstruction error",
            _RECONSTRUCTION,
        ),
    )
    return "".join(
        f'<h2>{title}</h2>{about}{key(drift.when)}<p>{_judged(drift)}</p><div class="plots">'
        f"{_plot(drift, name, 'the held-out data')}</div>\n"
        for title, drift, name, about in parts
        if drift is not None
    )


def _judged(drift: Drift) -> str:
    if drift.effect is None:
        return escape(drift.note or "Not measured.")
    moved = "Drifted" if drift.drifted else "Not drifted"
    odd = f"; {escape(drift.remark)}" if drift.remark else ""
    return f"{moved} (adjusted p {escape(shown_p(drift.adjusted_p_value))}){odd}."


def features(report: Report) -> str:
    """The section on the features and what is watched beside them: a table of all, and plots of the first."""
    drifts = [*report.features, *(_beside(drift) for drift in report.watched)]
    if not drifts:
        return ""
    plotted = [drift for drift in drifts if drift.bins]
    full = max([0.1, *(drift.effect or 0 for drift in drifts)])
    when = _when(drifts)
    rows = "".join(_row(drift, full, report.policy.min_effect, when) for drift in drifts)
    more = f" The first {_PLOTS} are drawn." if len(plotted) > _PLOTS else ""
    heads = (
        "Import-<br>ance", "Drift", "Adjusted<br>p", "Decided<br>by", "PSI", "Jensen-<br>Shannon", "KS or total<br>variation",
        "Wasser-<br>stein", "Missing<br>now", f"Missing {escape(when)}", "Unseen<br>values",
    )  # fmt: skip
    return (
        f"<h2>Features</h2>{_testing(report)}"
        f'<p class="muted">What has drifted comes first, then {_order(report)} Drift is the share of rows that the deciding '
        "test found to have moved, the dashed line the least that counts. PSI, the population stability index, and "
        "Jensen-Shannon distance compare the bins below; Kolmogorov-Smirnov (KS) and Wasserstein distance compare whole "
        "distributions of numbers, the latter in standard deviations; total variation compares the shares of values. "
        f"Below each is its p-value by itself, uncorrected.{more}</p>"
        '<div class="wide"><table><thead><tr><th scope="col">Feature</th>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + '<th scope="col" class="note">Note</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f"{key(when)}"
        f'<div class="plots">{"".join(_plot(drift, drift.column, TRAINING) for drift in plotted[:_PLOTS])}</div>\n'
    )


def _beside(drift: Drift) -> Drift:
    return drift.model_copy(update={"note": "; ".join(filter(None, ["not a feature", drift.note]))})


def _when(drifts: Sequence[Drift]) -> str:
    """When columns were as they are compared with."""
    every = {drift.when for drift in drifts}
    return every.pop() if len(every) == 1 else "in the reference"


def _order(report: Report) -> str:
    if all(drift.importance is None for drift in report.features):
        return "by size."
    return (
        "by drift times importance. Importance is how much worse the model got on the held-out part when the feature was "
        "shuffled, as a share of the sum over all features; features that say the same share it between them."
    )


def _testing(report: Report) -> str:
    found = report.drift_tests
    if found is None:
        return ""
    return (
        f"<p>{found.tests} tests were done on {found.columns} columns, the scores among them{_also(report)}. With nothing changed, at "
        f"most {found.false_alarm_rate:.0%} of windows raise any alarm: p-values are corrected for their number "
        f"({escape(found.correction)}). A change that concerns less than {found.min_effect:.1%} of the rows raises "
        "none.</p>"
    )


def _also(report: Report) -> str:
    more = [
        text
        for part, text in ((report.label, "the labels"), (report.multivariate, "the reconstruction error"))
        if part is not None and part.effect is not None
    ]
    return "".join(f" and {text}" for text in more)


def _row(drift: Drift, full: float, floor: float, when: str) -> str:
    bar = ""
    if drift.effect is not None:
        colour = RED if drift.drifted else BLUE
        least = 78 * min(floor / full, 1)
        bar = svg(
            80,
            12,
            f"drift {drift.effect:.1%}, {floor:.1%} counts",
            [
                f'<rect x="0" y="2" width="{78 * drift.effect / full:.1f}" height="8" fill="{colour}"/>',
                f'<line x1="{least:.1f}" x2="{least:.1f}" y1="0" y2="12" stroke="#1c1c1c" stroke-dasharray="2 2"/>',
            ],
        )
    apart = ("ks", drift.ks) if drift.ks is not None else ("chi_square", drift.total_variation)
    cells = [
        f"<b>{escape(drift.column)}</b>" if drift.drifted else escape(drift.column),
        number(drift.importance, ".1%"),
        number(drift.effect, ".1%") + bar,
        escape(shown_p(drift.adjusted_p_value)),
        escape((drift.test or "-").replace("_", " ")),
        _tested(drift, "psi", drift.psi, ".3f"),
        _tested(drift, "jensen_shannon", drift.jensen_shannon, ".2f"),
        _tested(drift, *apart, ".2f"),
        _tested(drift, "wasserstein", drift.wasserstein, ".2f"),
        _tested(drift, "missing", drift.missing, ".1%"),
        number(drift.missing_reference, ".1%"),
        _tested(drift, "unseen", drift.unseen, ".1%"),
    ]
    against = f"compared with {drift.reference}" if drift.when != when else None
    note = "; ".join(item for item in ("drifted" if drift.drifted else None, against, drift.remark) if item)
    return f'<tr>{"".join(f"<td>{cell}</td>" for cell in cells)}<td class="note">{escape(note)}</td></tr>'


def _tested(drift: Drift, name: str, value: float | None, how: str) -> str:
    p_value = drift.p_values.get(name)
    return number(value, how) + (f"<small>p {escape(shown_p(p_value))}</small>" if p_value is not None else "")


def _plot(drift: Drift, name: str, training: str) -> str:
    """Two bars a bin, one below the other, with the bin's name before them.

    :param training: the data that are meant where the reference is training
    """
    reference = training if drift.reference == TRAINING else drift.reference
    if not drift.bins:
        return f"<figure><h3>{escape(name)}</h3><p class='muted'>{escape(drift.note or 'not measured')}</p></figure>"
    width, left, line = 340, 128, 24
    largest = max(max(item.reference, item.current) for item in drift.bins) or 1.0
    scale = (width - left - 48) / largest
    parts = []
    for index, item in enumerate(drift.bins):
        y = index * line + 4
        label = item.label if len(item.label) <= 20 else f"{item.label[:19]}…"
        tip = f"{item.label}: {item.reference:.1%} in {reference}, {item.current:.1%} in this window"
        parts.append(
            f"<g><title>{escape(tip)}</title>"
            f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{left}" y="{y}" width="{item.reference * scale:.1f}" height="8" fill="{BLUE}"/>'
            f'<rect x="{left}" y="{y + 9}" width="{item.current * scale:.1f}" height="8" fill="{ORANGE}"/>'
            f'<text x="{left + max(item.reference, item.current) * scale + 5:.1f}" y="{y + 13}">'
            f"{item.current:.1%}</text></g>"
        )
    moved = f" · {drift.effect:.1%}" if drift.effect is not None else ""
    picture = svg(width, len(drift.bins) * line + 4, f"{name}: shares by bin, {drift.when} and in this window", parts)
    return f"<figure><figcaption><b>{escape(name)}</b>{moved}</figcaption>{picture}</figure>"
