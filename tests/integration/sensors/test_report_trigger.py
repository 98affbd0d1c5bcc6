"""``MonitorReportTrigger`` on reports in an artifact store."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy import archive
from airflow_mlops.triggers import report
from airflow_mlops.triggers.report import MonitorReportTrigger
from tests.support.reports import publish


def fired_windows(store: ArtifactStore, *ages: timedelta) -> list[str]:
    """The windows of the events for reports that are written one after the other, with these ages."""
    trigger = MonitorReportTrigger("delays", store=store.url, poke_interval=0.01)

    async def watch() -> list[str]:
        windows, events = [], trigger.run()
        publish(store, "2024-01", age=timedelta(days=30))
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.5)
        for number, age in enumerate(ages):
            publish(store, f"2024-{number + 2:02}", age=age)
            windows.append((await asyncio.wait_for(first, 60)).payload["window"])
            first = asyncio.ensure_future(anext(events))
        first.cancel()
        return windows

    return asyncio.run(watch())


def test_a_report_dated_in_the_future_does_not_silence_the_watcher(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_DELIVERY", 0)
    store = ArtifactStore(tmp_path.as_uri())
    ages = [timedelta(0), timedelta(days=-400), timedelta(0), timedelta(hours=-1)]
    assert fired_windows(store, *ages) == ["2024-02", "2024-03", "2024-04", "2024-05"]


def events_after(store: ArtifactStore, monkeypatch, first_looks: list, age: timedelta) -> list[str]:
    """The windows of the events if the first checks of the store are replaced, and a report is written after these checks."""
    monkeypatch.setattr(report, "_DELIVERY", 0)
    real, looks, ready = report._Reports.changed, iter(first_looks), asyncio.Event()

    def changed(self):
        look = next(looks, None)
        if look is None:
            ready.set()
            return real(self)
        return look(self, real)

    monkeypatch.setattr(report._Reports, "changed", changed)

    async def watch() -> list[str]:
        trigger = MonitorReportTrigger("delays", store=store.url, poke_interval=0.01)
        found = []

        async def collect():
            async for event in trigger.run():
                found.append(event.payload["window"])  # noqa: PERF401 - the list is read before the end

        task = asyncio.ensure_future(collect())
        await asyncio.wait_for(ready.wait(), 60)
        await asyncio.sleep(0.3)
        publish(store, "2024-03", age=age)
        await asyncio.sleep(0.5)
        task.cancel()
        return found

    return asyncio.run(watch())


def test_reports_that_could_not_be_read_at_the_first_look_are_not_new(tmp_path, monkeypatch):
    store = ArtifactStore(tmp_path.as_uri())
    for window in ("2024-01", "2024-02"):
        publish(store, window, age=timedelta(hours=1))

    def unreadable(self, real):
        def fails(store, key):
            raise StoreError("The file cannot be read.")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archive, "read", fails)
            return real(self)

    assert events_after(store, monkeypatch, [unreadable], timedelta(0)) == ["2024-03"]


def test_a_report_that_is_written_before_the_first_successful_look_is_new(tmp_path, monkeypatch):
    store = ArtifactStore(tmp_path.as_uri())
    publish(store, "2024-01", age=timedelta(hours=1))

    def fails(self, real):
        publish(store, "2024-02", age=timedelta(0))
        raise StoreError("The store does not answer.")

    assert events_after(store, monkeypatch, [fails], timedelta(0)) == ["2024-02", "2024-03"]
