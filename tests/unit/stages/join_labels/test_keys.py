"""Key columns of different types: which keys of predictions and labels are equal."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.stages.join_labels.keys import comparable


def equal(one: pa.Array, other: pa.Array) -> list[list[int]]:
    """For each prediction, the rows of the labels with an equal key. Null keys match no row."""
    left, right = comparable(pa.table({"k": one}), pa.table({"k": other}), "flights")
    assert left.schema == right.schema
    keys = right["k"].to_pylist()
    return [
        [row for row, key in enumerate(keys) if key is not None and repr(key) == repr(wanted)]
        for wanted in left["k"].to_pylist()
    ]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pa.array([2**53 + 1, 2, 3]), pa.array([2.0, None, 3.0]), [[], [0], [2]]),
        (pa.array([2.0, 2.5, float("nan"), 2.0**53]), pa.array([2**53 + 1, 2**53, 2]), [[2], [], [], [1]]),
        (pa.array([2**64 - 1, 2**63], pa.uint64()), pa.array([2.0**63, 2.0**64, -1.0]), [[], [0]]),
        (pa.array([-(2**63), 2**63 - 1, 0]), pa.array([-(2.0**63), 2.0**63, -0.0, float("inf")]), [[0], [], [2]]),
        (pa.array([2**64 - 1, 5], pa.uint64()), pa.array([-1, 5]), [[], [1]]),
        (pa.array([0.0, -0.0]), pa.array([-0.0]), [[0], [0]]),
        (pa.array([-0.0]), pa.array(["0", "-0"]), [[0]]),
        (pa.array([float("nan"), 2.0, None]), pa.array([2.0, float("nan"), None]), [[], [0], []]),
        (pa.array([float("nan"), 2.5]), pa.array(["nan", "2.5"]), [[], [1]]),
        (pa.array([Decimal("7.00"), Decimal("7.50")]), pa.array(["7", "7.50", "7.5"]), [[0], [1, 2]]),
        (pa.array([Decimal("106.85")]), pa.array([106.85]), [[0]]),
        (pa.array([Decimal(2**53 + 1), Decimal(2**53)]), pa.array([2.0**53]), [[], [0]]),
        (pa.array([2.0**53, 1e38]), pa.array([Decimal("9007199254740992.5"), Decimal(2**53)]), [[1], []]),
        (pa.array([Decimal("-9") * 10**37, None, Decimal("-0")]), pa.array([-9e37, 0.0, -0.0]), [[], [], [1, 2]]),
        (pa.array([Decimal(int(1e37))]), pa.array([1e37]), [[0]]),
        (pa.array([Decimal("1.50"), Decimal("100000.00")]), pa.array(["East", "1.5", "NaN", "1E5"]), [[1], []]),
        (pa.array(["East", "7.0", "1E5"]), pa.array([Decimal("7.00"), Decimal(10**5)]), [[], [0], []]),
        (pa.array([Decimal("7.00")]), pa.array([7, 700]), [[0]]),
        (pa.array([Decimal("0." + "0" * 37 + "1")]), pa.array([1, 2**63 - 1]), [[]]),
        (pa.array([12345678901.0, 2.0**62, 1e-7]), pa.array(["12345678901", str(2**62), "x"]), [[0], [1], []]),
        (pa.array([Decimal("0E-10"), Decimal("1.0E-9")]), pa.array([Decimal("0.00"), Decimal("1E-9")]), [[0], [1]]),
        (pa.array([Decimal("0E-10"), Decimal("-2.50E-8")]), pa.array(["0", "-0.000000025"]), [[0], [1]]),
        (pa.array([1, 7]), pa.array(["7", "x", "007"]), [[], [0]]),
        (pa.array(["7", "x"]), pa.array([7]), [[0], []]),
        (pa.array([True, False]), pa.array([1, 5]), [[0], []]),
        (pa.array([None, None]), pa.array([None]), [[], []]),
    ],
)  # fmt: skip
def test_equal_keys(one, other, expected):
    assert equal(one, other) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1]), pa.array(["UA1", None])),
        (pa.array([True]), pa.array(["x"])),
        (pa.array([b"\xff"]), pa.array(["x"])),
        (pa.array([1]), pa.array([b"1"])),
    ],
)
def test_types_that_cannot_be_compared_are_an_error_with_the_column(one, other):
    with pytest.raises(SchemaError, match="The key column 'k' is .* in the predictions but .* in dataset 'flights'"):
        equal(one, other)
