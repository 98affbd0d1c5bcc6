"""Spec and result of the stage ``training_set``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.contract import Task
from airflow_mlops.core.durations import parse_duration
from airflow_mlops.core.errors import named
from airflow_mlops.core.references import DatasetLike, DatasetRef, DatasetSelection
from airflow_mlops.core.sizes import SIZE
from airflow_mlops.core.training_windows import TrainingWindow
from airflow_mlops.data.columns import LabelColumn, reserved_message
from airflow_mlops.data.expression_syntax import parse

SplitMethod = Literal["random", "time", "group", "hash"]
MAX_SINGLE_FEATURE_SCORE = 0.99
"""The default of ``max_single_feature_score``."""
RUN_WINDOW: Literal["window"] = "window"
"""The ``test_size`` that holds out the rows of the window of the run."""


def _as_label(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _as_split(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


def _as_test_size(value: Any) -> Any:
    if isinstance(value, str) and value != RUN_WINDOW:
        try:
            return float(value)
        except ValueError:
            return parse_duration(value)
    return value


def _as_gap(value: Any) -> Any:
    if isinstance(value, int | float):
        # A number would be read as seconds.
        raise ValueError(f"{value!r} has no unit; use a duration such as 7D")
    return parse_duration(value) if isinstance(value, str) else value


class Split(Model):
    """The method by which rows are split into the split parts ``train`` and ``test``.

    :param method: ``time`` puts the latest rows into ``test``. ``random`` puts a random share of the rows into ``test``.
        ``hash`` assigns each row by a hash of the row, so a row keeps its split part when other rows are added.
        ``group`` puts all rows with the same value in the column ``group`` into the same split part
    :param test_size: share of rows in ``test`` (0 to 1). For the method ``time``, ``test_size`` can also be a duration,
        for example ``14D`` for the last 14 days, or ``window`` for the window that the run processes, if the training
        set has a window rule
    :param group: name of the group column; required for the method ``group``
    :param gap: for the method ``time``, length of a period that ends at the first row of ``test``. Rows in this period
        are in no split part. The gap should be as long as the time from an event until its label is known. Otherwise,
        the labels of the last rows of ``train`` depend on events during ``test``. By default, there is no gap
    :param windows: for the method ``time``, number of consecutive windows of equal length into which the time of ``test``
        is divided. Gates use all rows of ``test``, and an evaluation also measures each window. By default, ``test`` is
        not divided
    :param stratify: for the method ``random``, whether both split parts have the same shares of the classes, except for
        rounding to whole rows
    :param seed: random seed of all methods except ``time``
    """

    method: SplitMethod = "time"
    test_size: Annotated[
        Literal["window"] | float | timedelta, Field(union_mode="left_to_right"), BeforeValidator(_as_test_size)
    ] = 0.3
    group: str | None = None
    gap: Annotated[timedelta | None, BeforeValidator(_as_gap)] = None
    windows: int | None = Field(default=None, ge=2, le=100)
    stratify: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _options_of_the_method(self) -> Split:
        if self.gap is not None:
            if self.method != "time":
                raise ValueError(
                    f"`gap` is set, but the method is {self.method!r}. Remove `gap`, or set `method` to 'time'."
                )
            if self.gap <= timedelta(0):
                raise ValueError("`gap` must be longer than zero. Set it to a duration such as 7D, or remove it.")
        if self.windows is not None and self.method != "time":
            raise ValueError(
                f"`windows` is set, but the method is {self.method!r}. Remove `windows`, or set `method` to 'time'."
            )
        if self.stratify and self.method != "random":
            raise ValueError(
                f"`stratify` is true, but the method is {self.method!r}. Remove `stratify`, or set `method` to 'random'."
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Split:
        if self.test_size == RUN_WINDOW:
            if self.method != "time":
                raise ValueError(
                    f"`test_size` is 'window', but the method is {self.method!r}. Set `test_size` to a share between 0 and 1, "
                    "or `method` to 'time'."
                )
        elif isinstance(self.test_size, timedelta):
            if self.method != "time":
                raise ValueError(
                    f"`test_size` is a duration, but the method is {self.method!r}. Set `test_size` to a share between "
                    "0 and 1, or `method` to 'time'."
                )
            if self.test_size <= timedelta(0):
                raise ValueError("`test_size` must be longer than zero. Set it to a duration such as 14D.")
        elif not 0 < self.test_size < 1:
            raise ValueError(
                f"`test_size` is {self.test_size}. Set it to a share between 0 and 1 (not included) or, for the method "
                "'time', to a duration such as 14D."
            )
        if self.method == "group" and self.group is None:
            raise ValueError("The method is 'group', but `group` is not set. Set `group` to the name of a column.")
        if self.method != "group" and self.group is not None:
            raise ValueError(
                f"`group` is set, but the method {self.method!r} does not use it. Remove `group`, or set `method` to "
                "'group'."
            )
        return self


class TrainingSetSpec(Spec):
    """Parameters of a training set, which is built by a point-in-time join of features to events.

    :param name: name of the dataset to write
    :param entities: dataset of events, with one row per event. The columns of the dataset include the join keys, the
        event time and the columns from which the label is computed
    :param window: rule for the window of the training set. ``entities`` then selects a dataset by name, and the window
        in ``entities`` is the window that the run processes
    :param timestamp: event time column of ``entities``
    :param repo: path of the folder with the Feast repository; not needed if all features are in ``columns``
    :param feature_service: name of the Feast feature service whose features are joined
    :param features: features to join as ``view:feature``, for example ``weather:temp``; instead of ``feature_service``
    :param columns: columns of ``entities`` to use as features. The values must be known at the time of the event
    :param keys: columns of ``entities`` that identify a row. The columns are written to the training set, but a key is
        a feature only if it is also in ``columns``
    :param watched: columns of ``entities`` that are monitored for drift but are not features, such as text, timestamps
        and embeddings. The columns are written to the training set
    :param label: name of the label column of ``entities``, or the label's name and an expression over columns of
        ``entities``; ``None`` for a dataset to score, which has no label
    :param task: ML task: ``binary``, ``multiclass`` or ``regression``; by default inferred from the label
    :param positive: for a binary task, the label value of the positive class; by default the last of the two values in
        sorted order. The score of a prediction is the probability of this class
    :param split: method of the split into the split parts ``train`` and ``test``; ``None`` to write all rows without a
        split
    :param max_single_feature_score: highest accepted score of a single feature (AUC or, for a regression, R²). A
        feature with a higher score is rejected as leakage
    :param memory_limit: memory that sorting the events and joining the features may use before they continue in
        temporary files, for example ``500MB`` or ``2GB``; by default ``[mlops] memory``. Python and its libraries need
        additional memory
    :param owner: owner of the dataset, recorded in its manifest
    :param description: description of the dataset, recorded in its manifest
    """

    name: Name
    entities: DatasetLike
    window: TrainingWindow | None = None
    timestamp: str
    repo: str | None = None
    feature_service: str | None = None
    features: list[str] | None = None
    columns: list[str] = Field(default_factory=list)
    keys: list[str] = Field(default_factory=list)
    watched: list[str] = Field(default_factory=list)
    label: Annotated[LabelColumn | None, BeforeValidator(_as_label)] = None
    task: Task | None = None
    positive: bool | int | float | str | None = None
    split: Annotated[Split | None, BeforeValidator(_as_split)] = Split()
    max_single_feature_score: float = Field(default=MAX_SINGLE_FEATURE_SCORE, gt=0.5, le=1.0)
    memory_limit: str | None = Field(default=None, pattern=SIZE)
    owner: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSetSpec:
        if self.feature_service is not None and self.features:
            raise ValueError("Both `feature_service` and `features` are set. Set only one of them.")
        if (self.feature_service is not None or self.features) and self.repo is None:
            raise ValueError(
                "Features are joined from Feast, but `repo` is not set. Set `repo` to the folder with "
                "feature_store.yaml."
            )
        if self.feature_service is None and not self.features and not self.columns:
            raise ValueError("There are no features. Set `feature_service`, `features` or `columns`.")
        if self.label is None and self.task is not None:
            raise ValueError(
                "`task` is the ML task of the label, but `label` is not set. Set `label`, or remove `task`."
            )
        if self.split is not None and self.split.stratify and (self.label is None or self.task == "regression"):
            raise ValueError(
                "`stratify` keeps the shares of the classes of a label, but the label has no classes. Remove `stratify`."
            )
        if self.positive is not None and (self.label is None or self.task not in (None, "binary")):
            raise ValueError(
                "`positive` names the positive class of a binary label, but there is no binary label. Remove `positive`."
            )
        if self.timestamp in self.columns:
            raise ValueError(
                f"The event time {self.timestamp!r} cannot be a feature. Remove it from `columns`, and use columns "
                "derived from it instead, such as the hour."
            )
        if self.label is not None and self.label.name == self.timestamp:
            raise ValueError(f"The label {self.label.name!r} is also the event time. Set another label.")
        for name, columns in (("columns", self.columns), ("keys", self.keys), ("watched", self.watched)):
            if self.label is not None and self.label.name in columns:
                raise ValueError(
                    f"The label {self.label.name!r} is also in `{name}`. Remove it there, or set another label."
                )
        # Keys and event times keep their names, by which labels are joined later. Other columns are renamed.
        if taken := reserved_message((*self.keys, self.timestamp), "The training set"):
            raise ValueError(taken)
        leaking = sorted(set(self.columns) & self.label_columns)
        if leaking:
            raise ValueError(
                f"The label is computed from the {named('column', leaking)}, which must not be among the features. "
                "Correct `columns`."
            )
        return self

    @model_validator(mode="after")
    def _window_of_the_run(self) -> TrainingSetSpec:
        if self.window is not None and not (isinstance(self.entities, DatasetSelection) and self.entities.window):
            raise ValueError(
                "`window` is a rule, so `entities` must select a dataset by name and give the window of the run, as in "
                '{"name": ..., "window": ...}. References to single datasets cannot be extended to another window.'
            )
        if self.window is None and self.split is not None and self.split.test_size == RUN_WINDOW:
            raise ValueError(
                "`test_size` is 'window', which is the window of the run, but `window` is not set. Set `window` to a rule such "
                "as Rolling, or `test_size` to a duration such as 14D."
            )
        return self

    @property
    def label_columns(self) -> set[str]:
        """Return the columns of ``entities`` from which the label is computed; empty if there is no label."""
        if self.label is None:
            return set()
        if self.label.expression is None:
            return {self.label.name}
        return set(parse(self.label.expression).columns)


class TrainingSetResult(Result):
    """Result of building a training set.

    :param dataset: reference to the training set
    :param label: name of the label column; ``None`` if there is no label
    :param task: ML task: ``binary``, ``multiclass`` or ``regression``; ``None`` if there is no label
    :param features: names of the feature columns, in order
    :param rows: number of rows by split part
    :param dropped: number of rows that were left out because their label is null
    :param positive_rate: share of rows with the positive class (0 to 1); ``None`` if the ML task is not binary
    :param window_rule: rule for the window of the training set, such as ``Rolling(P6M)``; ``None`` if no rule is set
    """

    dataset: DatasetRef
    label: str | None
    task: Task | None
    features: list[str]
    rows: dict[str, int]
    dropped: int = 0
    positive_rate: float | None = None
    window_rule: str | None = None
