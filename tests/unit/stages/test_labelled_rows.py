"""The ages of labelled rows, from which challengers get the weights of ``Decay``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.models.refitting import AGE
from airflow_mlops.stages.monitor.challengers import LabelledRows

ROWS = pa.table({"label": [0, 1, 0]})
DAY = timedelta(days=1)
UNTIL = datetime(2013, 4, 11, tzinfo=timezone.utc)


def test_the_age_counts_from_the_time_of_each_row_in_half_lives():
    times = pa.chunked_array([[UNTIL - 20 * DAY, UNTIL - 5 * DAY, UNTIL + 10 * DAY]], pa.timestamp("us", "UTC"))
    found = LabelledRows(ROWS, times, Window.model_validate("2013-01..2013-03")).aged(10 * DAY, UNTIL)
    assert found.table[AGE].to_pylist() == pytest.approx([2.0, 0.5, -1.0])


def test_without_times_the_age_counts_from_the_middle_of_the_window():
    window = Window.model_validate("2013-04-01/2013-04-11")
    assert LabelledRows(ROWS, window=window).aged(10 * DAY, UNTIL).table[AGE].to_pylist() == pytest.approx([0.5] * 3)


def test_without_a_half_life_the_rows_have_no_ages():
    assert LabelledRows(ROWS).aged(None, UNTIL).table.column_names == ["label"]
