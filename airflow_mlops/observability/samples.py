"""Definitions of all exported metrics, and the conversion of step results to samples.

All metrics are gauges with the result of the last run. Counters would need a long-lived process, and batch tasks have
none. The word after ``mlops.`` in the name of a metric is its group. A task exports all metrics of a group for one
model together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from airflow_mlops.core.windows import Window
from airflow_mlops.metrics.catalog import COVERAGE, REALISED, is_custom, is_on_request
from airflow_mlops.metrics.fairness_rule import FairnessRule
from airflow_mlops.policy.findings import Decision

_DAY = 86_400
_VERSION = ("model", "version")
_PERFORMANCE = (*_VERSION, "metric", "source")
_FAIRNESS = (*_VERSION, "metric", "sensitive")
_ENDS = {
    "": "",
    "_low": ": lower end of the confidence interval",
    "_high": ": upper end of the confidence interval",
    "_reference": ": the value on held-out data at training",
}
# Measurements in the result of a check that are not performance metrics.
_MEASURED = {
    "bias": "Mean error (prediction minus label) in the window",
    "positive_rate": "Share of positive predictions of a binary model in the window",
}
_OUTCOMES = ("promoted", "refused", "rolled_back", "unchanged")


@dataclass(frozen=True)
class Metric:
    """The definition of an exported metric, which is a gauge.

    :param name: name of the metric in Airflow's style, with dots and without the prefix ``airflow``
    :param help: the meaning of the metric in one sentence
    :param labels: names of the labels, including ``model``
    """

    name: str
    help: str
    labels: tuple[str, ...] = _VERSION

    @property
    def group(self) -> str:
        """Return the group of the metric: ``monitor``, ``score`` or ``champion``."""
        return self.name.split(".")[1]

    @property
    def prometheus(self) -> str:
        """Return the name of the metric in Prometheus. All exporters use the same name."""
        return f"airflow_{self.name.replace('.', '_')}"


class Sample(NamedTuple):
    """A value of a metric.

    :param metric: the metric
    :param value: the value
    :param labels: values of the metric's labels by label name; a label value may be empty
    """

    metric: Metric
    value: float
    labels: dict[str, str]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "mlops.monitor.decision",
            "1 for the decision of the last check, 0 for the other decisions.",
            (*_VERSION, "decision"),
        ),
        Metric("mlops.monitor.retraining_held_back", "1 if retraining is due but postponed by a limit, else 0."),
        Metric("mlops.monitor.completed_timestamp_seconds", "Time of the last check."),
        Metric("mlops.monitor.window_end_timestamp_seconds", "End of the window of the last check."),
        Metric("mlops.monitor.rows", "Number of predictions in the window."),
        Metric("mlops.monitor.labelled_rows", "Number of predictions in the window with a label."),
        Metric("mlops.monitor.coverage_ratio", "Share of the predictions in the window with a label."),
        Metric("mlops.monitor.features_drifted", "Number of features that have drifted."),
        Metric("mlops.monitor.feature_drift_ratio", "Effect size of the most drifted feature, as a share of rows."),
        Metric("mlops.monitor.prediction_drift_ratio", "Effect size of the drift of scores, as a share of rows."),
        Metric("mlops.monitor.label_drift_ratio", "Effect size of the drift of labels, as a share of rows."),
        Metric(
            "mlops.monitor.multivariate_drift_ratio",
            "Effect size of multivariate drift (PCA reconstruction error of all features), as a share of rows.",
        ),
        Metric("mlops.monitor.newest_row_timestamp_seconds", "Event time of the newest row in the window."),
        Metric("mlops.monitor.performance", "The model's performance in the window.", _PERFORMANCE),
        Metric("mlops.monitor.performance_low", "Lower end of the performance's confidence interval.", _PERFORMANCE),
        Metric("mlops.monitor.performance_high", "Upper end of the performance's confidence interval.", _PERFORMANCE),
        Metric(
            "mlops.monitor.performance_reference",
            "The model's performance on held-out data at training, with the same metric.",
            _PERFORMANCE,
        ),
        *(
            Metric(f"mlops.monitor.{name}{suffix}", f"{meaning}{part}.")
            for name, meaning in _MEASURED.items()
            for suffix, part in _ENDS.items()
        ),
        *(
            Metric(
                f"mlops.monitor.fairness_difference{suffix}",
                f"Largest difference of a rate between two groups of rows{part}.",
                _FAIRNESS,
            )
            for suffix, part in _ENDS.items()
        ),
        Metric(
            "mlops.monitor.label_delay_seconds",
            "Time from events to their labels, by percentile.",
            (*_VERSION, "percentile"),
        ),
        Metric("mlops.score.completed_timestamp_seconds", "Time of the last scoring."),
        Metric("mlops.score.rows", "Number of rows that the last run scored."),
        Metric("mlops.score.rows_per_second", "Rows per second in the last run, including reading and writing."),
        Metric(
            "mlops.champion.decision",
            "1 for the result of the last promotion or rollback, 0 for the other results.",
            ("model", "decision"),
        ),
        Metric("mlops.champion.completed_timestamp_seconds", "Time of the last promotion or rollback.", ("model",)),
        Metric("mlops.champion.version", "Version number of the champion.", ("model",)),
    )
}


def monitored(result: dict[str, Any]) -> list[Sample]:
    """Return the samples of a check by MonitorOperator. Only measured values have samples.

    :param result: a :class:`~airflow_mlops.stages.monitor.spec.MonitorResult` as JSON
    """
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
        **{name + suffix: measured.get(name + suffix) for name in _MEASURED for suffix in _ENDS},
    }
    return [
        *_one_of("mlops.monitor.decision", get_args(Decision), result["decision"], about),
        *_samples("mlops.monitor", values, about),
        *_performance(measured, result.get("metric"), about),
        *_fairness(measured, about),
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
    """Return the samples of a scoring; empty if nothing was scored.

    :param result: a :class:`~airflow_mlops.stages.score.spec.ScoreResult` as JSON
    """
    by = result["scored_by"]
    if result["dataset"] is None or by is None:
        return []
    values = {
        "completed_timestamp_seconds": time.time(),
        "rows": result["dataset"]["rows"],
        # Predictions from the cache were made in another run.
        "rows_per_second": result["rows_per_second"] if result.get("cached") is None else None,
    }
    return _samples("mlops.score", values, {"model": by["model"], "version": _version(by)})


def decided(result: dict[str, Any], outcome: str) -> list[Sample]:
    """Return the samples of a promotion or rollback.

    :param result: a :class:`~airflow_mlops.stages.promote.spec.PromoteResult` or
        :class:`~airflow_mlops.stages.rollback.spec.RollbackResult` as JSON
    :param outcome: the decision to export if the champion changed: ``promoted`` or ``rolled_back``
    """
    changed = result.get("promoted") or result.get("rolled_back")
    outcome = outcome if changed else "refused" if result["ledger_url"] else "unchanged"
    champion, about = result["champion"], {"model": result["model"]}
    values = {"completed_timestamp_seconds": time.time(), "version": champion and champion["version"]}
    return [
        *_one_of("mlops.champion.decision", _OUTCOMES, outcome, about),
        *_samples("mlops.champion", values, about),
    ]


def _performance(measured: dict[str, float], metric: str | None, about: dict[str, str]) -> Iterator[Sample]:
    found = {key.removeprefix("estimated_") for key in measured}
    # The name of a cost column may end like the name of a bound, so that a bound would count as a metric of its own.
    bounds = {f"{name}{end}" for name in found for end in _ENDS if end}
    on_request = {name for name in found - bounds if is_on_request(name) and not is_custom(name)}
    # Only the result says which metric is a custom one: its name is an import path.
    judged = {metric} if metric is not None else set()
    names = sorted({name for names in REALISED.values() for name in names} | {COVERAGE} | on_request | judged)
    for source, prefix in (("realised", ""), ("estimated", "estimated_")):
        for name in names:
            values = {f"performance{end}": measured.get(f"{prefix}{name}{end}") for end in _ENDS}
            yield from _samples("mlops.monitor", values, {**about, "metric": name, "source": source})


def _fairness(measured: dict[str, float], about: dict[str, str]) -> Iterator[Sample]:
    # The policy refuses a column if the name of one of its values would be the name of another value's bound.
    bounds = {f"{name}{end}" for name in measured for end in _ENDS if end}
    for metric in get_args(FairnessRule.model_fields["fairness"].annotation):
        prefix = f"{metric}_over_"
        for name in sorted(measured.keys() - bounds):
            if name.startswith(prefix):
                values = {f"fairness_difference{end}": measured.get(f"{name}{end}") for end in _ENDS}
                labels = {**about, "metric": metric, "sensitive": name.removeprefix(prefix)}
                yield from _samples("mlops.monitor", values, labels)


def _samples(group: str, values: dict[str, Any], labels: dict[str, str]) -> list[Sample]:
    return [
        Sample(METRICS[f"{group}.{name}"], float(value), labels) for name, value in values.items() if value is not None
    ]


def _one_of(name: str, choices: tuple[str, ...], chosen: str, labels: dict[str, str]) -> list[Sample]:
    # There is one series for each choice, as in a StateSet of OpenMetrics.
    return [Sample(METRICS[name], float(choice == chosen), {**labels, "decision": choice}) for choice in choices]


def _version(found: dict[str, Any] | None) -> str:
    return str(found["version"]) if found else ""
