"""Measure the age of the newest row of a window, and the label delay."""

from __future__ import annotations

from airflow_mlops.data.columns import LABEL_AT
from airflow_mlops.drift import freshness as rows
from airflow_mlops.drift.findings import Freshness
from airflow_mlops.profiles.delays import label_delay
from airflow_mlops.profiles.spec import LabelDelay
from airflow_mlops.stages.monitor.check import Check


def freshness(check: Check) -> Freshness | None:
    """Measure the age of the newest row; ``None`` if no column has event times or scoring times."""
    event_time = _event_time(check)
    batches = (
        batch
        for dataset in check.datasets
        for batch in dataset.batches(
            columns=[item.name for item in dataset.manifest.columns if item.name in (event_time, rows.SCORED_AT)]
        )
    )
    return rows.freshness(batches, event_time, check.window)


def delay(check: Check) -> LabelDelay | None:
    """Measure the label delay; ``None`` without columns of event times and of label arrival times."""
    event_time = _event_time(check)
    if not check.has_columns(LABEL_AT, event_time):
        return None
    batches = (batch for dataset in check.datasets for batch in dataset.batches(columns=[LABEL_AT, event_time]))
    return label_delay(batches, event_time)


def _event_time(check: Check) -> str:
    """Return the name of the column with the event time."""
    return str(check.datasets[-1].manifest.details.get("timestamp"))
