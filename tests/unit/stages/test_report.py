"""The page: it stands alone, says the verdict first, and shows data as text."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from html.parser import HTMLParser
from xml.etree import ElementTree

from airflow_mlops.core.calls import Request
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.drift.findings import Bin, Drift, DriftTests
from airflow_mlops.performance.findings import Change, LossChange, MeanLoss, Performance, Segment, Shift
from airflow_mlops.policy.findings import Held, Limit, Report, Retraining, Verdict
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.spec import LabelDelay
from airflow_mlops.stages.monitor.page.report import render

V1 = ModelVersionRef(model="delays", version=1, run_id="r")


def report(month: int = 4, decision: str = "watch", count: int = 3, **fields) -> Report:
    bins = [Bin(label=f"{n} to {n + 1}", reference=0.1, current=0.2) for n in range(10)]
    names = [f"<script>f{n}</script>" for n in range(count)]
    reason = "Because 1 < 2 & <b>bold</b>."
    known = {
        "model": "delays", "window": f"2013-{month:02}", "created": datetime(2013, 5, 1, tzinfo=timezone.utc),
        "verdict": Verdict(decision=decision, reason=reason), "policy": Policy(), "champion": V1,
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
        self.tags, self.words, self.fetched, self.open = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_page_is_well_formed_stands_alone_and_escapes_what_comes_from_data():
    page = render(report(), [report(1), report(2), report(3)])
    found = Page(page)
    assert not found.open
    assert not found.fetched
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not [what for what in ("url(", "@import", "<b>bold", "<script>") if what in page]
    for picture in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(picture)


def test_the_verdict_comes_first():
    words = " ".join(Page(render(report(decision="retrain"))).words)
    assert (
        words.index("retrain") < words.index("Because 1 < 2") < words.index("6,000") < words.index("About this report")
    )


def test_the_false_alarm_rate_the_tests_and_their_correction_are_stated():
    words = " ".join(Page(render(report())).words)
    assert "8 tests were done on 4 columns" in words
    assert "With nothing changed, at most 5% of windows raise any alarm" in words
    assert "Bonferroni within a column, Benjamini-Hochberg over the columns" in words
    assert "A change that concerns less than 2.0% of the rows raises none" in words
    assert "1 of 3 false alarms in at most 5% of windows" in words
    assert "3.1% of the rows; not drifted, adjusted p 0.200" in words
    assert "p < 0.001" in words


def test_what_is_watched_beside_the_features_is_marked_as_no_feature():
    bins = [Bin(label="Monday", reference=0.1, current=0.2)]
    watched = [
        Drift(column="opened", kind="timestamp", effect=0.3, test="hour", drifted=True, bins=bins),
        Drift(column="body", kind="text", note="not measured: the predictions do not have it"),
    ]
    words = " ".join(Page(render(report(watched=watched))).words)
    assert "not a feature; drifted" in words or "drifted; not a feature" in words
    assert "not a feature; not measured: the predictions do not have it" in words
    assert "Monday" in words
    assert "1 of 3 false alarms" in words
    assert "not a feature" not in " ".join(Page(render(report())).words)


def test_earlier_windows_make_a_timeline_with_the_decision_in_shape_and_words():
    earlier = [report(1, "healthy"), report(2, "watch"), report(3, "retrain", performance=None)]
    page = render(report(decision="retrain"), earlier)
    assert "2013-01: roc_auc 0.700 (0.690 to 0.710), v1, healthy" in page
    assert "2013-02: roc_auc 0.700 (0.690 to 0.710), v1, watch" in page
    assert "2013-03:" not in page
    # One of each is in the legend.
    assert (page.count("<circle"), page.count("<polygon")) == (2, 2)


def estimate(value: float) -> Performance:
    return Performance(metric="roc_auc", value=value, low=value - 0.02, high=value + 0.02, reference=0.72, labels=6_000)


def test_an_estimate_stands_beside_the_truth_and_alone_until_the_truth_is_known():
    young = {"performance": None, "unmeasured": "the window ended 2 days ago", "estimated": estimate(0.71)}
    page = render(report(5, **young), [report(3, estimated=estimate(0.76)), report(4, estimated=estimate(0.705))])
    words = " ".join(Page(page).words)
    assert "Estimated roc_auc 0.710 from the scores alone; 95% interval 0.690 to 0.730" in words
    assert "2013-03: estimated roc_auc 0.760 (0.740 to 0.780), v1, watch" in page
    assert "2013-03: roc_auc 0.700 (0.690 to 0.710), v1, watch" in page
    assert "2013-05: estimated roc_auc 0.710" in page
    assert "2013-05: roc_auc" not in page
    # One more in the legend.
    assert page.count("<path") == 4
    assert "the realised value lies" not in words
    assert "the realised value lies inside" in render(report(estimated=estimate(0.705)))
    assert "the realised value lies outside" in render(report(estimated=estimate(0.76)))
    assert "<path" not in render(report())


def test_the_delay_of_labels_is_shown():
    words = " ".join(Page(render(report(label_delay=LabelDelay(median=1.25, p90=6.0, p99=21.04)))).words)
    assert "Label delay 1.25 days the median; 90% within 6, 99% within 21" in words


def asked(window: str) -> Request:
    known = {"triggers": ["performance"], "reason": "Bad.", "created": datetime(2013, 5, 1)}
    return Request(id=f"delays/{window}", model="delays", window=window, **known)


def test_the_page_shows_which_triggers_held_in_which_window_and_what_held_retraining_back():
    policy = Policy(max_age="P60D", persistence={"k": 2, "n": 3}, cooldown="45D")
    held = [Held(trigger="performance", reason="it is bad", windows=2)]
    limit = Limit(name="cooldown", says="2013-03 asked, and the cooldown of 45 days lasts until <b>", reached=True)
    earlier = [
        report(1),
        report(2, retraining=Retraining()),
        report(3, "retrain", retraining=Retraining(triggers=held, request=asked("2013-03"))),
    ]
    now = report(4, retraining=Retraining(triggers=held, limits=[limit]), policy=policy)
    page = Page(render(now, earlier))
    words = " ".join(page.words)
    assert not page.open
    assert "Retraining Held back. Trigger Enough are 2013-01 2013-02 2013-03 2013-04" in words
    assert "realised performance 2 of 3 · · ● ●" in words
    assert "age of the training data 1 of 1 · · · ·" in words
    assert "asked for retraining · · ↻ ·" in words
    assert "cooldown holds back: 2013-03 asked, and the cooldown of 45 days lasts until <b>" in words
    assert "new code" not in words
    assert "persistence (k 2, n 3)" in words
    words = " ".join(Page(render(earlier[2])).words)
    assert "Asked for, because of: realised performance. The request is delays/2013-03." in words
    again = Retraining(request=asked("2013-02"))
    assert "no trigger holds. An earlier check of this window asked for it." in render(report(2, retraining=again))
    few = Retraining(triggers=[Held(trigger="drift", reason="it moved", enough=False)])
    words = " ".join(Page(render(report(2, retraining=few))).words)
    assert "Not asked for: what holds has not held in enough windows." in words
    assert "drift of important features 1 of 1 ●" in words
    assert "Trigger" not in " ".join(Page(render(earlier[0])).words)


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


def test_where_performance_fell_is_a_table_with_what_it_adds():
    page = render(report(segments=[segment(n) for n in range(10)], loss=LOSS))
    words = " ".join(Page(page).words)
    assert not Page(page).open
    assert "<C0>" not in page
    assert "carrier = <C0> 1,234 20.0% 10.0%" in words
    assert "0.300 -0.010 to 0.310 0.400 0.380 to 0.420 +0.100" in words
    assert "40%" in words
    assert "In 22 of 50 segments it rose by more than chance and by more than 0.02; the first 10 are shown" in words
    assert "mean of 1 - roc_auc, to which each row counts by its influence: 0.2800 at training, 0.3300 now" in words
    assert "between the segments of carrier account for -0.0100, the most of any feature; +0.0600 happened" in words
    assert page.index("over time</h2>") < page.index("<h2>Why</h2>") < page.index("<h2>Features</h2>")
    # The share of a rise says nothing where there is none.
    level = LOSS.model_copy(update={"value": 0.28, "metric": "rmse"})
    words = " ".join(Page(render(report(segments=[segment(0)], loss=level))).words)
    assert "+0.0200" in words
    assert "the mean of squared error: " in words
    assert "by more than 2.0% of what it was" in words
    for picture in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(picture)
    assert 'width="-' not in page
    assert 'x1="-' not in page


def test_a_change_is_marked_on_the_timeline_and_told_in_words():
    earlier = [report(month) for month in (1, 2, 3)]
    page = render(report(4, changes=[change(3), change(2, "drift", "temp", 0.1)]), earlier)
    said = "since 2013-03 roc_auc has been 0.020 lower (0.700 against 0.720 before)"
    assert page.count('stroke-width="2"') == 1
    assert f"<title>{said}</title>" in page
    words = " ".join(Page(page).words)
    assert f"level is another one: {said}." in words
    assert "Since 2013-03 roc_auc has been 0.020 lower" in words
    assert "Since 2013-02 the drift of temp has been 70.0% of the rows, before 10.0%." in words
    assert "by v1. With nothing changed, any is found in at most 5% of reports" in words
    # One of a window that is no longer shown is told, and not drawn.
    assert 'stroke-width="2"' not in render(report(4, changes=[change(1)]), earlier[1:])


def test_without_a_reason_there_is_no_section_of_reasons():
    assert "<h2>Why" not in render(report(), [report(1)])
    assert "<h2>Why" not in render(report(loss=LOSS), [report(1)])


def test_the_importance_of_features_and_what_their_order_means_are_shown():
    found = report()
    words = " ".join(Page(render(found)).words)
    assert "then by size." in words
    first = found.features[0].model_copy(update={"importance": 0.375})
    page = render(found.model_copy(update={"features": [first, *found.features[1:]]}))
    assert "What has drifted comes first, then by drift times importance. Importance is how much worse" in page
    assert "37.5%" in " ".join(Page(page).words)


def test_a_window_about_which_nothing_is_known_has_a_page_too():
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
    assert "not judged: there are no labels" in words
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
    # On paper nothing scrolls, a heading stays with what follows, and browsers drop colours unless told.
    for wanted in (".wide{overflow-x:visible}", "table-header-group", "break-inside:avoid", "print-color-adjust:exact"):
        assert wanted in style


def test_every_feature_that_was_measured_has_a_bar_as_long_as_its_drift():
    table = render(report()).partition("<h2>Features</h2>")[2].partition("</table>")[0]
    bars = [float(width) for width in re.findall(r'<td>[\d.]+%<svg[^>]*><rect x="0" y="2" width="([\d.]+)"', table)]
    assert bars == [78.0, 39.0, 26.0]
