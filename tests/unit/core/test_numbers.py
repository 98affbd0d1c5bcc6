"""Numbers in messages."""

from __future__ import annotations

import math

import pytest

from airflow_mlops.core.numbers import percent, rounded


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.123456, "0.1235"),
        (-0.00001234567, "-1.235e-05"),
        (1234.56, "1,235"),
        (9_999.4, "9,999"),
        (9_999.6, "10,000"),
        (12_345.4, "12,345"),
        (-1_234_567.8, "-1,234,568"),
        (1.234567e15, "1.235e+15"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_a_number_keeps_its_digits_before_the_decimal_point(value, text):
    assert rounded(value) == text


def test_fewer_digits_round_only_behind_the_decimal_point():
    assert [rounded(value, 2) for value in (0.01234, 12.34, 99.4, 99.6, 1234.5)] == [
        "0.012",
        "12",
        "99",
        "100",
        "1,234",
    ]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0.0%"),
        (0.0004, "< 0.1%"),
        (0.0005, "0.1%"),
        (0.0625, "6.3%"),
        (0.9458, "94.6%"),
        (0.9996, "99.9%"),
        (1, "100.0%"),
    ],
)
def test_a_percentage_is_neither_rounded_to_nothing_nor_to_all(share, text):
    # The same cases as in airflow_mlops/plugin/www/src/parts/format.test.ts.
    assert percent(share) == text
