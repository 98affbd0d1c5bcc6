"""Expressions over columns, for example ``arr_delay > 15``: Python syntax, evaluated by Arrow, without function calls.

If an operand is null or NaN, such as ``0 / 0``, the result is null. ``and`` and ``or`` are the exception (Kleene
logic): ``False and null`` is ``False``, and ``True or null`` is ``True``. :mod:`airflow_mlops.data.expression_syntax`
describes the syntax.
"""

from __future__ import annotations

import ast
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.expression_syntax import Expression, parse, quotes_hint
from airflow_mlops.data.types import as_doubles, common_type

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    # The checked functions raise an error instead of wrapping around.
    ast.Add: "add_checked",
    ast.Sub: "subtract_checked",
    ast.Mult: "multiply_checked",
    ast.Div: "divide",
}


def columns(expression: str) -> list[str]:
    """Return the names of the columns that an expression uses, sorted.

    :raises SpecError: ``expression`` contains syntax that is not supported
    """
    return parse(expression).columns


def evaluate(expression: str, data: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
    """Evaluate ``expression`` for every row of ``data``.

    :param data: the rows. They must have all columns that the expression uses
    :return: an Arrow array with one value per row
    :raises SpecError: ``expression`` contains syntax that is not supported
    :raises SchemaError: a column is missing, an operator does not support the type of a column, or a result exceeds
        int64
    """
    parsed = parse(expression)
    try:
        value = _evaluate(parsed.tree, parsed, data)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        types = ", ".join(f"{name!r} is {data.schema.field(name).type}" for name in parsed.columns)
        quoted = next((text for text in parsed.texts if text in data.schema.names), None)
        todo = "Change the expression, or the types of the columns." if quoted is None else quotes_hint(quoted)
        raise SchemaError(
            f"The expression {expression!r} cannot be computed ({str(error).splitlines()[0]}). Column types: {types}. {todo}"
        ) from None
    return pa.repeat(value, data.num_rows) if isinstance(value, pa.Scalar) else value


def _evaluate(node: ast.expr, expression: Expression, data: pa.Table | pa.RecordBatch) -> Any:
    if isinstance(node, ast.Name):
        return _column(expression.column(node), data)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, int) and not -(2**63) <= node.value < 2**63:
            return pa.scalar(Decimal(node.value))
        return pa.scalar(node.value)
    if isinstance(node, ast.UnaryOp):
        operand = _evaluate(node.operand, expression, data)
        return pc.invert(operand) if isinstance(node.op, ast.Not) else pc.negate_checked(_widened(operand))
    if isinstance(node, ast.BinOp):
        left, right = (_evaluate(side, expression, data) for side in (node.left, node.right))
        if isinstance(node.op, ast.Div) or pa.types.is_decimal(left.type) or pa.types.is_decimal(right.type):
            # As in Python, 1 / 2 is 0.5. Products of decimals could have more digits than Arrow supports.
            left, right = as_doubles(left), as_doubles(right)
        else:
            left, right = _widened(left), _widened(right)
        # 0 / 0 is NaN.
        return _without_nan(pc.call_function(_ARITHMETIC[type(node.op)], [left, right]))
    if isinstance(node, ast.BoolOp):
        join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
        values = [_evaluate(value, expression, data) for value in node.values]
    else:
        assert isinstance(node, ast.Compare)
        operands = [_evaluate(operand, expression, data) for operand in (node.left, *node.comparators)]
        values = [
            pc.call_function(_COMPARISONS[type(op)], _same_scale(left, right))
            for op, left, right in zip(node.ops, operands, operands[1:], strict=False)
        ]
        join = pc.and_kleene
    result = values[0]
    for value in values[1:]:
        result = join(result, value)
    return result


def _same_scale(left: Any, right: Any) -> list[Any]:
    """Convert two decimals to a common number of decimal places, or to doubles if Arrow has no decimal that large."""
    if not (pa.types.is_decimal(left.type) and pa.types.is_decimal(right.type)):
        return [left, right]
    kind = common_type(left.type, right.type)
    try:
        return [pc.cast(left, kind), pc.cast(right, kind)]
    except pa.ArrowInvalid:
        return [as_doubles(left), as_doubles(right)]


def _column(name: str, data: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
    if name not in data.schema.names:
        raise SchemaError(
            f"The expression uses the column {name!r}, which is absent from the data. Use one of: "
            f"{', '.join(data.schema.names)}."
        )
    return _without_nan(data.column(name))


def _without_nan(values: Any) -> Any:
    """Replace NaN with null."""
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def _widened(value: Any) -> Any:
    """Cast integers to int64, so that 5 - 10 is -5 for unsigned columns too."""
    return pc.cast(value, pa.int64()) if pa.types.is_integer(value.type) else value
