"""The metrics the package computes: their names, the tasks they are for, and which way is better."""

from __future__ import annotations

from typing import NamedTuple

from airflow_mlops.core.contract import Task


class Metric(NamedTuple):
    """What is known about a metric without computing it.

    :param of_labels: whether it takes predicted labels, and no probabilities or values
    """

    tasks: tuple[Task, ...]
    higher_is_better: bool
    of_labels: bool = False

    def better(self, value: float, other: float) -> bool:
        """Whether ``value`` is strictly better than ``other``."""
        return value > other if self.higher_is_better else value < other


METRICS: dict[str, Metric] = {
    "roc_auc": Metric(("binary",), True),
    "average_precision": Metric(("binary",), True),
    "brier": Metric(("binary",), False),
    "ece": Metric(("binary",), False),
    "f1": Metric(("binary",), True, of_labels=True),
    "precision": Metric(("binary",), True, of_labels=True),
    "recall": Metric(("binary",), True, of_labels=True),
    "log_loss": Metric(("binary", "multiclass"), False),
    "accuracy": Metric(("binary", "multiclass"), True, of_labels=True),
    "f1_macro": Metric(("multiclass",), True, of_labels=True),
    "roc_auc_ovr": Metric(("multiclass",), True),
    "rmse": Metric(("regression",), False),
    "mae": Metric(("regression",), False),
    "r2": Metric(("regression",), True),
}

MAIN_METRIC: dict[Task, str] = {"binary": "roc_auc", "multiclass": "roc_auc_ovr", "regression": "rmse"}
"""The metric that decides for a task where nobody named another."""


REALISED: dict[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "accuracy", "log_loss", "brier"),
    "multiclass": ("accuracy",),
    "regression": ("rmse", "mae"),
}


"""The metrics that can be measured on predictions with their labels; the first one decides unless another is named."""
