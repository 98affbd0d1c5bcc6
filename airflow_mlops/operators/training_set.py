"""Point-in-time correct training sets and scoring sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from airflow_mlops.core.calls import Spec
from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.training_set.spec import SplitMethod, TrainingSetSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class BuildTrainingSetOperator(StepOperator):
    """Join features to events as they were known at the time of each event, and divide the rows into train and test.

    Without ``label`` and ``split`` it builds a scoring set: one part ``data``.

    :param name: the name of the dataset to write
    :param entities: the events, one row each: a dataset, the output of the task that made it, or
        ``{"name": ..., "window": ...}`` for all windows of a name (templated)
    :param timestamp: the column of ``entities`` that holds the event time (templated)
    :param repo: the folder of the Feast repository, as it is seen where the step runs; not needed when all features
        are ``columns`` (templated)
    :param feature_service: the Feast feature service whose features are joined (templated)
    :param features: instead of a service, references such as ``weather:temp`` (templated)
    :param columns: columns of ``entities`` that are known at event time and are features too (templated)
    :param keys: columns of ``entities`` that name a row and are kept; join keys are kept anyway (templated)
    :param watched: columns of ``entities`` that are kept to be monitored, without being features: text, timestamps,
        embeddings (templated)
    :param label: a column of ``entities``, or ``{"name": "late", "expression": "arr_delay > 15"}``; rows whose label is
        not known are left out and counted (templated)
    :param task: ``binary``, ``multiclass`` or ``regression``; inferred from the label unless given
    :param split: ``random``, ``time``, ``group`` or ``hash``, or a dict with ``method``, ``test_size`` (0.3, or ``14D``
        for the last 14 days), ``group`` and ``seed``; ``None`` for one part ``data`` (templated)
    :param max_single_feature_score: refuse a feature that alone reaches this AUC (regression: R²)
    :param description: goes into the dataset's manifest
    """

    step: ClassVar[str] = "training_set"
    spec: ClassVar[type[Spec]] = TrainingSetSpec

    template_fields: Sequence[str] = (
        *StepOperator.template_fields,
        "name",
        "entities",
        "timestamp",
        "repo",
        "feature_service",
        "features",
        "columns",
        "keys",
        "watched",
        "label_column",
        "split",
        "description",
    )

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
        description: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        method = split.get("method", "random") if isinstance(split, dict) else split
        if isinstance(method, str) and "{" not in method and method not in get_args(SplitMethod):
            raise SpecError(f"split={method!r} is not a way to split: use one of {', '.join(get_args(SplitMethod))}.")
        if feature_service is not None and features is not None:
            raise SpecError("feature_service and features exclude each other: give one.")
        self.name = name
        self.entities = entities
        self.timestamp = timestamp
        self.repo = repo
        self.feature_service = feature_service
        self.features = features
        self.columns = columns
        self.keys = keys
        self.watched = watched
        # Airflow's operators have a property `label` of their own: the text in the graph.
        self.label_column = label
        self.task = task
        self.split = split
        self.max_single_feature_score = max_single_feature_score
        self.description = description

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "name": self.name,
            "entities": self.entities,
            "timestamp": self.timestamp,
            "repo": self.repo,
            "feature_service": self.feature_service,
            "features": self.features,
            "columns": self.columns or [],
            "keys": self.keys or [],
            "watched": self.watched or [],
            "label": self.label_column,
            "task": self.task,
            "split": self.split,
            "max_single_feature_score": self.max_single_feature_score,
            "owner": self.owner,
            "description": self.description,
        }

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(context, {"dataset": result["dataset"]})
