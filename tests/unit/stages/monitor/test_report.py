"""The HTML page of a report: self-contained, the verdict first, and data escaped everywhere."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from airflow_mlops.core.calls import Request
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.drift.findings import Bin, Drift, DriftTests, SchemaChange
from airflow_mlops.performance.findings import Change, LossChange, MeanLoss, Performance, RecentLevel, Segment, Shift
from airflow_mlops.policy.findings import ActiveTrigger, Limit, Report, RetrainingPlan, Verdict
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.spec import LabelDelay
from airflow_mlops.stages.monitor.page.axes import HEIGHT, Axes, grid
from airflow_mlops.stages.monitor.page.report import render

V1 = ModelVersionRef(model="delays", version=1, run_id="r")


def report(month: int = 4, decision: str = "watch", count: int = 3, **fields) -> Report:
    bins = [Bin(label=f"{n} to {n + 1}", reference=0.1, current=0.2) for n in range(10)]
    names = [f"<script>f{n}</script>" for n in range(count)]
    headline, details = "Because 1 < 2 & <b>bold</b>", ["A detail of 5% <i>", "Another detail"]
    reason = f"{headline}. {' '.join(details)}"
    known = {
        "model": "delays", "window": f"2013-{month:02}", "created": datetime(2013, 5, 1, tzinfo=timezone.utc),
        "verdict": Verdict(decision=decision, headline=headline, details=details, reason=reason), "policy": Policy(), "champion": V1,
        "scored_by": V1, "rows": 6_000, "labelled": 5_000, "coverage": 5 / 6,
        "performance": Performance(metric="roc_auc", value=0.7, low=0.69, high=0.71, reference=0.72, labels=5_000),
        "prediction": Drift(column="score", kind="numeric", psi=0.01, effect=0.031, adjusted_p_value=0.2, bins=bins),
        "drift_tests": DriftTests(false_alarm_rate=0.05, min_effect=0.02, columns=count + 1, tests=2 * count + 2),
        "features": [
            Drift(
                column=name, kind="numeric", psi=0.5, ks=0.1, p_values={"ks": 1e-9}, test="ks", effect=1 / (n + 1),
                p_value=1e-9, adjusted_p_value=1e-8, drifted=n == 0, bins=bins,
            )
            for n, name in enumerate(names)
        ],
    }  # fmt: skip
    return Report(**{**known, **fields})


class Page(HTMLParser):
    """Collects tags, text, and what a page would fetch."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.words, self.fetched, self.open, self.attributes = [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_page_is_well_formed_and_self_contained_and_escapes_data():
    page = render(report(), [report(1), report(2), report(3)])
    found = Page(page)
    assert not found.open
    assert not found.fetched
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not [what for what in ("url(", "@import", "<b>bold", "<script>") if what in page]
    for picture in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(picture)


def text_of(page: str) -> str:
    """The visible text, with single spaces."""
    return " ".join(" ".join(Page(page).words).split())


def test_the_verdict_comes_first():
    words = text_of(render(report(decision="retrain")))
    order = (
        "retrain",
        "Because 1 < 2 & <b>bold</b>",
        "A detail of 5% <i>",
        "Another detail",
        "6,000",
        "About this report",
    )
    places = [words.index(part) for part in order]
    assert places == sorted(places)


def test_the_page_of_an_older_report_without_a_headline_shows_its_reason():
    old = report(verdict=Verdict.model_validate({"decision": "watch", "reason": "An older reason."}))
    page = render(old)
    assert "watch An older reason. Predictions" in text_of(page)
    assert "details" not in page.partition("</style>")[2]


HOSTILE = """<script>alert(1)</script>'"><img src=x onerror=alert(1)>&lt;{{ 7 * 7 }}{% raw %}"""


def test_hostile_names_and_values_are_inert_everywhere_in_the_page():
    """Each text that comes from data is hostile, and none of it becomes a tag or leaves an attribute."""
    bins = [Bin(label=HOSTILE, reference=0.1, current=0.2)]

    def drift(**fields) -> Drift:
        known = {
            "column": HOSTILE, "kind": "categorical", "reference": HOSTILE, "effect": 0.4, "drifted": True, "bins": bins,
            "test": HOSTILE, "note": HOSTILE, "new_values": [(HOSTILE, 0.5)], "gone_values": [(HOSTILE, 0.5)],
        }  # fmt: skip
        return Drift(**{**known, **fields})

    version = ModelVersionRef(model=HOSTILE, version=1, run_id=HOSTILE)
    trigger = ActiveTrigger(trigger="performance", reason=HOSTILE)
    hostile = report(
        model=HOSTILE, champion=version, scored_by=version, unmeasured=HOSTILE, notes=[HOSTILE],
        verdict=Verdict(decision="retrain", headline=HOSTILE[:90], details=[HOSTILE], reason=HOSTILE),
        schema_changes=[SchemaChange(column=HOSTILE, before=HOSTILE, now=HOSTILE, compared=False)],
        features=[drift(), drift(bins=[])], watched=[drift()], prediction=drift(), label=drift(bins=[]),
        multivariate=drift(effect=None),
        drift_tests=DriftTests(false_alarm_rate=0.05, min_effect=0.02, columns=1, tests=1, correction=HOSTILE),
        datasets=[DatasetRef(name="d", id=HOSTILE, rows=1)], policy=Policy(code=HOSTILE),
        segments=[segment(0).model_copy(update={"name": HOSTILE})],
        loss=LOSS.model_copy(update={"shifts": [Shift(feature=HOSTILE, mix=0.1, rate=0.1)]}),
        changes=[change(4), change(4, "drift", HOSTILE)],
        retraining=RetrainingPlan(
            triggers=[trigger], limits=[Limit(name="cooldown", says=HOSTILE, reached=True)],
            request=asked("2013-04").model_copy(update={"id": HOSTILE}),
        ),
    )  # fmt: skip
    page = render(hostile, [hostile])
    found = Page(page)
    assert not found.open
    assert not found.fetched
    assert not {"script", "img", "i", "b>"} & set(found.tags)
    assert not [name for name in found.attributes if name.startswith("on")]
    assert "<script" not in page
    assert "49" not in " ".join(found.words)
    assert found.words.count(HOSTILE) > 5
    for picture in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(picture)


def test_the_false_alarm_rate_the_tests_and_their_correction_are_stated():
    words = text_of(render(report()))
    assert "8 tests on 4 columns" in words
    assert "at most 5% of windows raise an alarm" in words
    assert "Bonferroni within a column, Benjamini-Hochberg over the columns" in words
    assert "Effects below 0.02 (min_effect) do not count." in words
    assert "Effect is the size of the drift by the deciding test: at least this share of rows would need" in words
    assert "1 of 3 expected false alarms: at most 5% of windows" in words
    assert "Effect of score drift 0.031 not drifted, adjusted p 0.200" in words
    assert "p < 0.001" in words


def test_the_deciding_tests_of_the_table_are_explained():
    numeric = [
        Drift(column=test, kind="numeric", effect=0.3, test=test) for test in ("cucconi", "projection 7", "newer")
    ]
    words = text_of(render(report(features=numeric)))
    assert "counts: cucconi: Cucconi test for a change of the level or the spread; projection: Kolmogorov" in words
    assert "along a random direction." in words


def test_watched_columns_are_marked_as_no_features():
    bins = [Bin(label="Monday", reference=0.1, current=0.2)]
    watched = [
        Drift(column="opened", kind="timestamp", effect=0.3, test="hour", drifted=True, bins=bins),
        Drift(column="body", kind="text", note="not measured: the predictions do not have it"),
    ]
    words = text_of(render(report(watched=watched)))
    assert "drifted; not a feature" in words
    assert "not a feature; not measured: the predictions do not have it" in words
    assert "Monday" in words
    assert "Features drifted 1 of 3" in words
    assert "not a feature" not in text_of(render(report()))


def test_earlier_windows_make_a_timeline_with_the_decision_in_shape_and_words():
    earlier = [report(1, "healthy"), report(2, "watch"), report(3, "retrain", performance=None)]
    page = render(report(decision="retrain"), earlier)
    assert "2013-01: roc_auc 0.700 (0.690 to 0.710), v1, healthy" in page
    assert "2013-02: roc_auc 0.700 (0.690 to 0.710), v1, watch" in page
    assert "2013-03:" not in page
    # Each mark is in the plot once, and in the legend once.
    assert (page.count("<circle"), page.count("<polygon")) == (2, 2)


def estimate(value: float) -> Performance:
    return Performance(metric="roc_auc", value=value, low=value - 0.02, high=value + 0.02, reference=0.72, labels=6_000)


def test_an_estimate_is_shown_with_the_realised_value_and_alone_before_labels_arrive():
    young = {"performance": None, "unmeasured": "the window ended 2 days ago", "estimated": estimate(0.71)}
    page = render(report(5, **young), [report(3, estimated=estimate(0.76)), report(4, estimated=estimate(0.705))])
    words = text_of(page)
    assert "Estimated ROC AUC 0.710 from the scores without labels; 95% interval 0.690 to 0.730" in words
    assert "2013-03: estimated roc_auc 0.760 (0.740 to 0.780), v1, watch" in page
    assert "2013-03: roc_auc 0.700 (0.690 to 0.710), v1, watch" in page
    assert "2013-05: estimated roc_auc 0.710" in page
    assert "2013-05: roc_auc" not in page
    # The legend contains one more mark.
    assert page.count("<path") == 4
    assert "the realised value lies" not in words
    assert "the realised value lies inside" in render(report(estimated=estimate(0.705)))
    assert "the realised value lies outside" in render(report(estimated=estimate(0.76)))
    assert "<path" not in render(report())


def test_the_bound_and_the_best_recent_level_are_figures_and_the_bound_is_a_line():
    level = RecentLevel(version=3, windows=5, value=0.8, low=-0.13, high=-0.07, compared=2)
    measured = Performance(metric="roc_auc", value=0.7, low=0.69, high=0.71, reference=0.72, recent=level, labels=5_000)
    policy = Policy.model_validate({"min": 0.705, "best_recent": "P365D"})
    page = render(report(policy=policy, performance=measured))
    words = text_of(page)
    assert "Minimum ROC AUC 0.705 policy; missed, but not significantly" in words
    assert "Best recent ROC AUC 0.800 v3 in 5 windows; difference -0.130 to -0.070, corrected for 2 versions" in words
    assert ">min 0.705</text>" in page
    # A bound outside the plotted range is shown as a number, but not drawn.
    far = render(report(policy=Policy(min=0.1), performance=measured))
    assert "Minimum ROC AUC 0.100 policy; met" in text_of(far)
    assert "min 0.1</text>" not in far
    assert "red line" in words
    assert "red line" not in text_of(far)
    assert "Best recent" not in text_of(far)


def test_the_delay_of_labels_is_shown():
    words = text_of(render(report(label_delay=LabelDelay(median=1.25, p90=6.0, p99=21.04))))
    assert "Label delay 1.25 days median; 90% within 6 days, 99% within 21 days" in words


def asked(window: str) -> Request:
    known = {"triggers": ["performance"], "reason": "Bad.", "created": datetime(2013, 5, 1)}
    return Request(id=f"delays/{window}", model="delays", window=window, **known)


def test_the_page_shows_the_triggers_by_window_and_the_limits_that_postpone_retraining():
    policy = Policy(max_age="P60D", persistence={"k": 2, "n": 3}, cooldown="45D")
    held = [ActiveTrigger(trigger="performance", reason="it is bad", windows=2)]
    limit = Limit(name="cooldown", says="the cooldown of 45 days lasts until <b>", reached=True)
    earlier = [
        report(1),
        report(2, retraining=RetrainingPlan()),
        report(3, "retrain", retraining=RetrainingPlan(triggers=held, request=asked("2013-03"))),
    ]
    now = report(4, retraining=RetrainingPlan(triggers=held, limits=[limit]), policy=policy)
    page = Page(render(now, earlier))
    words = " ".join(" ".join(page.words).split())
    assert not page.open
    assert '"reached" below. Retraining trigger Needed 2013-01 2013-02 2013-03 2013-04' in words
    assert "realised performance 2 of 3 · · ● ●" in words
    assert "age of the training data 1 of 1 · · · ·" in words
    assert "retraining requested · · ↻ ·" in words
    assert "cooldown reached: the cooldown of 45 days lasts until <b>" in words
    assert "new code" not in words
    assert "persistence (k 2, n 3)" in words
    words = text_of(render(earlier[2]))
    assert "Retraining is requested because of realised performance. Request: delays/2013-03." in words
    again = RetrainingPlan(request=asked("2013-02"))
    assert "An earlier check of this window requested retraining." in render(report(2, retraining=again))
    few = RetrainingPlan(triggers=[ActiveTrigger(trigger="drift", reason="it moved", enough=False)])
    words = text_of(render(report(2, retraining=few)))
    assert "Retraining is not requested" in words
    assert "in enough windows" in words
    assert "drift of important features 1 of 1 ●" in words
    assert "Retraining trigger" not in text_of(render(earlier[0]))


def segment(number: int, value: float = 0.4) -> Segment:
    return Segment(
        name=f"carrier = <C{number}>", feature="carrier", rows=1_234, share=0.2, share_reference=0.1,
        loss=MeanLoss(value=value, low=value - 0.02, high=value + 0.02), reference=MeanLoss(value=0.3, low=-0.01, high=0.31),
        contribution=0.2 * (value - 0.3), adjusted_p_value=0.0004,
    )  # fmt: skip


def change(month: int, kind: str = "performance", of: str = "roc_auc", before: float = 0.72) -> Change:
    return Change(kind=kind, of=of, window=f"2013-{month:02}", before=before, after=0.7, p_value=0.001)


LOSS = LossChange(
    metric="roc_auc", reference=0.28, value=0.33, tested=50, fallen=22, false_alarm_rate=0.05, min_rise=0.02,
    shifts=[Shift(feature="carrier", mix=-0.01, rate=0.06)],
)  # fmt: skip


def test_segments_with_worse_performance_are_a_table_with_their_contributions():
    page = render(report(segments=[segment(n) for n in range(10)], loss=LOSS))
    words = text_of(page)
    assert not Page(page).open
    assert "<C0>" not in page
    assert "carrier = <C0> 1,234 20.0% 10.0%" in words
    assert "0.300 -0.010 to 0.310 0.400 0.380 to 0.420 +0.100" in words
    assert "40%" in words
    assert "by more than 0.02, in 22 of 50 segments; the first 10 are shown" in words
    assert "Mean 1 - ROC AUC (each row counts by its influence): 0.2800 at training, 0.3300 now" in words
    assert (
        "By segments of carrier, -0.0100 comes from changed shares of the segments (the largest such effect of all features), and +0.0600 from changes inside the segments"
        in words
    )
    assert page.index("over time</h2>") < page.index("<h2>Why</h2>") < page.index("<h2>Features</h2>")
    # If the loss did not rise, segments have no share of the rise.
    level = LOSS.model_copy(update={"value": 0.28, "metric": "rmse"})
    words = text_of(render(report(segments=[segment(0)], loss=level)))
    assert "+0.0200" in words
    assert "Mean squared error: " in words
    assert "by more than 2.0% of its value at training" in words
    for picture in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(picture)
    assert 'width="-' not in page
    assert 'x1="-' not in page


def test_a_change_point_is_marked_on_the_timeline_and_described():
    earlier = [report(month) for month in (1, 2, 3)]
    page = render(report(4, changes=[change(3), change(2, "drift", "temp", 0.1)]), earlier)
    change_point = "since 2013-03, ROC AUC has been 0.700 (0.720 before)"
    assert page.count('stroke-width="2"') == 1
    assert f"<title>{change_point}</title>" in page
    words = text_of(page)
    assert f"marks a change point: {change_point}." in words
    assert "Since 2013-03, ROC AUC has been 0.700" in words
    assert "Since 2013-02, the effect of the drift of temp has been 0.700 (0.100 before)." in words
    assert "by v1 are compared. If nothing changes, at most 5% of reports show a change point." in words
    # A change point in a window that is no longer shown is described and not drawn.
    assert 'stroke-width="2"' not in render(report(4, changes=[change(1)]), earlier[1:])


def test_without_change_points_and_segments_the_section_is_left_out():
    assert "<h2>Why" not in render(report(), [report(1)])
    assert "<h2>Why" not in render(report(loss=LOSS), [report(1)])


def test_the_importance_of_features_and_what_their_order_means_are_shown():
    found = report()
    words = text_of(render(found))
    assert "then by the size of the drift." in words
    first = found.features[0].model_copy(update={"importance": 0.375})
    page = render(found.model_copy(update={"features": [first, *found.features[1:]]}))
    assert "Drifted columns come first, then by drift times importance. Importance is the loss of performance" in page
    assert "37.5%" in text_of(page)


def test_a_window_without_measurements_has_a_page():
    bare = {
        "scored_by": None,
        "rows": 0,
        "labelled": 0,
        "coverage": None,
        "performance": None,
        "prediction": None,
        "features": [],
    }
    assert not Page(render(report(champion=None, **bare))).open
    words = " ".join(
        Page(
            render(
                report(
                    unmeasured="there are no labels",
                    **{
                        **bare,
                        "features": [Drift(column="temp", kind="numeric", note="not measured: 3 rows, 50 are needed")],
                    },
                )
            )
        ).words
    )
    assert "not judged because there are no labels" in words
    assert "not measured: 3 rows, 50 are needed" in words


def test_many_features_stay_under_a_megabyte():
    why = {
        "segments": [segment(number) for number in range(10)],
        "loss": LOSS.model_copy(update={"shifts": LOSS.shifts * 400}),
        "changes": [change(3)] * 36 * 6,
    }
    page = render(report(count=400, **why), [report(month) for month in range(1, 4)] * 12)
    assert len(page.encode()) < 1_000_000
    assert page.count("f399") == 1


def test_a_printed_page_keeps_its_table_whole_and_its_colours():
    style = render(report()).partition("@media print")[2].partition("</style>")[0]
    # On paper nothing scrolls, a heading stays with the next element, and browsers drop colours by default.
    for wanted in (".wide{overflow-x:visible}", "table-header-group", "break-inside:avoid", "print-color-adjust:exact"):
        assert wanted in style


def test_the_bar_of_a_feature_is_as_long_as_its_drift():
    table = render(report()).partition("<h2>Features</h2>")[2].partition("</table>")[0]
    bars = [float(width) for width in re.findall(r'<td>[\d.]+<svg[^>]*><rect x="0" y="2" width="([\d.]+)"', table)]
    assert bars == [78.0, 39.0, 26.0]


@pytest.mark.parametrize("value", [0.0, 0.7, 1e6, -3e9, 1e17, 1e300])
def test_equal_values_of_any_size_are_a_line_between_grid_lines(value):
    axes = Axes.around([value] * 3, 3)
    assert axes.low < value < axes.high
    assert 0 < axes.y(value) < HEIGHT
    assert len(grid(axes)) >= 4
