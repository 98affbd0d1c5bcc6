"""``MonitorReportTrigger`` on reports in an artifact store."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from airflow_mlops.data.store import ArtifactStore
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
