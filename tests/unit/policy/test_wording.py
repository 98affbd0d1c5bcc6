"""The numbers in sentences and headlines."""

from __future__ import annotations

import pytest

from airflow_mlops.policy.wording import duration_text, number


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.71234, "0.712"), (12.2634, "12.263"), (-0.0, "-0.000"), (999.9994, "999.999"), (999.9996, "1,000"),
        (15_226.788, "15,227"), (-3_015.058, "-3,015"), (123_456.7, "123,457"), (1.97e12, "1.97e+12"), (1.78e-9, "1.78e-09"),
    ],
)  # fmt: skip
def test_a_metric_has_the_digits_that_its_size_needs(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("days", "shown"),
    [
        (0, "0 days"), (1, "1 day"), (2.5, "2.5 days"), (400.2, "400 days"), (0.5, "12 hours"), (1 / 24, "1 hour"),
        (1 / 48, "30 minutes"), (-0.25, "-6 hours"),
    ],
)  # fmt: skip
def test_a_duration_below_a_day_is_in_hours_or_minutes(days, shown):
    assert duration_text(days) == shown
