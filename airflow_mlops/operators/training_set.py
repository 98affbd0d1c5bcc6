"""``BuildTrainingSetOperator``, which builds a training set from events and features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.rendering import is_template
from airflow_mlops.operators.windows import check_rule, with_run_window

if TYPE_CHECKING:
    from airflow.sdk import Context

# The spec lists these methods as well, but it is not imported while a DAG is parsed.
_SPLIT_METHODS = ("random", "time", "group", "hash")


class BuildTrainingSetOperator(StepOperator):
    """Joins features to events with a point-in-time join, and splits the rows into the split parts `train` and `test`.

    Without ``label`` and with ``split=None``, the dataset is for scoring. It has the single split part `data`.

    :param name: name of the dataset to write
    :param entities: the events, one per row: a dataset, the output of the task that wrote it, or
        ``{"name": ..., "window": ...}`` for the datasets of a window
    :param window: rule for the window of the training set: a :class:`~airflow_mlops.operators.Rolling`, an
        :class:`~airflow_mlops.operators.Expanding` or a :class:`~airflow_mlops.operators.Decay`. The training window
        ends with the window of the run. The window of the run is ``window`` in ``entities``. By default, it is the
        monitored window of the retraining request that started the run, or else the partition key or the data
        interval. ``entities`` must name a dataset
    :param timestamp: name of the column in ``entities`` with the event time
    :param repo: path of the folder of the Feast repository, on the machine on which the step runs; not needed if all
        features are in ``columns``
    :param feature_service: name of the Feast feature service with the features to join
    :param features: references of features, such as ``weather:temp``, instead of a feature service
    :param columns: names of columns in ``entities`` to use as features. The values must be known at the event time
    :param keys: names of columns in ``entities`` that identify a row and are kept; join keys are always kept
    :param watched: names of columns in ``entities`` that are monitored but are not features: text, timestamps,
        embeddings
    :param label: name of the label column in ``entities``, or a name and an expression over columns of ``entities``,
        such as ``{"name": "late", "expression": "arr_delay > 15"}``. Rows with a null label are dropped and counted
    :param task: the ML task: ``binary``, ``multiclass`` or ``regression``; by default inferred from the label
    :param positive: for a binary task, the label of the positive class, such as ``bad``; by default the last of the two
        labels in sorted order
    :param split: split method ``time``, ``random``, ``group`` or ``hash``; ``None`` for the single split part `data`;
        or a dict with ``method`` and the optional fields of :class:`~airflow_mlops.stages.training_set.spec.Split`.
        ``test_size`` is a share such as 0.3, or ``14D`` for the last 14 days. With the parameter ``window``, it can
        also be ``window`` for the window of the run. ``group`` is the name of the group column. ``gap``, such as
        ``7D``, is for ``time``: rows in this time before the held-out rows are left out. ``windows``, such as 4, is for
        ``time``: the time of the held-out rows is divided into this number of windows, and evaluations also measure the
        models on each window. ``stratify`` is for ``random``. ``seed`` is the random seed
    :param max_single_feature_score: largest score that one feature may reach as the only predictor of the label: AUC,
        or R² for a regression. A feature above this limit fails the task, because it probably leaks the label
    :param memory_limit: memory that sorting and joining may use before they continue on disk, such as ``2GB``; by
        default ``[mlops] memory``. The Python process needs additional memory
    :param description: description of the dataset
    :raises SpecError: the split method is unknown, the window rule is invalid, or both ``feature_service`` and
        ``features`` are set
    """

    step = "training_set"
    cacheable = True
    structured = frozenset({"split"})

    entities: Any
    window: Any
    split: Any

    def __init__(
        self,
        *,
        name: str,
        entities: Any,
        timestamp: str,
        window: dict[str, Any] | None = None,
        repo: str | None = None,
        feature_service: str | None = None,
        features: list[str] | None = None,
        columns: list[str] | None = None,
        keys: list[str] | None = None,
        watched: list[str] | None = None,
        label: str | dict[str, str] | None = None,
        task: str | None = None,
        positive: str | int | float | bool | None = None,
        split: str | dict[str, Any] | None = "time",
        max_single_feature_score: float = 0.99,
        memory_limit: str | None = None,
        description: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        method = split.get("method", "time") if isinstance(split, dict) else split
        if isinstance(method, str) and not is_template(method) and method not in _SPLIT_METHODS:
            raise SpecError(
                f"Task {self.task_id!r}: split={method!r} is unknown: use {', '.join(map(repr, _SPLIT_METHODS))}."
            )
        if feature_service is not None and features is not None:
            raise SpecError(
                f"Task {self.task_id!r} has both feature_service= and features=, which exclude each other: remove one."
            )
        if window is not None and not is_template(window):
            check_rule(window, f"Task {self.task_id!r}")
        self.assign_parameters(locals())

    def build_spec(self, context: Context) -> dict[str, Any]:
        # split=None must reach the spec, where it means that the dataset is not split.
        fields = super().build_spec(context) | {"split": self.split}
        if self.window is not None:
            fields["entities"] = with_run_window(self.entities, context)
        return fields

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(context, {"dataset": result["dataset"]})
