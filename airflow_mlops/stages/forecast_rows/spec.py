"""Spec and result of the stage ``forecast_rows``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Period, period_of_one_unit
from airflow_mlops.core.errors import named
from airflow_mlops.core.references import DatasetLike, DatasetRef, DatasetSelection
from airflow_mlops.core.sizes import SIZE
from airflow_mlops.core.training_windows import TrainingWindow
from airflow_mlops.core.zones import UTC, zone
from airflow_mlops.data.columns import reserved_message
from airflow_mlops.metrics.forecasts import NAIVE, SCALE

ORIGIN, STEP = "origin", "step"
"""The columns with the time of the origin, and the number of steps from the origin to the target time."""
CALENDAR = {
    "minutes": ("target_month", "target_weekday", "target_hour"),
    "days": ("target_month", "target_day", "target_weekday"),
    "months": ("target_month",),
}
"""The columns with calendar parts of the target time, by unit of the length of a step."""
_LONGEST = 10_000

Steps = Annotated[int, Field(ge=1, le=_LONGEST)]


def _one_unit(value: str) -> str:
    period_of_one_unit(value)
    return value


def _known_zone(value: str) -> str:
    zone(value)
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_model(value: Any) -> Any:
    if isinstance(value, str):
        return {"model": value}
    if not isinstance(value, dict) or value.keys() <= {"model", "params"}:
        return value
    if len(value) != 1:
        raise ValueError(
            f'a model is declared by its name, or as a dict such as {{"AutoARIMA": {{"d": 1}}}}, not as {value!r}'
        )
    ((model, params),) = value.items()
    return {"model": model, "params": params}


class StatisticalModel(Model):
    """A model of statsforecast. It is declared by its name, or as a dict from its name to its parameters.

    Examples: ``"AutoETS"``, ``{"AutoARIMA": {"d": 1, "alias": "arima_d1"}}``.

    :param model: name of a class in ``statsforecast.models``
    :param params: parameters of the class. ``season_length`` is by default the season of the rows. ``alias`` names the
        column with the forecasts; by default, the column has the name of the class
    """

    model: str = Field(min_length=1)
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _alias_is_a_name(self) -> StatisticalModel:
        if not (isinstance(self.column, str) and self.column):
            raise ValueError(f"`alias` of {self.model} names a column, so it must be a text that is not empty")
        return self

    @property
    def column(self) -> str:
        """Return the name of the column with the forecasts."""
        return self.params.get("alias", self.model)


class ForecastRowsSpec(Spec):
    """Parameters of forecast rows, with which a regression learns to forecast many series.

    :param name: name of the dataset to write
    :param entities: dataset with one row for each series and time
    :param window: rule for the window of the history. ``entities`` then selects a dataset by name, and the window in
        ``entities`` is the window that the run processes
    :param series: columns that together identify a series
    :param time: column with the time of a value
    :param value: column with the values to forecast. A null or NaN is a missing value
    :param every: length of a step, such as ``P1D``: a number of months and years, of weeks and days, or of hours and
        minutes
    :param zone: time zone in which months and days are counted, and of the calendar parts
    :param horizon: number of steps to forecast
    :param season: number of steps in a season, such as 7 for daily values with a weekly season; 1 without a season
    :param lags: lags of the value, from 1. Lag 1 is the value at the origin
    :param rolling: lengths of rolling windows that end at the origin, in steps. The mean and the standard deviation
        over each window are features
    :param known: columns whose values are known in advance for the target time
    :param models: statistical models. Their forecasts are features, and baselines with which gates can compare
    :param origins: ``all`` makes a row for each origin and step with a known value at the target time; ``newest`` makes
        the rows to score, for the newest time at which a series has a value
    :param stride: for ``all``, number of steps from one origin to the next
    :param memory_limit: memory that DuckDB may use before it continues in temporary files; by default ``[mlops] memory``
    :param owner: owner of the dataset, recorded in its manifest
    :param description: description of the dataset, recorded in its manifest
    """

    name: Name
    entities: DatasetLike
    window: TrainingWindow | None = None
    series: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
    time: str
    value: str
    every: Annotated[Period, AfterValidator(_one_unit)]
    zone: Annotated[str, AfterValidator(_known_zone)] = UTC
    horizon: Steps
    season: Steps = 1
    lags: list[Steps] = Field(min_length=1)
    rolling: list[Annotated[int, Field(ge=2, le=_LONGEST)]] = Field(default_factory=list)
    known: list[str] = Field(default_factory=list)
    models: list[Annotated[StatisticalModel, BeforeValidator(_as_model)]] = Field(default_factory=list)
    origins: Literal["all", "newest"] = "all"
    stride: Steps = 1
    memory_limit: str | None = Field(default=None, pattern=SIZE)
    owner: str = ""
    description: str = ""

    @property
    def unit(self) -> Literal["months", "days", "minutes"]:
        """Return the unit of the length of a step."""
        return period_of_one_unit(self.every)[0]

    @property
    def keys(self) -> list[str]:
        """Return the columns that identify a value: those of the series, and the time."""
        return [*self.series, self.time]

    @property
    def from_history(self) -> list[str]:
        """Return the columns with lags and with rolling means and standard deviations, in order."""
        return [
            *(f"lag_{lag}" for lag in self.lags),
            *(f"{kind}_{length}" for length in self.rolling for kind in ("mean", "std")),
        ]

    @property
    def features(self) -> list[str]:
        """Return the columns with the features, in order.

        :data:`SCALE` is not a feature, because it depends on the length of the history.
        """
        return [STEP, *self.known, *CALENDAR[self.unit], *self.from_history, NAIVE, *self.statistical]

    @property
    def statistical(self) -> list[str]:
        """Return the columns with the forecasts of the statistical models, in order."""
        return [each.column for each in self.models]

    @property
    def recent(self) -> int:
        """Return the number of steps up to an origin in which a series must have a value."""
        return max(self.season, self.horizon)

    @property
    def longest(self) -> int:
        """Return the number of steps up to the origin from which the features are computed."""
        return max(*self.lags, *self.rolling, self.season)

    @model_validator(mode="after")
    def _consistent(self) -> ForecastRowsSpec:
        given = [*self.keys, self.value, *self.known]
        columns = [*given, ORIGIN, *self.features[:1], *self.features[1 + len(self.known) :], SCALE]
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(
                f"The rows would have the {named('column', twice)} more than once. Name each column and each lag once, and rename "
                "columns with the names of features where the data is ingested."
            )
        if taken := reserved_message(given, "The dataset"):
            raise ValueError(taken)
        if self.origins == "newest" and self.stride != 1:
            raise ValueError("`stride` is set, but `origins` is 'newest', which has one origin. Remove `stride`.")
        return self

    @model_validator(mode="after")
    def _window_of_the_run(self) -> ForecastRowsSpec:
        if self.window is None:
            return self
        if self.window.kind == "decay":
            raise ValueError("`window` is a Decay, but forecast rows have no weights. Use Rolling or Expanding.")
        if not (isinstance(self.entities, DatasetSelection) and self.entities.window):
            raise ValueError(
                "`window` is a rule, so `entities` must select a dataset by name and give the window of the run, as in "
                '{"name": ..., "window": ...}. References to single datasets cannot be extended to another window.'
            )
        return self


class ForecastRowsResult(Result):
    """Result of building forecast rows.

    :param dataset: reference to the rows
    :param features: names of the feature columns, in order
    :param rows: number of rows
    :param series: number of series with rows
    :param left_out: number of series without rows
    :param fallbacks: number of series and origins with the seasonal-naive forecast in place of a statistical one, by
        column of the statistical model
    :param origin: the origin of the rows, in UTC, if ``origins`` is ``newest``
    :param window_rule: rule for the window of the history, such as ``Rolling(P1Y)``; ``None`` if no rule is set
    """

    dataset: DatasetRef
    features: list[str]
    rows: int
    series: int
    left_out: int = 0
    fallbacks: dict[str, int] = Field(default_factory=dict)
    origin: str | None = None
    window_rule: str | None = None
