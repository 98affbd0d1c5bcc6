"""Building a training set: what is asked and what comes back."""

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

    :param method: ``random`` holds out an exact share of the rows; ``hash`` decides for each row alone, so that a
        row stays on its side when others come; ``time`` holds out the latest rows; ``group`` keeps rows with the same
        value of ``group`` together
    :param test_size: the share held out, or for ``time`` also a span of time such as ``14D``: the last 14 days
    :param group: the column that says which rows belong together, for ``group``
    :param seed: another seed gives another division, for all methods but ``time``
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
                    f"test_size is a span of time, which only the method 'time' can hold out, not {self.method!r}"
                )
            if self.test_size <= timedelta(0):
                raise ValueError("test_size must be longer than nothing")
        elif not 0 < self.test_size < 1:
            raise ValueError(
                f"test_size is {self.test_size}: a share must lie between 0 and 1, or be a span such as 14D"
            )
        if (self.method == "group") != (self.group is not None):
            raise ValueError("the method 'group' and a column name in group= go together: give both or neither")
        return self


class TrainingSetSpec(Spec):
    """Join features to events as they were known at the time, and divide the rows for training and testing.

    :param name: the name of the dataset to write
    :param entities: the events: one row each, with join keys, event time, and what the label is made from
    :param timestamp: the column of ``entities`` that holds the event time
    :param repo: the folder of the Feast repository; not needed when all features are ``columns``
    :param feature_service: the Feast feature service whose features are joined
    :param features: instead of a service, references such as ``weather:temp``
    :param columns: columns of ``entities`` that are known at event time and are features too
    :param keys: columns of ``entities`` that name a row and are kept, without being features for that
    :param watched: columns of ``entities`` that are kept to be monitored, without being features: text, timestamps, embeddings
    :param label: a column of ``entities``, or a name and an expression over them; ``None`` for rows to be scored
    :param task: what is learned; inferred from the label unless given
    :param split: how rows are divided; ``None`` for one part ``data``
    :param max_single_feature_score: refuse a feature that alone reaches this AUC (regression: R²)
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
    owner: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSetSpec:
        if self.feature_service is not None and self.features:
            raise ValueError("feature_service and features exclude each other: give one")
        if (self.feature_service is not None or self.features) and self.repo is None:
            raise ValueError("features come from a Feast repository: give its folder as repo")
        if self.feature_service is None and not self.features and not self.columns:
            raise ValueError("there are no features: give feature_service, features or columns")
        if self.label is None and self.task is not None:
            raise ValueError("task says what the label is like, but there is no label")
        if self.timestamp in self.columns:
            raise ValueError(
                f"the event time {self.timestamp!r} cannot be a feature: derive columns such as the hour from it"
            )
        if self.label is not None and self.label.name in (*self.columns, *self.keys, self.timestamp, *self.watched):
            raise ValueError(f"the label {self.label.name!r} cannot be a feature, a key or watched as well")
        told = sorted(set(self.columns) & self.label_columns)
        if told:
            raise ValueError(
                f"the label is made from {', '.join(map(repr, told))}, so a model would be told the answer: "
                "take it out of columns"
            )
        return self

    @property
    def label_columns(self) -> set[str]:
        """The columns of ``entities`` that the label is made from."""
        if self.label is None:
            return set()
        if self.label.expression is None:
            return {self.label.name}
        try:
            tree = ast.parse(self.label.expression.strip(), mode="eval")
        except SyntaxError:
            raise ValueError(
                f"the label's expression {self.label.expression!r} is not one: write it as in arr_delay > 15"
            ) from None
        return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


class TrainingSetResult(Result):
    """The training set, by reference.

    :param label: the label's column; ``None`` for a scoring set
    :param features: the columns to learn from, in order
    :param rows: rows of each part
    :param dropped: rows left out because their label is not known
    :param positive_rate: for a binary task, the share of the positive class
    """

    dataset: DatasetRef
    label: str | None
    task: Task | None
    features: list[str]
    rows: dict[str, int]
    dropped: int = 0
    positive_rate: float | None = None
