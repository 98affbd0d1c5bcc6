"""The placeholders of queries, and the bounds of windows in SQL."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_mlops.data.databases.bounds import as_literal, as_parameter, bind_placeholders, placeholders

NOON_IN_BERLIN = datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
MIDNIGHT = datetime(2024, 7, 1, tzinfo=timezone.utc)


def test_only_real_placeholders_are_bound():
    sql = """SELECT ':start', "a:end", t::start, $$ :end $$, $x$ :end $x$, `:end`, E'\\':start', :started -- :start
    /* :end */ FROM x WHERE t >= :start AND t < :end AND :start < t"""
    assert placeholders(sql) == {"start", "end"}
    bound = bind_placeholders(sql, {"start": "?1", "end": "?2"})
    assert bound == sql.replace("t >= :start AND t < :end AND :start < t", "t >= ?1 AND t < ?2 AND ?1 < t")
    assert placeholders("SELECT ':start' -- :end") == set()


@pytest.mark.parametrize(
    ("dialect", "noon", "midnight"),
    [
        ("sqlite", "'2024-07-01 10:00:00'", "'2024-07-01'"),
        ("postgresql", "TIMESTAMPTZ '2024-07-01T10:00:00+00:00'", "TIMESTAMPTZ '2024-07-01T00:00:00+00:00'"),
        ("mysql", "TIMESTAMP '2024-07-01 10:00:00'", "TIMESTAMP '2024-07-01 00:00:00'"),
        ("mssql", "'2024-07-01T10:00:00'", "'2024-07-01T00:00:00'"),
    ],
)
def test_a_literal_is_a_time_in_utc(dialect, noon, midnight):
    assert as_literal(NOON_IN_BERLIN, dialect) == noon
    assert as_literal(MIDNIGHT, dialect) == midnight


def test_a_parameter_is_a_time_in_utc():
    assert as_parameter(NOON_IN_BERLIN, "sqlite") == "2024-07-01 10:00:00"
    assert as_parameter(NOON_IN_BERLIN, "postgresql") == NOON_IN_BERLIN
    assert as_parameter(NOON_IN_BERLIN, "mysql") == datetime(2024, 7, 1, 10)
