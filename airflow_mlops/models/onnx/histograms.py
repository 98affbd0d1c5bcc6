"""Convert histogram-based gradient boosting to ONNX without moving rows to the other side of a threshold.

A threshold of scikit-learn is a double between two values of a feature. skl2onnx (1.20) rounds the threshold to the
nearest float32 number. If this number is the larger of the two values, the rows with this value change sides. This
module rounds the threshold down instead, so that no float32 value changes sides.

skl2onnx also leaves out the link function of the losses ``poisson`` and ``gamma``, so its export predicts the
logarithm. This module adds the exponential.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# Losses whose models predict the logarithm of the value as a sum.
_LOGARITHMIC = ("poisson", "gamma")


def conversions() -> dict[str, Any]:
    """Return arguments of ``convert_sklearn`` that round the thresholds of histogram-based gradient boosting down."""
    from skl2onnx.common._registration import get_shape_calculator
    from skl2onnx.operator_converters.random_forest import (
        convert_sklearn_random_forest_classifier,
        convert_sklearn_random_forest_regressor_converter,
    )
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    convert = {
        HistGradientBoostingClassifier: _rounding(convert_sklearn_random_forest_classifier),
        HistGradientBoostingRegressor: _linked(_rounding(convert_sklearn_random_forest_regressor_converter)),
    }
    return {
        "custom_conversion_functions": convert,
        "custom_shape_calculators": {kind: get_shape_calculator(f"Sklearn{kind.__name__}") for kind in convert},
    }


def _rounding(convert: Any) -> Any:
    def rounded(scope: Any, operator: Any, container: Any) -> None:
        with single_thresholds(operator.raw_operator):
            convert(scope, operator, container)

    return rounded


def _linked(convert: Any) -> Any:
    def linked(scope: Any, operator: Any, container: Any) -> None:
        if operator.raw_operator.loss not in _LOGARITHMIC:
            convert(scope, operator, container)
            return
        (output,) = operator.outputs
        logarithm = scope.declare_local_variable("logarithm", output.type)
        convert(scope, _WithOutput(operator, logarithm), container)
        container.add_node("Exp", [logarithm.full_name], [output.full_name], op_version=13)

    return linked


class _WithOutput:
    """An operator of skl2onnx with another output variable."""

    def __init__(self, operator: Any, output: Any) -> None:
        self._operator, self.outputs = operator, [output]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)


@contextmanager
def single_thresholds(boosting: Any) -> Iterator[None]:
    """Round the thresholds of all trees down to single precision until the end of the block."""
    nodes = [predictor.nodes for iteration in boosting._predictors for predictor in iteration]
    original = [item["num_threshold"].copy() for item in nodes]
    try:
        for item in nodes:
            item["num_threshold"] = round_down(item["num_threshold"])
        yield
    finally:
        for item, thresholds in zip(nodes, original, strict=True):
            item["num_threshold"] = thresholds


def round_down(values: Any) -> Any:
    """Return, for each value, the largest float32 number that is not greater than the value."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)
