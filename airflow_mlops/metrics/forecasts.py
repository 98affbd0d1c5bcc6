"""Metrics of forecasts, and the columns with the seasonal-naive forecast that they need.

BuildForecastRowsOperator writes two columns into each row. Both use only values up to the origin of the row:

- :data:`NAIVE`, the seasonal-naive forecast: the value one season before the target time. It is the baseline of every
  evaluation on these rows;
- :data:`SCALE`, the mean absolute error of the seasonal-naive forecast one season ahead, over the history of the series up
  to the origin; 0 if the history has no such error, or only errors of 0.

The metrics:

- ``mase``, the mean absolute scaled error: the mean of ``abs(label - prediction) / SCALE`` over the rows (R. Hyndman and A.
  Koehler, "Another look at measures of forecast accuracy", International Journal of Forecasting 22, 2006). A row with
  the scale 0 has no scaled error and is left out;
- ``smape``, the symmetric mean absolute percentage error, as a share from 0 to 2: the mean of
  ``2 * abs(label - prediction) / (abs(label) + abs(prediction))``, and 0 for a row in which both are 0 (S. Makridakis, E.
  Spiliotis and V. Assimakopoulos, "The M4 Competition", International Journal of Forecasting 36, 2020).

This module imports no heavy library, because DAG files that declare gates import this module during parsing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MASE, SMAPE = "mase", "smape"

SCALE, NAIVE = "mase_scale", "seasonal_naive"

DETAIL = "forecast"
"""The key that describes the forecast in the manifest details of forecast rows and of training sets built from them."""


def statistical_of(details: Mapping[str, Any]) -> list[str]:
    """Return the columns with the forecasts of statistical models; empty if the dataset has no such columns.

    :param details: details of the manifest of the dataset
    """
    return list((details.get(DETAIL) or {}).get("statistical", []))


def is_forecast_error(metric: str) -> bool:
    """Return whether ``metric`` is one of the metrics of forecasts."""
    return metric in (MASE, SMAPE)


def forecast_columns(metrics: Iterable[str]) -> list[str]:
    """Return the names of the columns that the metrics of forecasts among ``metrics`` need, each once."""
    return [SCALE, NAIVE] if MASE in metrics else []


def metrics_of(details: Mapping[str, Any]) -> list[str]:
    """Return the metrics of forecasts for a dataset with forecast rows and the ML task regression, otherwise an empty list.

    Every training and evaluation on the dataset computes these metrics.

    :param details: details of the manifest of the dataset
    """
    return [MASE, SMAPE] if details.get(DETAIL) and details.get("task") == "regression" else []
