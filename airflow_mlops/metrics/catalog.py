"""The names of the metrics, the ML tasks that they apply to, and their direction.

This module imports no heavy library, because DAG files import it while they are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator

from airflow_mlops.core.base import choices
from airflow_mlops.core.contract import Task
from airflow_mlops.metrics import costs, declarations, deviances, forecasts, quantiles, rankings

TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Metric(NamedTuple):
    """The name of a metric, the ML tasks that it applies to, and its direction.

    :param name: a key of :data:`METRICS` or :data:`INTERVAL_METRICS`, or a metric that is computed on request
        (:func:`is_on_request`)
    :param tasks: the ML tasks (binary, multiclass, regression) that the metric applies to
    :param higher_is_better: whether higher values are better
    :param of_labels: whether the metric is computed from predicted labels instead of probabilities or values
    """

    name: str
    tasks: tuple[Task, ...]
    higher_is_better: bool
    of_labels: bool = False

    @property
    def sign(self) -> int:
        """Return 1 if higher values are better, otherwise -1."""
        return 1 if self.higher_is_better else -1

    def better(self, value: float, other: float) -> bool:
        """Return whether ``value`` is strictly better than ``other``."""
        return value > other if self.higher_is_better else value < other


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", ("binary",), True),
        Metric("average_precision", ("binary",), True),
        Metric("brier", ("binary",), False),
        Metric("ece", ("binary",), False),
        Metric("f1", ("binary",), True, of_labels=True),
        Metric("precision", ("binary",), True, of_labels=True),
        Metric("recall", ("binary",), True, of_labels=True),
        Metric("log_loss", ("binary", "multiclass"), False),
        Metric("accuracy", ("binary", "multiclass"), True, of_labels=True),
        Metric("balanced_accuracy", ("binary", "multiclass"), True, of_labels=True),
        Metric("f1_macro", ("multiclass",), True, of_labels=True),
        Metric("roc_auc_ovr", ("multiclass",), True),
        Metric("rmse", ("regression",), False),
        Metric("mae", ("regression",), False),
        Metric("r2", ("regression",), True),
    )
}
"""The built-in metrics."""

COVERAGE, WIDTH = "interval_coverage", "interval_width"

INTERVAL_METRICS: dict[str, Metric] = {
    COVERAGE: Metric(COVERAGE, ("regression",), True),
    WIDTH: Metric(WIDTH, ("regression",), False),
}
"""The built-in metrics of models with prediction intervals: the share of the labels in the intervals, and the mean
width of the intervals. The name ``coverage`` means something else: the share of the predictions that have a label.
"""

MAIN_METRIC: dict[Task, str] = {"binary": "roc_auc", "multiclass": "roc_auc_ovr", "regression": "rmse"}
"""The default metric of each ML task, on held-out rows. A model may have another one, see :mod:`airflow_mlops.metrics.judged`."""

REALISED: dict[Task, tuple[str, ...]] = {
    "binary": (
        "roc_auc",
        "accuracy",
        "log_loss",
        "brier",
        "average_precision",
        "balanced_accuracy",
        "f1",
        "precision",
        "recall",
    ),
    "multiclass": ("accuracy", "balanced_accuracy", "f1_macro"),
    "regression": ("rmse", "mae"),
}
"""Built-in metrics that can be computed from logged predictions and labels, by ML task. The first is the default."""

ESTIMATED = ("roc_auc", "accuracy", "log_loss", "brier", "rmse", "mae")
"""Metrics of :data:`REALISED` that can be estimated from the scores alone, without labels.

Expected costs can be estimated as well, unless a cost is a column.
"""

BY_INFLUENCE = ("average_precision", "balanced_accuracy", "f1", "f1_macro", "precision", "recall")
"""Metrics of :data:`REALISED` whose row losses are computed from the influence of each row on the metric."""

MetricName = Annotated[str, BeforeValidator(declarations.metric_name)]
"""The name of a metric. A mapping with a metric and its parameters is converted to the name that contains both."""


def is_expected_cost(name: str) -> bool:
    """Return whether ``name`` is an expected cost with its costs, such as ``expected_cost_fp1_fn20``."""
    return costs.costs_of(name) is not None


def is_deviance(name: str) -> bool:
    """Return whether ``name`` is a deviance, such as ``poisson_deviance`` or ``tweedie_deviance_p1.5``."""
    return deviances.power_of(name) is not None


def is_quantile(name: str) -> bool:
    """Return whether ``name`` is the pinball loss of a quantile, such as ``pinball_a0.9``."""
    return quantiles.alpha_of(name) is not None


def is_coverage_gap(name: str) -> bool:
    """Return whether ``name`` is the coverage gap of a quantile, such as ``quantile_coverage_gap_a0.9``."""
    return quantiles.covered_alpha_of(name) is not None


def is_ranking(name: str) -> bool:
    """Return whether ``name`` is NDCG with its parameters, such as ``ndcg_k10_by-query``."""
    return rankings.ranking_of(name) is not None


def is_forecast_error(name: str) -> bool:
    """Return whether ``name`` is a metric of forecasts: ``mase`` or ``smape``."""
    return forecasts.is_forecast_error(name)


def _is_regression_metric(name: str) -> bool:
    """Return whether a metric is computed only on request, and only for regression models."""
    return (
        is_deviance(name) or is_quantile(name) or is_coverage_gap(name) or is_ranking(name) or is_forecast_error(name)
    )


def is_on_request(name: str) -> bool:
    """Return whether a metric is computed only on request.

    Such metrics are custom metrics, expected costs, deviances, metrics of quantiles, NDCG and the metrics of forecasts.
    """
    return is_custom(name) or is_expected_cost(name) or _is_regression_metric(name)


def predicted_quantile(task: Task, measured: Iterable[str]) -> float | None:
    """Return the quantile that a model predicts; ``None`` if it does not predict a quantile.

    A regression with exactly one measured pinball loss predicts the quantile of this loss.

    :param task: the ML task (binary, multiclass, regression)
    :param measured: names of the metrics that were measured at training
    """
    name = pinball_of(task, measured)
    return None if name is None else quantiles.alpha_of(name)


def pinball_of(task: Task, measured: Iterable[str]) -> str | None:
    """Return the pinball loss of a model that predicts a quantile (:func:`predicted_quantile`), otherwise ``None``."""
    found = [name for name in measured if is_quantile(name)]
    return found[0] if task == "regression" and len(found) == 1 else None


def realised(task: Task, names: Iterable[str]) -> list[str]:
    """Return the metrics that can be computed from logged predictions and labels, except custom metrics.

    :param task: the ML task (binary, multiclass, regression)
    :param names: names of metrics
    :return: the given metrics of :data:`REALISED`, in its order, followed by the given expected costs (binary) or
        deviances, metrics of quantiles, NDCG and metrics of forecasts (regression)
    """
    given = list(names)
    own = [
        name
        for name in given
        if (task == "binary" and is_expected_cost(name)) or (task == "regression" and _is_regression_metric(name))
    ]
    return [*(name for name in REALISED[task] if name in given), *own]


def is_mean_of_rows(name: str) -> bool:
    """Return whether the mean loss of all rows determines a metric of :func:`realised`.

    The value of such a metric for a window can be computed from its values and row counts in parts of the window.
    """
    # MASE leaves rows with the scale 0 out, so row counts are not sufficient.
    return name not in ("roc_auc", forecasts.MASE, *BY_INFLUENCE) and not is_ranking(name) and not is_coverage_gap(name)


def is_custom(name: str) -> bool:
    """Return whether ``name`` is the import path of a custom metric."""
    return ":" in name


def find_metric(name: str, greater_is_better: bool | None = None) -> Metric:
    """Look up a metric by name.

    :param name: a key of :data:`METRICS` or :data:`INTERVAL_METRICS`; a name with parameters, such as
        ``expected_cost_fp1_fn20`` or ``tweedie_deviance_p1.5``; ``poisson_deviance``, ``gamma_deviance``, ``mase`` or
        ``smape``; or the import path ``package.module:function`` of a custom metric
        (:mod:`airflow_mlops.metrics.custom`)
    :param greater_is_better: whether greater values of a custom metric are better; ``None`` for a built-in metric
    :raises ValueError: the name is unknown, the import path is malformed, ``greater_is_better`` is not set for a custom
        metric, or it is set for a built-in metric
    """
    if is_custom(name):
        check_import_path(name)
        if greater_is_better is None:
            raise ValueError(f"custom metric {name!r} has no direction; set `greater_is_better` to true or false")
        return Metric(name, TASKS, greater_is_better)
    if name == costs.NAME:
        raise ValueError(
            f"{name!r} has no costs; write {{'metric': {name!r}, 'false_positive': 1, 'false_negative': 20}} with your costs"
        )
    if name == deviances.TWEEDIE:
        raise ValueError(f"{name!r} has no power; write {{'metric': {name!r}, 'power': 1.5}} with your power")
    if name in quantiles.NAMES:
        raise ValueError(f"{name!r} has no quantile; write {{'metric': {name!r}, 'alpha': 0.9}} with your quantile")
    if name == rankings.NDCG:
        raise ValueError(
            f"{name!r} has no parameters; write {{'metric': {name!r}, 'k': 10, 'group': 'query'}} with your number of rows and column"
        )
    on_request = is_on_request(name)
    built_in = METRICS | INTERVAL_METRICS
    if name not in built_in and not on_request:
        own = [costs.NAME, deviances.POISSON, deviances.GAMMA, deviances.TWEEDIE, *quantiles.NAMES, rankings.NDCG]
        known = [*built_in, *own, forecasts.MASE, forecasts.SMAPE]
        raise ValueError(
            f"{name!r} is not a metric: {choices(name, known)}, or use the import path of a custom metric, "
            "'package.module:function'"
        )
    if greater_is_better is not None:
        raise ValueError(f"`greater_is_better` is set for the built-in metric {name!r}; remove `greater_is_better`")
    if _is_regression_metric(name):
        return Metric(name, ("regression",), is_ranking(name))
    return Metric(name, ("binary",), False, of_labels=True) if on_request else built_in[name]


def check_metric(name: str | None, greater_is_better: bool | None) -> None:
    """Check the name of an optional metric and its direction.

    :param name: name or import path of the metric; ``None`` if no metric is set
    :param greater_is_better: whether greater values of a custom metric are better; ``None`` if it is not set
    :raises ValueError: the metric is not valid (see :func:`find_metric`), or ``greater_is_better`` is set without a
        metric
    """
    if name is not None:
        find_metric(name, greater_is_better)
    elif greater_is_better is not None:
        raise ValueError(
            "`greater_is_better` is set, but `metric` is not. Set `metric` to the import path of a custom metric."
        )


def check_import_path(path: str) -> str:
    """Return ``path`` if it has the form ``package.module:function``.

    :raises ValueError: ``path`` does not have this form
    """
    if not _IMPORT_PATH.fullmatch(path):
        raise ValueError(
            f"{path!r} is not the import path of a metric; it must have the form 'package.module:function'"
        )
    return path


def check_on_request(name: str) -> str:
    """Return ``name`` if it is a metric that is computed on request (:func:`is_on_request`).

    :raises ValueError: ``name`` is not such a metric, is a malformed import path, or lacks its parameters
    """
    if name in (costs.NAME, deviances.TWEEDIE, *quantiles.NAMES, rankings.NDCG):
        find_metric(name)
    return name if is_on_request(name) else check_import_path(name)


def check_chooses(name: str | None) -> None:
    """Check that a metric can choose the best of several models.

    :param name: name of the metric; ``None`` for the default
    :raises ValueError: the metric is one of :data:`INTERVAL_METRICS`, or a coverage gap
    """
    if name is not None and is_coverage_gap(name):
        alpha = quantiles.covered_alpha_of(name)
        raise ValueError(
            f"{name!r} cannot select the best model, because a constant prediction already has almost no gap; use "
            f"{{'metric': {quantiles.PINBALL!r}, 'alpha': {alpha!r}}} here, and a gate with max for {name!r}"
        )
    if name in INTERVAL_METRICS:
        raise ValueError(
            f"{name!r} cannot select the best model, because wider intervals cover more labels; use another metric "
            f"here, and a gate for {name!r}"
        )


def metrics_for(task: Task) -> list[str]:
    """Return the names of the built-in metrics for an ML task, without the metrics of prediction intervals."""
    return [metric.name for metric in METRICS.values() if task in metric.tasks]
