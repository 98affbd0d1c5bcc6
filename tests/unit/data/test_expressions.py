"""Expressions over columns: arithmetic, comparisons, missing values, and refused syntax."""

from __future__ import annotations

import math
from decimal import Decimal

import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.data import expressions

DATA = pa.table({"a": [1.0, 2.0, math.nan, None], "b": [2, 2, 2, None], "s": ["x", "y", "x", None]})


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a + b * 2", [5.0, 6.0, None, None]),
        ("-a", [-1.0, -2.0, None, None]),
        ("b / 4", [0.5, 0.5, 0.5, None]),
        ("a < b", [True, False, None, None]),
        ("1 <= a < b", [True, False, None, None]),
        ("s == 'x'", [True, False, True, None]),
        ("not s == 'x'", [False, True, False, None]),
        # The other operand alone decides.
        ("a > 0 or b == 2", [True, True, True, None]),
        ("a > 0 and b == 1", [False, False, False, None]),
        ("3", [3, 3, 3, 3]),
    ],
)
def test_expressions_are_evaluated_for_each_row(expression, expected):
    assert expressions.evaluate(expression, DATA).to_pylist() == expected


def test_the_columns_of_an_expression_are_listed():
    assert expressions.columns("b > 1 and (a < 2 or b == a)") == ["a", "b"]


@pytest.mark.parametrize("expression", ["a >", "f(a)", "a.b", "a[0]", "[a]", "a ** 2", "a in b", "None", "lambda: a"])
def test_other_syntax_is_refused(expression):
    with pytest.raises(SpecError, match="not a valid expression"):
        expressions.evaluate(expression, DATA)


def test_missing_columns_and_wrong_types_are_named():
    with pytest.raises(SchemaError, match="'c'.* a, b, s"):
        expressions.evaluate("c > 1", DATA)
    with pytest.raises(SchemaError, match="'s' is string"):
        expressions.evaluate("s > 1", DATA)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("price > 10", [True, None, False]),
        ("price == 12.3", [True, None, False]),
        ("price == exact", [True, None, False]),
        ("price * 2 + 1", [25.6, None, -2.0]),
        ("-price", [Decimal("-12.30"), None, Decimal("1.50")]),
        ("id == 12345678901234567890", [True, False, None]),
        ("id > price", [True, None, None]),
    ],
)
def test_decimals_are_compared_exactly_and_computed_as_numbers(expression, expected):
    table = pa.table(
        {
            "price": pa.array([Decimal("12.30"), None, Decimal("-1.50")], pa.decimal128(38, 2)),
            "exact": pa.array([Decimal("12.3"), Decimal(1), Decimal(2)], pa.decimal128(38, 20)),
            "id": pa.array([Decimal(12345678901234567890), Decimal(1), None], pa.decimal128(38, 0)),
        }
    )
    assert expressions.evaluate(expression, table).to_pylist() == expected
