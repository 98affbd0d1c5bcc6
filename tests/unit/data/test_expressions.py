"""Expressions over columns: arithmetic, comparisons, missing values, and refused syntax."""

from __future__ import annotations

import math
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
        # Null or true is true, and null and false is false.
        ("a > 0 or b == 2", [True, True, True, None]),
        ("a > 0 and b == 1", [False, False, False, None]),
        ("3", [3, 3, 3, 3]),
    ],
)
def test_expressions_are_evaluated_for_each_row(expression, expected):
    assert expressions.evaluate(expression, DATA).to_pylist() == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("late / all", [None, 0.5, 0.0, math.inf]),
        ("late / all > 0.1", [None, True, False, True]),
        ("late / all != 0.1", [None, True, True, True]),
        ("not late / all > 0.1", [None, False, True, False]),
        ("late / all > 0.1 or late == 0", [True, True, True, True]),
        ("0 / 0 > 1", [None] * 4),
    ],
)
@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.decimal128(38, 2)])
def test_a_share_of_nothing_is_unknown(expression, expected, kind):
    data = pa.table({"late": pa.array([0, 1, 0, 5]).cast(kind), "all": pa.array([0, 2, 4, 0]).cast(kind)})
    assert expressions.evaluate(expression, data).to_pylist() == expected


def test_the_columns_of_an_expression_are_listed():
    assert expressions.columns("b > 1 and (a < 2 or b == a)") == ["a", "b"]


NAMES = st.text(min_size=1, max_size=20).filter(lambda name: "\x00" not in name)


@given(name=NAMES, other=NAMES)
@example(name="class", other="arrival delay")
@example(name="µg", other="μg")
@example(name="x`y", other="column_0")
@example(name="'quoted", other='"quoted')
def test_any_name_can_be_quoted(name, other):
    quoted = f"`{name.replace('`', '``')}`"
    assert expressions.columns(f"{quoted} > 1") == [name]
    if name != other:
        data = pa.table({name: [1, 2], other: [2, 1]})
        two = f"{quoted} > `{other.replace('`', '``')}`"
        assert expressions.evaluate(two, data).to_pylist() == [False, True]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("`a` + a", [2.0, 4.0, None, None]),
        # A backtick inside quoted text is not a quote.
        ("s == '`x`'", [False, False, False, None]),
        ("not`b`==2", [False, False, False, None]),
    ],
)
def test_quoted_and_plain_names_can_be_mixed(expression, expected):
    assert expressions.evaluate(expression, DATA).to_pylist() == expected


def test_a_plain_name_is_the_name_as_written():
    # Python itself would read the micro sign as the Greek letter.
    data = pa.table({"µg": [1], "μg": [2], "größe": [3]})
    assert expressions.evaluate("µg", data).to_pylist() == [1]
    assert expressions.evaluate("größe + μg", data).to_pylist() == [5]


def test_integers_do_not_wrap_around():
    data = pa.table({"small": pa.array([5], pa.uint8()), "other": pa.array([10], pa.uint8()), "large": [2**62]})
    assert expressions.evaluate("small - other", data).to_pylist() == [-5]
    assert expressions.evaluate("-small", data).to_pylist() == [-5]
    assert expressions.evaluate("small * 100", data).to_pylist() == [500]
    for overflow in ("large + large", "large * 4", "0 - large - large - large"):
        with pytest.raises(SchemaError, match="overflow"):
            expressions.evaluate(overflow, data)


@pytest.mark.parametrize(
    "expression",
    [
        "a >",
        "f(a)",
        "a.b",
        "a[0]",
        "[a]",
        "a ** 2",
        "a in b",
        "None",
        "lambda: a",
        "class > 1",
        "a b > 1",
        "``",
        "`a",
        "a\x00",
    ],
)
def test_other_syntax_is_refused(expression):
    with pytest.raises(SpecError, match="not a valid expression"):
        expressions.evaluate(expression, DATA)


@pytest.mark.parametrize(
    ("expression", "quoted"),
    [
        ("'b' > 15", "'b'"),
        ('"b" > 15', "'b'"),
        ("'s' == 'x'", "'s'"),
        ("'s'", "'s'"),
        ("-'b'", "'b'"),
        ("'b' + 1 > 2", "'b'"),
        ("a > 1 and 'b'", "'b'"),
        ("a > 1 and 'b c' > 2", "'b c'"),
        ("not 'b'", "'b'"),
    ],
)
def test_the_quotes_of_sql_are_refused_and_backticks_are_named(expression, quoted):
    with pytest.raises(SpecError, match=f"quoted text {quoted} like a column.*write `{quoted[1:-1]}` with backticks"):
        expressions.columns(expression)


def test_a_quoted_column_that_is_compared_with_a_number_column_is_named():
    with pytest.raises(SchemaError, match="To use the column 's', write `s` with backticks"):
        expressions.evaluate("a > 's'", DATA)
    with pytest.raises(SchemaError, match="Change the expression"):
        expressions.evaluate("a > 'other'", DATA)


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
