"""Drift against earlier windows, with a real registry: the choice of windows, the notes about them, and the alarms."""

from __future__ import annotations

import uuid
from html import unescape

import pyarrow as pa
import pytest

from airflow_mlops.policy.findings import Report
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.deployed import flights, promote, scoring_set

SEASON, ROLLING = {"season": "P1Y"}, {"rolling": 2}


@pytest.fixture
def champion(client, store, tmp_path):
    return promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")


def check(
    store, champion, month: str, reference="training", data: pa.Table | None = None, rows: int = 1_500, **how
) -> Report:
    """Score the month if there are new rows, and check it."""
    context = StepContext(store=store)
    if data is None and how:
        data = flights(rows, seed=int(month.replace("-", "")), **how)
    if data is not None:
        score.run(ScoreSpec(model=champion.model, dataset=scoring_set(store, data, month)), context)
    made = {"name": f"{champion.model}_predictions", "window": month}
    monitor.run(MonitorSpec(model=champion.model, dataset=made, window=month, reference=reference), context)
    return Report.model_validate(store.read_json(f"reports/{champion.model}/{month}.json"))


def drifted(report: Report) -> set[str]:
    return {item.column for item in (*report.features, report.prediction) if item.drifted}


def page(store, report: Report) -> str:
    return store.read_bytes(f"reports/{report.model}/{report.window.label}.html").decode()


def test_winter_is_drift_against_training_and_not_against_the_last_winter(store, champion):
    first = check(store, champion, "2013-12", SEASON, shift=1.0)
    # The window one year earlier was not checked, and the training data contain no winter.
    assert drifted(first) == {"distance", "score"}
    assert first.notes[0].startswith("Drift is measured against training, because 2012-12, the window 1 year earlier")
    assert first.reference.features == first.reference.scores == []
    assert "drifted" in first.verdict.reason
    assert "distance" in first.verdict.headline

    winter = check(store, champion, "2014-12", SEASON, shift=1.0)
    assert drifted(winter) == set()
    assert [item.label for item in winter.reference.features] == ["2013-12"]
    assert winter.reference.scores == winter.reference.features
    assert {item.reference for item in (*winter.features, winter.prediction)} == {"2013-12"}
    assert drifted(check(store, champion, "2014-12", "training")) == {"distance", "score"}

    shifted = check(store, champion, "2015-12", SEASON, shift=1.5)
    assert drifted(shifted) == {"distance", "score"}
    assert "Predicted scores drifted against 2014-12 (" in shifted.verdict.reason
    assert shifted.verdict.headline.startswith("1 feature drifted against 2014-12: distance (effect ")
    assert "Drift is measured against 2014-12 (the window 1 year earlier)." in shifted.verdict.details
    assert drifted(check(store, champion, "2015-12", "training")) == {"distance", "score"}


def test_the_page_names_the_reference_of_drift(store, champion):
    usual = page(store, check(store, champion, "2013-04", shift=0.0))
    for text in ("Missing at training", "</span>at training<span", "<dt>Drift measured against</dt><dd>training</dd>"):
        assert text in usual
    check(store, champion, "2013-05", shift=0.0)
    rolling = page(store, check(store, champion, "2013-06", ROLLING, shift=0.0))
    for text in (
        "Missing in 2013-04 to 2013-05",
        "</span>in 2013-04 to 2013-05<span",
        "in 2013-04 to 2013-05, ",
        "shares by bin, in 2013-04 to 2013-05 and in this window",
        "<dd>2013-04, 2013-05 (the last 2 windows before)</dd>",
    ):
        assert text in rolling, text
    for absent in ("at training<span", "Missing at training", "the held-out data"):
        assert absent not in rolling, absent


def test_rolling_uses_the_last_windows_before_however_late_they_are_checked(store, champion):
    for month, shift in (("2013-04", 0.0), ("2013-05", 0.3), ("2013-06", 0.6), ("2013-07", 0.9)):
        in_time = check(store, champion, month, ROLLING, rows=250, shift=shift)
    assert [item.label for item in in_time.reference.features] == ["2013-05", "2013-06"]
    # A second check after later windows, and out of order, uses the same windows.
    check(store, champion, "2013-08", ROLLING, rows=250, shift=0.9)
    again = check(store, champion, "2013-07", ROLLING)
    assert again.model_dump(exclude={"created"}) == in_time.model_dump(exclude={"created"})
    assert [item.label for item in check(store, champion, "2013-05", ROLLING).reference.features] == ["2013-04"]
    first = check(store, champion, "2013-04", ROLLING)
    assert "no window before 2013-04 has been checked" in first.notes[0]


def test_the_last_check_of_a_window_is_the_reference(store, champion):
    check(store, champion, "2013-04", shift=3.0)
    assert drifted(check(store, champion, "2013-05", ROLLING, shift=0.0)) == {"distance", "score"}
    # The window is scored again with better data.
    check(store, champion, "2013-04", shift=0.0)
    assert drifted(check(store, champion, "2013-05", ROLLING)) == set()
    # An empty window is not a reference.
    check(store, champion, "2013-04", data=flights(10).slice(0, 0))
    assert check(store, champion, "2013-05", ROLLING).reference.features == []


def test_scores_are_compared_with_those_of_the_same_version_and_features_with_any(store, champion, client, tmp_path):
    check(store, champion, "2013-04", shift=1.0)
    newer = promote(client, tmp_path, store, champion.model)
    report = check(store, newer, "2013-05", ROLLING, shift=1.0)
    assert [item.label for item in report.reference.features] == ["2013-04"]
    assert report.reference.scores == []
    assert {item.reference for item in report.features} == {"2013-04"}
    assert (report.prediction.reference, drifted(report)) == ("training", {"score"})
    note = f"The scores are compared with training, because model {newer} made too few predictions in 2013-04."
    assert report.notes[0] == note
    assert "<dd>2013-04 (the last 2 windows before); scores: training</dd>" in page(store, report)
    report = check(store, newer, "2013-06", ROLLING, shift=1.0)
    assert [item.label for item in report.reference.features] == ["2013-04", "2013-05"]
    assert [item.label for item in report.reference.scores] == ["2013-05"]
    assert (report.prediction.reference, drifted(report)) == ("2013-05", set())


def test_a_feature_without_values_in_the_reference_is_compared_with_training(store, champion):
    data = flights(500, seed=3)
    gone = data.set_column(data.schema.get_field_index("wind"), "wind", pa.nulls(500, pa.float64()))
    assert drifted(check(store, champion, "2013-04", data=gone)) >= {"wind"}
    report = check(store, champion, "2013-05", ROLLING, shift=0.0)
    assert {item.column: item.reference for item in report.features} == {"distance": "2013-04", "wind": "training"}
    note = report.notes[0]
    assert "2013-04 has too few values" in note
    assert "wind" in note
    shown = page(store, report)
    assert note in unescape(shown)
    assert "Missing in the reference" in shown
    assert "compared with training" in shown


def test_a_stored_profile_that_cannot_be_read_is_left_out_and_noted(store, champion):
    for month in ("2013-04", "2013-05"):
        check(store, champion, month, shift=0.0)
    store.write_bytes(f"profiles/{champion.model}/2013-05.json.gz", b"\x1f\x8b broken")
    store.write_bytes(f"profiles/{champion.model}/notes.txt", b"")
    report = check(store, champion, "2013-06", ROLLING, shift=0.0)
    assert [item.label for item in report.reference.features] == ["2013-04"]
    assert report.notes[0].startswith("The profile of 2013-05 cannot be read")


def test_the_stored_profile_of_a_window_is_small_and_reproducible(store, champion):
    check(store, champion, "2013-04", rows=500, shift=0.0)
    key = f"profiles/{champion.model}/2013-04.json.gz"
    first = store.read_bytes(key)
    assert len(first) < 100_000
    check(store, champion, "2013-04")
    assert store.read_bytes(key) == first


def test_an_invalid_reference_fails_when_the_dag_is_parsed():
    from airflow_mlops.core.errors import SpecError
    from airflow_mlops.operators import MonitorOperator

    with pytest.raises(SpecError, match="The reference of task 'm' cannot run as it is configured: season: '1Y' is no"):
        MonitorOperator(task_id="m", model="delays", dataset=None, reference={"season": "1Y"})
