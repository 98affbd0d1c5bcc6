"""Convert estimators to ONNX in double precision where skl2onnx supports only single precision."""

from __future__ import annotations

from typing import Any

import numpy as np


def conversions() -> dict[str, Any]:
    """Return arguments of ``convert_sklearn`` for imputation in double precision. ONNX's Imputer does not support it."""
    from skl2onnx.shape_calculators.imputer import calculate_sklearn_imputer_output_shapes
    from sklearn.impute import SimpleImputer

    return {
        "custom_conversion_functions": {SimpleImputer: _impute},
        "custom_shape_calculators": {SimpleImputer: calculate_sklearn_imputer_output_shapes},
    }


def _impute(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.operator_converters.common import concatenate_variables
    from skl2onnx.operator_converters.imputer_op import convert_sklearn_imputer

    imputer = operator.raw_operator
    nan = isinstance(imputer.missing_values, float) and np.isnan(imputer.missing_values)
    if not nan or not isinstance(operator.inputs[0].type, DoubleTensorType):
        convert_sklearn_imputer(scope, operator, container)
        return
    values = concatenate_variables(scope, operator.inputs, container)
    filling, missing = (scope.get_unique_variable_name(name) for name in ("filling", "missing"))
    container.add_initializer(filling, TensorProto.DOUBLE, [1, imputer.statistics_.size], imputer.statistics_)
    container.add_node("IsNaN", [values], [missing], op_version=13)
    container.add_node("Where", [missing, filling, values], [operator.outputs[0].full_name], op_version=9)
