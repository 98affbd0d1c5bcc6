"""The types of columns of files that a single window may not show are declared."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest

from airflow_mlops.scaffold import declared
from airflow_mlops.scaffold.answers import Given
from airflow_mlops.scaffold.proposal import propose
from airflow_mlops.scaffold.sample import Sample
from tests.unit.scaffold.test_proposal import Silent

ROWS = 1_200
START = datetime(2024, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([12.5, *map(float, range(ROWS - 1))], "float64"),
        ([row + 0.5 for row in range(ROWS)], None),
        (["229a", *(str(row % 50) for row in range(ROWS - 1))], "string"),
        (["a", "b"] * (ROWS // 2), None),
        (["x", *["true", "false", "1"] * 400][:ROWS], "string"),
        ([Decimal("1.50"), *[Decimal("1.25")] * (ROWS - 1)], "decimal128(3, 2)"),
        (list(range(ROWS)), None),
        ([True, False] * (ROWS // 2), None),
        ([None, *["2024-03-05"] * (ROWS - 1)], None),
    ],
)
def test_a_type_that_few_values_show_is_declared(values, type_):
    sample = Sample(
        pa.table(
            {
                "order_id": list(range(ROWS)),
                "at": pa.array([START + timedelta(hours=row) for row in range(ROWS)], pa.timestamp("us", "UTC")),
                "amount": [row % 7 + 0.5 for row in range(ROWS)],
                "other": values,
                "late": [row % 2 for row in range(ROWS)],
            }
        ),
        True,
        [],
    )
    found = propose(sample, Given(label="late", time="at", label_delay=timedelta(0)), Silent())
    assert declared.types(found) == ({"other": type_} if type_ else {})
    assert declared.types(found, ["other"]) == {}


def test_amounts_in_another_notation_are_declared_as_text():
    """In a window with 1.284,02 and 3,50, they would be decimals, and the next window with 3,5 would fail."""
    amounts = ["3,5", *["1.284,02", "3,50"] * (ROWS // 2)][:ROWS]
    times = pa.array([START + timedelta(hours=row) for row in range(ROWS)], pa.timestamp("us", "UTC"))
    rows = {"order_id": range(ROWS), "at": times, "amount": amounts, "x": [row % 7 for row in range(ROWS)]}
    sample = Sample(pa.table({**rows, "late": [row % 2 for row in range(ROWS)]}), True, [])
    found = propose(sample, Given(label="late", time="at", label_delay=timedelta(0)), Silent())
    assert "amount" in found.excluded
    assert declared.types(found, csv={"decimal": ",", "thousands": "."}) == {"amount": "string"}
    assert declared.types(found) == {}
