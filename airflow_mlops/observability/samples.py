"""Every metric that is exported, and how the results of steps become samples of them.

All are gauges: they say what the last run of a task found, and a batch job has no process to count in. The part of a
name after ``mlops.`` is its group, what one task exports at once for one model; no two groups share a metric.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from airflow_mlops.core.windows import Window
from airflow_mlops.metrics.catalog import REALISED
from airflow_mlops.policy.findings import Decision

_DAY = 86_400
_VERSION = ("model", "version")
_PERFORMANCE = (*_VERSION, "metric", "source")
_OUTCOMES = ("promoted", "refused", "rolled_back", "unchanged")


@dataclass(frozen=True)
class Metric:
    """A gauge.

    :param name: as Airflow names its own, with dots and without the prefix ``airflow``
    :param help: one sentence that says what it is
    :param labels: the names of its labels; ``model`` is one of them
    """

    name: str
    help: str
    labels: tuple[str, ...] = _VERSION

    @property
    def group(self) -> str:
        """What is exported together: ``monitor``, ``score`` or ``champion``."""
        return self.name.split(".")[1]

    @property
    def prometheus(self) -> str:
        """The name in Prometheus, the same by whichever way it gets there."""
        return f"airflow_{self.name.replace('.', '_')}"


class Sample(NamedTuple):
    """A value of a metric; ``labels`` has a text for each of the metric's labels, an empty one where it has none."""

    metric: Metric
    value: float
    labels: dict[str, str]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("mlops.monitor.decision", "1 for what the last check decided, else 0.", (*_VERSION, "decision")),
        Metric("mlops.monitor.retraining_held_back", "1 where retraining is due and something holds it back, else 0."),
        Metric("mlops.monitor.completed_timestamp_seconds", "When the last check was done."),
        Metric("mlops.monitor.window_end_timestamp_seconds", "End of the window that the last check was about."),
        Metric("mlops.monitor.rows", "Predictions in the window."),
        Metric("mlops.monitor.labelled_rows", "Predictions in the window that have a label."),
        Metric("mlops.monitor.coverage_ratio", "Share of the predictions that have a label."),
        Metric("mlops.monitor.features_drifted", "Features that have drifted."),
        Metric("mlops.monitor.feature_drift_ratio", "Share of rows by which the most drifted feature has moved."),
        Metric("mlops.monitor.prediction_drift_ratio", "Share of rows by which the scores have moved."),
        Metric("mlops.monitor.label_drift_ratio", "Share of rows by which the labels have moved."),
        Metric(
            "mlops.monitor.multivariate_drift_ratio",
            "Share of rows by which the error of a reconstruction of all features together has moved.",
        ),
        Metric("mlops.monitor.newest_row_timestamp_seconds", "Event time of the newest row in the window."),
        Metric("mlops.monitor.performance", "The model's performance in the window.", _PERFORMANCE),
        Metric("mlops.monitor.performance_low", "Lower end of its confidence interval.", _PERFORMANCE),
        Metric("mlops.monitor.performance_high", "Upper end of its confidence interval.", _PERFORMANCE),
        Metric("mlops.monitor.performance_reference", "The same on held-out data at training.", _PERFORMANCE),
        Metric(
            "mlops.monitor.label_delay_seconds",
            "How long after their event labels came, by percentile.",
            (*_VERSION, "percentile"),
        ),
        Metric("mlops.score.completed_timestamp_seconds", "When rows were last scored."),
        Metric("mlops.score.rows", "Rows that the last run scored."),
        Metric("mlops.score.rows_per_second", "Rows per second of reading, scoring and writing in the last run."),
        Metric(
            "mlops.champion.decision",
            "1 for what the last promotion or rollback came to, else 0.",
            ("model", "decision"),
        ),
        Metric("mlops.champion.completed_timestamp_seconds", "When that was decided.", ("model",)),
        Metric("mlops.champion.version", "The version that is champion.", ("model",)),
    )
}


def monitored(result: dict[str, Any]) -> list[Sample]:
    """The samples of a :class:`~airflow_mlops.stages.monitor.spec.MonitorResult`, as JSON; of what was measured only."""
    measured, version = result["metrics"], _version(result["scored_by"] or result["champion"])
    about = {"model": result["model"], "version": version}
    end, behind = Window.model_validate(result["window"]).end.timestamp(), measured.get("newest_row_behind_days")
    values = {
        "completed_timestamp_seconds": time.time(),
        "window_end_timestamp_seconds": end,
        "retraining_held_back": bool(result.get("held_back")),
        "rows": measured.get("rows"),
        "labelled_rows": measured.get("labelled"),
        "coverage_ratio": measured.get("coverage"),
        "features_drifted": measured.get("features_drifted"),
        "feature_drift_ratio": measured.get("feature_drift"),
        "prediction_drift_ratio": measured.get("prediction_drift"),
        "label_drift_ratio": measured.get("label_drift"),
        "multivariate_drift_ratio": measured.get("multivariate_drift"),
        "newest_row_timestamp_seconds": end - behind * _DAY if behind is not None else None,
    }
    return [
        *_one_of("mlops.monitor.decision", get_args(Decision), result["decision"], about),
        *_samples("mlops.monitor", values, about),
        *_performance(measured, about),
        *(
            sample
            for name, percentile in (("median", "50"), ("p90", "90"), ("p99", "99"))
            if (days := measured.get(f"label_delay_{name}")) is not None
            for sample in _samples(
                "mlops.monitor", {"label_delay_seconds": days * _DAY}, {**about, "percentile": percentile}
            )
        ),
    ]


def scored(result: dict[str, Any]) -> list[Sample]:
    """The samples of a :class:`~airflow_mlops.stages.score.spec.ScoreResult`, as JSON; none where nothing was scored."""
    by = result["scored_by"]
    if result["dataset"] is None or by is None:
        return []
    values = {
        "completed_timestamp_seconds": time.time(),
        "rows": result["dataset"]["rows"],
        "rows_per_second": result["rows_per_second"],
    }
    return _samples("mlops.score", values, {"model": by["model"], "version": _version(by)})


def decided(result: dict[str, Any], outcome: str) -> list[Sample]:
    """The samples of what became of the champion.

    :param result: a :class:`~airflow_mlops.stages.promote.spec.PromoteResult` or
        :class:`~airflow_mlops.stages.rollback.spec.RollbackResult`, as JSON
    :param outcome: ``promoted`` or ``rolled_back``, where the champion changed
    """
    changed = result.get("promoted") or result.get("rolled_back")
    outcome = outcome if changed else "refused" if result["ledger_url"] else "unchanged"
    champion, about = result["champion"], {"model": result["model"]}
    values = {"completed_timestamp_seconds": time.time(), "version": champion and champion["version"]}
    return [
        *_one_of("mlops.champion.decision", _OUTCOMES, outcome, about),
        *_samples("mlops.champion", values, about),
    ]


def _performance(measured: dict[str, float], about: dict[str, str]) -> Iterator[Sample]:
    names = sorted({name for names in REALISED.values() for name in names})
    for source, prefix in (("realised", ""), ("estimated", "estimated_")):
        for name in names:
            ends = ("", "_low", "_high", "_reference")
            values = {f"performance{end}": measured.get(f"{prefix}{name}{end}") for end in ends}
            yield from _samples("mlops.monitor", values, {**about, "metric": name, "source": source})


def _samples(group: str, values: dict[str, Any], labels: dict[str, str]) -> list[Sample]:
    return [
        Sample(METRICS[f"{group}.{name}"], float(value), labels) for name, value in values.items() if value is not None
    ]


def _one_of(name: str, choices: tuple[str, ...], chosen: str, labels: dict[str, str]) -> list[Sample]:
    # One series a choice, as OpenMetrics draws a state, so that a query can ask for one by its name.
    return [Sample(METRICS[name], float(choice == chosen), {**labels, "decision": choice}) for choice in choices]


def _version(found: dict[str, Any] | None) -> str:
    return str(found["version"]) if found else ""
