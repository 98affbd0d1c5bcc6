"""ISO 8601 text."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.moments import parse, parse_instant

MORNING = datetime(2024, 3, 5, 6, 30, tzinfo=timezone.utc)
MIDNIGHT = datetime(2024, 3, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        *((text, MIDNIGHT) for text in ("2024-03-05", "20240305", "2024-065", "2024065", "2024-W10-2", "2024W102")),
        ("2024-03", datetime(2024, 3, 1, tzinfo=timezone.utc)),
        ("2024-W10", datetime(2024, 3, 4, tzinfo=timezone.utc)),
        ("2024", datetime(2024, 1, 1, tzinfo=timezone.utc)),
        ("2024-03-05T06", MORNING - timedelta(minutes=30)),
        *((text, MORNING) for text in ("2024-03-05T06:30", "2024-03-05 06:30:00", "20240305T063000Z")),
        # psql, pandas, PostgreSQL's COPY, BigQuery, Snowflake, JavaScript
        *(
            (text, MORNING)
            for text in ("2024-03-05 06:30:00+00", "2024-03-05 06:30:00+00:00", "2024-03-05 06:30:00 UTC")
        ),
        *(
            (text, MORNING)
            for text in ("2024-03-05 06:30:00.000 +0000", "2024-03-05T06:30:00.000Z", " 2024-03-05T06:30Z ")
        ),
        *((text, MORNING) for text in ("2024-03-05T12:00:00+05:30", "2024-03-05T1:30:00".replace("T1", "T01") + "-05")),
        ("2024-03-05t06:30:00,5z", MORNING + timedelta(seconds=0.5)),
        # psql writes historical times in local mean time.
        ("1600-01-01 00:53:28+00:53:28", datetime(1600, 1, 1, tzinfo=timezone.utc)),
        ("2024-03-04T24:00:00", MIDNIGHT),
        ("2024-03-04T23:59:60Z", MIDNIGHT),
        ("0001-01-01", datetime.min.replace(tzinfo=timezone.utc)),
        ("9999-12-31 23:59:59.999999999", datetime.max.replace(tzinfo=timezone.utc)),
    ],
)
def test_every_form_of_iso_8601_is_a_moment(text, moment):
    assert parse(text) == moment


@pytest.mark.parametrize("digits", range(1, 10))
def test_fractions_have_one_to_nine_digits(digits):
    found = parse_instant(f"1970-01-01T00:00:00.{'123456789'[:digits]}Z")
    assert found.micros * 1000 + found.nanos == int("123456789"[:digits].ljust(9, "0"))


@pytest.mark.parametrize(
    "text",
    [
        "", "noon", "9/30/2024", "30.9.2024", "1709596800", "202403", "2024-3-5", "2024-03-05T06:30:00.1234567890",
        "2024-02-30", "2023-366", "2023-W53-1", "2024-03T06:30", "2024-03-05 25:00", "2024-03-05 06:60",
        "2024-03-05 24:00:01", "2024-03-05 06:30:61", "2024-03-05 06:30+24", "2024-03-05 06:30+01:60", "infinity",
        "0000-01-01", "0001-01-01T00:00:00+01", "9999-12-31T23:59:59-05", "+12024-01-01", "2024-03-05T06:30\n2024-03-06",
    ],
)  # fmt: skip
def test_other_text_is_not_a_time(text):
    with pytest.raises(ValueError, match=r"(?s)2024-03-05T06:30:00Z"):
        parse(text)


@given(
    st.datetimes(timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=5, minutes=45))])).filter(
        lambda moment: 1 < moment.year < 9999
    ),
    st.sampled_from("T "),
)
def test_text_written_by_python_is_read_back(moment, separator):
    assert parse(moment.isoformat(separator)) == moment
