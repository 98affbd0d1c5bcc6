"""The metrics by name: the tasks they apply to and their direction. Light: a DAG file imports this while it is parsed."""

from __future__ import annotations

import re
from typing import NamedTuple

from airflow_mlops.core.base import choices
from airflow_mlops.core.contract import Task

TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Metric(NamedTuple):
    """A metric's name, tasks and direction.

    :param name: a key of :data:`METRICS`, or the import path of a user's own metric
    :param of_labels: whether it is computed from predicted labels, not from probabilities or values
    """

    name: str
    tasks: tuple[Task, ...]
    higher_is_better: bool
    of_labels: bool = False

    @property
    def sign(self) -> int:
        """1 if higher is better, otherwise -1."""
        return 1 if self.higher_is_better else -1

    def better(self, value: float, other: float) -> bool:
        """Whether ``value`` is strictly better than ``other``."""
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
        Metric("f1_macro", ("multiclass",), True, of_labels=True),
        Metric("roc_auc_ovr", ("multiclass",), True),
        Metric("rmse", ("regression",), False),
        Metric("mae", ("regression",), False),
        Metric("r2", ("regression",), True),
    )
}
"""The built-in metrics."""

MAIN_METRIC: dict[Task, str] = {"binary": "roc_auc", "multiclass": "roc_auc_ovr", "regression": "rmse"}
"""The default metric of each task."""

REALISED: dict[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "accuracy", "log_loss", "brier"),
    "multiclass": ("accuracy",),
    "regression": ("rmse", "mae"),
}
"""The built-in metrics that can be computed from logged predictions and their labels; the first is the default."""


def is_custom(name: str) -> bool:
    """Whether ``name`` is the import path of a user's own metric."""
    return ":" in name


def find_metric(name: str, greater_is_better: bool | None = None) -> Metric:
    """Look a metric up.

    :param name: a key of :data:`METRICS`, or ``package.module:function``, see :mod:`airflow_mlops.metrics.custom`
    :param greater_is_better: the direction of a user's own metric
    :raises ValueError: the name is unknown, the path is malformed, or the direction is missing or superfluous
    """
    if is_custom(name):
        check_import_path(name)
        if greater_is_better is None:
            raise ValueError(f"metric {name!r} needs greater_is_better: true or false")
        return Metric(name, TASKS, greater_is_better)
    if name not in METRICS:
        raise ValueError(
            f"{name!r} is not a metric: {choices(name, METRICS)}, or give the import path of your own, "
            "'package.module:function'"
        )
    if greater_is_better is not None:
        raise ValueError(f"greater_is_better is only for a metric of your own: leave it out for {name!r}")
    return METRICS[name]


def check_metric(name: str | None, greater_is_better: bool | None) -> None:
    """Check an optional metric and its direction.

    :raises ValueError: as :func:`find_metric`, or a direction is given without a metric
    """
    if name is not None:
        find_metric(name, greater_is_better)
    elif greater_is_better is not None:
        raise ValueError("greater_is_better is only for a metric of your own: give its import path as metric")


def check_import_path(path: str) -> str:
    """Return ``path`` if it has the form ``package.module:function``.

    :raises ValueError: it has another form
    """
    if not _IMPORT_PATH.fullmatch(path):
        raise ValueError(f"{path!r} is not the import path of a metric: write it as 'package.module:function'")
    return path


def metrics_for(task: Task) -> list[str]:
    """The names of the built-in metrics for ``task``."""
    return [metric.name for metric in METRICS.values() if task in metric.tasks]
