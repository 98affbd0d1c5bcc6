"""``BuildForecastRowsOperator``, which makes rows with lag features from the values of many series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.rendering import is_template
from airflow_mlops.operators.windows import check_rule, with_run_window

if TYPE_CHECKING:
    from airflow.sdk import Context


class BuildForecastRowsOperator(StepOperator):
    """Makes rows with lag features from the values of many series, so that a regression can forecast them.

    A row belongs to a series, an origin and one of the ``horizon`` steps after the origin. Its features are known at the
    origin. With ``origins="all"``, the rows are the events of BuildTrainingSetOperator. With ``origins="newest"``, they are
    the rows to score.

    :param name: name of the dataset to write
    :param entities: the values, one row for each series and time: a dataset, the output of the task that wrote it, or
        ``{"name": ..., "window": ...}`` for the datasets of a window
    :param window: rule for the window of the history: a :class:`~airflow_mlops.operators.Rolling` or an
        :class:`~airflow_mlops.operators.Expanding`, which ends with the window of the run, as in
        :class:`~airflow_mlops.operators.BuildTrainingSetOperator`. ``entities`` must name a dataset
    :param series: name of the column that identifies a series, or several names
    :param time: name of the column with the time of a value
    :param value: name of the column with the values to forecast. A null is a missing value
    :param every: length of a step as an ISO 8601 period, such as ``P1D``, ``P7D``, ``P1M`` or ``PT1H``
    :param zone: time zone in which days and months are counted, and of the calendar features; by default UTC
    :param horizon: number of steps to forecast
    :param season: number of steps in a season, such as 7 for daily values with a weekly season; 1 without a season
    :param lags: lags that are features. Lag 1 is the value at the origin
    :param rolling: lengths of rolling windows that end at the origin, in steps. The mean and the standard deviation
        over each window are features
    :param known: names of columns that become features. Their values for the target time must be known in advance
    :param models: models of statsforecast, by name or as a dict from the name to the parameters, such as
        ``["AutoETS", {"AutoARIMA": {"d": 1}}]``. They are fitted to the values up to each origin. Their forecasts are
        features, and gates can compare candidates with them
    :param origins: ``all`` for training rows, ``newest`` for the rows to score
    :param stride: number of steps from one origin to the next, to make fewer training rows
    :param memory_limit: memory that the computation may use before it continues on disk, such as ``2GB``; by default
        ``[mlops] memory``. The Python process needs additional memory
    :param description: description of the dataset
    :raises SpecError: the window rule is invalid
    """

    step = "forecast_rows"
    cacheable = True

    entities: Any
    window: Any

    def __init__(
        self,
        *,
        name: str,
        entities: Any,
        series: str | list[str],
        time: str,
        value: str,
        every: str,
        horizon: int | str,
        lags: list[int],
        window: dict[str, Any] | None = None,
        zone: str = "UTC",
        season: int | str = 1,
        rolling: list[int] | None = None,
        known: list[str] | None = None,
        models: list[str | dict[str, Any]] | None = None,
        origins: Literal["all", "newest"] = "all",
        stride: int | str = 1,
        memory_limit: str | None = None,
        description: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if window is not None and not is_template(window):
            check_rule(window, f"Task {self.task_id!r}")
        self.assign_parameters(locals())

    def build_spec(self, context: Context) -> dict[str, Any]:
        fields = super().build_spec(context)
        if self.window is not None:
            fields["entities"] = with_run_window(self.entities, context)
        return fields

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(context, {"dataset": result["dataset"]})
