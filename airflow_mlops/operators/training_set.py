"""``BuildTrainingSetOperator``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.parameters import is_template

if TYPE_CHECKING:
    from airflow.sdk import Context

# The spec has them too, but is not imported while a DAG is parsed.
_SPLIT_METHODS = ("random", "time", "group", "hash")


class BuildTrainingSetOperator(StepOperator):
    """Joins features to events as of the time of each event, and splits the rows into train and test.

    Without ``label`` and ``split`` it builds a scoring set, which has the one part ``data``.

    :param name: the name of the dataset to write
    :param entities: the events, one row each: a dataset, the output of the task that wrote it, or
        ``{"name": ..., "window": ...}`` for all windows of a name
    :param timestamp: the column of ``entities`` with the event time
    :param repo: the folder of the Feast repository where the step runs; not needed if all features are ``columns``
    :param feature_service: the Feast feature service whose features are joined
    :param features: instead of a service, references such as ``weather:temp``
    :param columns: columns of ``entities`` that are known at event time and are features too
    :param keys: columns of ``entities`` that identify a row and are kept; join keys are always kept
    :param watched: columns of ``entities`` to monitor that are not features: text, timestamps, embeddings
    :param label: a column of ``entities``, or ``{"name": "late", "expression": "arr_delay > 15"}``; rows with an
        unknown label are dropped and counted
    :param task: ``binary``, ``multiclass`` or ``regression``; by default inferred from the label
    :param split: ``random``, ``time``, ``group`` or ``hash``, or a dict with ``method``, ``test_size`` (0.3, or ``14D``
        for the last 14 days), ``group`` and ``seed``; ``None`` for the one part ``data``
    :param max_single_feature_score: refuse a feature that alone scores higher than this: AUC, or R² for a regression
    :param memory_limit: how much memory the join may use before it continues on disk; the events, and Python with its
        libraries, need memory in addition
    :param description: description of the dataset
    :raises SpecError: the split is unknown, or both ``feature_service`` and ``features`` are given
    """

    step = "training_set"

    split: Any

    def __init__(
        self,
        *,
        name: str,
        entities: Any,
        timestamp: str,
        repo: str | None = None,
        feature_service: str | None = None,
        features: list[str] | None = None,
        columns: list[str] | None = None,
        keys: list[str] | None = None,
        watched: list[str] | None = None,
        label: str | dict[str, str] | None = None,
        task: str | None = None,
        split: str | dict[str, Any] | None = "random",
        max_single_feature_score: float = 0.99,
        memory_limit: str = "2GB",
        description: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        method = split.get("method", "random") if isinstance(split, dict) else split
        if isinstance(method, str) and not is_template(method) and method not in _SPLIT_METHODS:
            raise SpecError(
                f"Task {self.task_id!r}: split={method!r} is unknown: use one of {', '.join(_SPLIT_METHODS)}."
            )
        if feature_service is not None and features is not None:
            raise SpecError(f"Task {self.task_id!r}: give either feature_service or features, not both.")
        self.assign_parameters(locals())

    def build_spec(self, context: Context) -> dict[str, Any]:
        # None is a value of its own here: the dataset is not split.
        return super().build_spec(context) | {"split": self.split}

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(context, {"dataset": result["dataset"]})
