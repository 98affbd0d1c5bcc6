"""The report that a sensor uses, the decisions it accepts, and the reports that a watcher fires for."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.compute import first_check
from airflow_mlops.core.errors import ModelUnhealthyError, SpecError, StoreError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy import archive
from airflow_mlops.stages.model_health.spec import ModelHealthSpec
from airflow_mlops.stages.model_health.step import look
from airflow_mlops.triggers import report as watching
from airflow_mlops.triggers.report import MonitorReportTrigger
from airflow_mlops.triggers.sensing import ModelHealthTrigger
from tests.support.reports import publish

HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store")


def seen(store, **asked):
    return look(ModelHealthSpec(model="delays", **asked), store)


def test_the_result_has_the_decision_and_the_url_of_the_page(store):
    assert seen(store) is None
    assert seen(store, window="2013-04") is None
    publish(store, "2013-04", "watch")
    found = seen(store, window="2013-04")
    assert (found.decision, found.headline, found.window.label) == ("watch", "It was watch", "2013-04")
    assert found.reason == "It was watch. For a test."
    assert found.report_url == store.url_of("reports/delays/2013-04.html")
    assert found.summary == "delays in 2013-04: watch. It was watch"
    assert seen(store) == found
    assert seen(store, window="2013-05") is None


def test_the_latest_window_counts_and_not_the_latest_check(store):
    publish(store, "2013-05", "retrain", age=HOUR)
    publish(store, "2013-04")
    with pytest.raises(
        ModelUnhealthyError,
        match=r"delays in 2013-05 is retrain, but accept= allows only healthy or watch\. It was retrain\.",
    ):
        seen(store)
    assert seen(store, accept=["retrain"]).window.label == "2013-05"


def test_a_report_that_is_too_old_does_not_count(store):
    publish(store, "2013-04", "retrain", age=2 * HOUR)
    assert seen(store, max_age="1h") is None
    assert seen(store, max_age="1h", window="2013-04") is None
    with pytest.raises(ModelUnhealthyError):
        seen(store, max_age="3h")


def test_a_report_of_another_version_of_this_package_is_read(store):
    key = publish(store, "2013-04")
    old = store.read_json(key)
    del old["policy"]
    store.write_json(key, {**old, "future": {"more": 1}})
    assert seen(store).decision == "healthy"
    # Reports of older versions have no headline.
    store.write_json(key, {**old, "verdict": {"decision": "healthy", "reason": "An older reason."}})
    assert seen(store).summary == "delays in 2013-04: healthy. An older reason."
    store.write_json(key, {"window": "2013-04"})
    with pytest.raises(StoreError, match=r"reports/delays/2013-04\.json .* is not a report \(Field required\)"):
        seen(store)


TIMES = st.datetimes(datetime(2012, 1, 1), datetime(2014, 1, 1)).map(lambda time: time.replace(microsecond=0))
WINDOWS = st.one_of(
    st.sampled_from(["2013", "2013-01", "2013-12", "2013-02-28", "2013-02-28T23", "2013-01..2013-03"]).map(
        Window.model_validate
    ),
    st.tuples(TIMES, st.integers(1, 10**8)).map(
        lambda pair: Window(start=pair[0], end=pair[0] + timedelta(seconds=pair[1]))
    ),
)


@given(windows=st.lists(WINDOWS, min_size=1, max_size=5))
def test_the_latest_window_is_found_by_the_names_alone(windows):
    store = ArtifactStore("memory://health")
    for window in windows:
        store.write_bytes(archive.key(store, "delays", window), b"")
    store.write_bytes("reports/delays/notes.json", b"")
    ends = {archive.key(store, "delays", window): window.end for window in windows}
    assert ends[archive.newest(store, "delays")] == max(ends.values())
    store.fs.rm(store.root, recursive=True)


def fires(trigger):
    """A trigger rebuilt from what Airflow keeps of it, running."""
    path, arguments = trigger.serialize()
    assert path == f"{type(trigger).__module__}.{type(trigger).__name__}"
    return type(trigger)(**arguments).run()


@pytest.mark.parametrize(
    ("decision", "keys"),
    [("healthy", {"result"}), ("retrain", {"error", "message"})],
)
def test_the_trigger_waits_for_the_report(store, decision, keys, monkeypatch):
    monkeypatch.setattr(first_check, "_SECONDS", 0)
    trigger = ModelHealthTrigger({"model": "delays", "window": "2013-04"}, 0.01, store.url)

    async def wait():
        event = asyncio.ensure_future(anext(fires(trigger)))
        assert not (await asyncio.wait({event}, timeout=0.2))[0]
        publish(store, "2013-04", decision)
        return (await asyncio.wait_for(event, 10)).payload

    payload = asyncio.run(wait())
    assert set(payload) == keys
    assert "It was" in str(payload)
    assert payload.get("error", "ModelUnhealthyError") == "ModelUnhealthyError"


def test_a_watcher_fires_once_for_each_new_report_and_not_for_existing_ones(store, monkeypatch):
    monkeypatch.setattr(watching, "_DELIVERY", 0)
    publish(store, "2013-01", "retrain")

    async def watch():
        events = fires(MonitorReportTrigger("delays", store=store.url, poke_interval=0.01))
        event = asyncio.ensure_future(anext(events))
        assert not (await asyncio.wait({event}, timeout=0.3))[0]
        publish(store, "2013-04", "watch")
        yield (await asyncio.wait_for(event, 10)).payload
        # A late report of a check that started long before the last one.
        publish(store, "2013-02", age=6 * HOUR)
        store.write_bytes("reports/delays/2013-03.json", b"{}")
        yield (await asyncio.wait_for(anext(events), 10)).payload
        # A second check of the same window.
        publish(store, "2013-04", "retrain")
        yield (await asyncio.wait_for(anext(events), 10)).payload
        event = asyncio.ensure_future(anext(events))
        assert not (await asyncio.wait({event}, timeout=0.3))[0]
        event.cancel()

    async def collect():
        return [payload async for payload in watch()]

    first, *others = asyncio.run(collect())
    assert datetime.now(timezone.utc) - datetime.fromisoformat(first.pop("created")) < HOUR
    assert first == {
        "model": "delays", "window": "2013-04", "decision": "watch", "headline": "It was watch", "reason": "It was watch. For a test.",
        "report_url": store.url_of("reports/delays/2013-04.html"),
    }  # fmt: skip
    assert [(event["window"], event["decision"]) for event in others] == [
        ("2013-02", "healthy"),
        ("2013-04", "retrain"),
    ]


def test_a_watcher_reads_a_report_again_only_when_its_file_changes(store):
    files = watching._Reports(store.url, "delays")
    assert files.changed() == {}
    key = publish(store, "2013-04")
    assert list(files.changed()) == [key]
    assert files.changed() == {}
    publish(store, "2013-04", "retrain")
    assert files.changed()[key].verdict.decision == "retrain"


def test_a_watcher_fires_only_for_its_decisions(store, monkeypatch):
    monkeypatch.setattr(watching, "_DELIVERY", 0)

    async def watch():
        events = fires(MonitorReportTrigger("delays", ["retrain"], store=store.url, poke_interval=0.01))
        event = asyncio.ensure_future(anext(events))
        await asyncio.wait({event}, timeout=0.3)
        publish(store, "2013-04", "watch")
        assert not (await asyncio.wait({event}, timeout=0.3))[0]
        publish(store, "2013-05", "retrain")
        return (await asyncio.wait_for(event, 10)).payload

    assert asyncio.run(watch())["window"] == "2013-05"
    for wrong in ("retrain", [], ["retire"]):
        with pytest.raises(SpecError, match="decisions=.*'healthy', 'watch', 'retrain'"):
            MonitorReportTrigger("delays", wrong)


@given(ages=st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_a_report_that_a_watcher_forgets_is_never_new_again(ages):
    now = datetime(2013, 5, 1, tzinfo=timezone.utc)
    verdict = {"decision": "watch", "reason": "r"}
    found = {
        str(number): archive.ReportSummary(
            model="delays", window="2013-04", created=now - timedelta(days=age), verdict=verdict
        )
        for number, age in enumerate(ages)
    }
    kept = watching._recent({key: report.created.isoformat() for key, report in found.items()})
    assert not any(watching._is_new(key, report, kept) for key, report in found.items())
    assert len(kept) == sum(age - min(ages) <= 7 for age in ages)
