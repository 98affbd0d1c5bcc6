"""Spec and result of building a training set."""

from __future__ import annotations

import ast
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.contract import Task
from airflow_mlops.core.durations import parse_duration
from airflow_mlops.core.references import DatasetLike, DatasetRef
from airflow_mlops.data.columns import LabelColumn

SplitMethod = Literal["random", "time", "group", "hash"]


def _as_label(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _as_split(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


def _as_test_size(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return parse_duration(value)
    return value


class Split(Model):
    """How rows are divided into the parts ``train`` and ``test``.

    :param method: ``random`` holds out an exact share of the rows; ``hash`` decides for each row by itself, so a row
        stays in its part when other rows are added; ``time`` holds out the latest rows; ``group`` keeps rows with the
        same value of ``group`` together
    :param test_size: the share of rows that is held out; for ``time`` also a duration such as ``14D``, the last 14 days
    :param group: the column of the groups, for ``group``
    :param seed: the seed of all methods except ``time``
    """

    method: SplitMethod = "random"
    test_size: Annotated[float | timedelta, Field(union_mode="left_to_right"), BeforeValidator(_as_test_size)] = 0.3
    group: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Split:
        if isinstance(self.test_size, timedelta):
            if self.method != "time":
                raise ValueError(
                    f"test_size is a duration, which only the method 'time' can hold out, not {self.method!r}"
                )
            if self.test_size <= timedelta(0):
                raise ValueError("test_size must be longer than zero")
        elif not 0 < self.test_size < 1:
            raise ValueError(
                f"test_size is {self.test_size}: it must be a share between 0 and 1, or a duration such as 14D"
            )
        if (self.method == "group") != (self.group is not None):
            raise ValueError("the method 'group' and a column in group belong together: give both or neither")
        return self


class TrainingSetSpec(Spec):
    """Join features to events as they were known at the time of each event, and split the rows.

    :param name: the name of the dataset to write
    :param entities: the events, one row each, with join keys, event time and the columns of the label
    :param timestamp: the column of ``entities`` that holds the event time
    :param repo: the folder of the Feast repository; not needed if all features are ``columns``
    :param feature_service: the Feast feature service to join
    :param features: instead of a service, references such as ``weather:temp``
    :param columns: columns of ``entities`` that are known at event time and are features too
    :param keys: columns of ``entities`` that identify a row and are kept; a key is a feature only if it is also in
        ``columns``
    :param watched: columns of ``entities`` that are kept for monitoring and are not features, such as text, timestamps
        and embeddings
    :param label: a column of ``entities``, or a name and an expression over its columns; ``None`` for a scoring set
    :param task: the kind of label; inferred from the label by default
    :param split: how rows are divided; ``None`` for one part ``data``
    :param max_single_feature_score: refuse a feature that alone scores higher than this: AUC, or R² for a regression
    :param memory_limit: how much memory the join may use before it continues on disk, for example ``500MB`` or ``2GB``.
        The events themselves, and Python with its libraries, need memory in addition
    """

    name: Name
    entities: DatasetLike
    timestamp: str
    repo: str | None = None
    feature_service: str | None = None
    features: list[str] | None = None
    columns: list[str] = Field(default_factory=list)
    keys: list[str] = Field(default_factory=list)
    watched: list[str] = Field(default_factory=list)
    label: Annotated[LabelColumn | None, BeforeValidator(_as_label)] = None
    task: Task | None = None
    split: Annotated[Split | None, BeforeValidator(_as_split)] = Split()
    max_single_feature_score: float = Field(default=0.99, gt=0.5, le=1.0)
    memory_limit: str = Field(default="2GB", pattern=r"^[1-9]\d*(\.\d+)? ?[KMGT]i?B$")
    owner: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSetSpec:
        if self.feature_service is not None and self.features:
            raise ValueError("feature_service and features exclude each other: give only one")
        if (self.feature_service is not None or self.features) and self.repo is None:
            raise ValueError("features come from a Feast repository: give its folder in repo")
        if self.feature_service is None and not self.features and not self.columns:
            raise ValueError("there are no features: give feature_service, features or columns")
        if self.label is None and self.task is not None:
            raise ValueError("task describes the label, but there is no label")
        if self.timestamp in self.columns:
            raise ValueError(
                f"the event time {self.timestamp!r} cannot be a feature: derive columns from it, such as the hour"
            )
        if self.label is not None and self.label.name in (*self.columns, *self.keys, self.timestamp, *self.watched):
            raise ValueError(f"the label {self.label.name!r} cannot be a feature, a key or watched as well")
        leaking = sorted(set(self.columns) & self.label_columns)
        if leaking:
            raise ValueError(
                f"the label is computed from {', '.join(map(repr, leaking))}, so the feature would give the label away: "
                "remove it from columns"
            )
        return self

    @property
    def label_columns(self) -> set[str]:
        """The columns of ``entities`` that the label is computed from."""
        if self.label is None:
            return set()
        if self.label.expression is None:
            return {self.label.name}
        try:
            tree = ast.parse(self.label.expression.strip(), mode="eval")
        except SyntaxError:
            raise ValueError(
                f"{self.label.expression!r}, the expression of the label, cannot be parsed: write it like arr_delay > 15"
            ) from None
        return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


class TrainingSetResult(Result):
    """The reference of the training set and its figures.

    :param label: the column of the label; ``None`` for a scoring set
    :param features: the columns of the features, in order
    :param rows: the number of rows in each part
    :param dropped: the number of rows that were left out because their label is unknown
    :param positive_rate: the share of the positive class; ``None`` if the task is not binary
    """

    dataset: DatasetRef
    label: str | None
    task: Task | None
    features: list[str]
    rows: dict[str, int]
    dropped: int = 0
    positive_rate: float | None = None
