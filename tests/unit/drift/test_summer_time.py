"""Summer time shifts local hours in UTC, which is not drift. A shift of the hours without summer time is drift."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.drift import summer_time
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.univariate import compare, decide, measure
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import Profile, profile
from tests.support.columns import times

# Hours of a business that opens at 8: a shift of one hour is 15% of the rows.
OPEN = np.array([0, 0, 0, 0, 0, 0, 1, 4, 9, 9, 8, 7, 9, 9, 8, 8, 7, 9, 4, 1, 0, 0, 0, 0], dtype=float)
ZONES = ["America/New_York", "Europe/Berlin", "Australia/Sydney"]


def local(
    random: np.random.Generator, rows: int, first: str, days: int, zone: str, hours: np.ndarray = OPEN
) -> Profile:
    """Rows whose hours are local times of ``zone``."""
    wall = times(random, rows, first, days, hours=hours).cast(pa.timestamp("s"))
    utc = pc.assume_timezone(wall, zone, ambiguous="earliest", nonexistent="latest").cast(pa.timestamp("s", "UTC"))
    return profile([pa.record_batch({"x": utc})])


def only(reference: Profile, current: Profile) -> Drift:
    (found,) = compare(reference, current, Policy(min_rows=1))
    return found


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    ("before", "now"),
    [
        (("2013-01-01", 31), ("2013-07-01", 31)),
        (("2013-07-01", 31), ("2013-01-01", 31)),
        # Each of these has days of both kinds in the reference, in the window or in both.
        (("2013-01-01", 90), ("2013-04-08", 21)),
        (("2012-07-01", 365), ("2013-07-01", 31)),
        (("2013-01-01", 181), ("2013-10-01", 45)),
    ],
)
def test_summer_time_is_not_drift(zone, before, now):
    random = np.random.default_rng(1)
    found = only(local(random, 40_000, *before, zone), local(random, 20_000, *now, zone))
    assert (found.drifted, found.note is None or "clock change" in found.note) == (False, True)
    assert found.effect < 0.05


def test_the_note_says_that_summer_time_was_considered():
    random = np.random.default_rng(1)
    winter, summer = (local(random, 20_000, first, 31, "Europe/Berlin") for first in ("2013-01-01", "2013-07-01"))
    assert "clock change" in only(winter, summer).note
    same = only(winter, local(random, 20_000, "2013-02-01", 28, "Europe/Berlin"))
    assert (same.drifted, same.note) == (False, None)


@pytest.mark.parametrize(
    ("stated", "drifted"),
    [
        (None, False),
        ("Europe/Berlin", False),
        # Zones without summer time, or with summer time in the other half of the year, explain nothing.
        ("Asia/Kolkata", True),
        ("+01:00", True),
        ("Australia/Sydney", True),
    ],
)
def test_the_stated_time_zone_decides(stated, drifted):
    random = np.random.default_rng(1)
    winter, summer = (local(random, 20_000, first, 31, "Europe/Berlin") for first in ("2013-01-01", "2013-07-01"))
    policy = Policy(min_rows=1)
    (found,) = decide(measure(winter, summer, policy, zone=stated), policy)
    assert found.drifted == drifted
    if stated == "Europe/Berlin":
        assert found.note.endswith("of Europe/Berlin")


def test_a_shift_of_one_hour_within_a_season_is_drift():
    random = np.random.default_rng(1)
    before = local(random, 20_000, "2013-06-01", 30, "Europe/Berlin")
    found = only(before, local(random, 20_000, "2013-07-01", 31, "Europe/Berlin", np.roll(OPEN, 1)))
    assert (found.drifted, found.test, found.note) == (True, "hour", None)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_other_changes_of_the_hours_are_drift_between_seasons_too(zone):
    random = np.random.default_rng(1)
    before = local(random, 20_000, "2013-01-01", 31, zone)
    found = only(before, local(random, 20_000, "2013-07-01", 31, zone, np.roll(OPEN, 4)))
    assert (found.drifted, found.test) == (True, "hour")


def test_rows_that_follow_utc_do_not_drift_by_summer_time():
    random = np.random.default_rng(1)
    found = only(*(local(random, 20_000, first, 31, "UTC") for first in ("2013-01-01", "2013-07-01")))
    assert (found.drifted, found.note) == (False, None)


def test_the_shares_of_summer_time_are_those_of_the_calendar():
    year, january = (
        profile([pa.record_batch({"x": times(np.random.default_rng(1), 5_000, "2013-01-01", days)})]).columns["x"]
        for days in (365, 31)
    )
    found = {item.zone: item for item in summer_time.differing(year, january)}
    days = {"America/New_York": 238 / 365, "Europe/Berlin": 210 / 365}
    for zone, share in days.items():
        assert found[zone].reference == pytest.approx(share, abs=0.01)
        assert found[zone].current == 0
    assert found["Australia/Sydney"].current == 1


@pytest.mark.parametrize(
    ("zone", "summer"),
    [("Europe/Berlin", 210), ("Europe/Dublin", 210), ("Australia/Sydney", 182), ("Africa/Casablanca", 0), ("UTC", 0)],
)
def test_summer_time_is_the_time_ahead_of_standard_time(zone, summer):
    year = profile([pa.record_batch({"x": times(np.random.default_rng(1), 5_000, "2019-01-01", 365)})]).columns["x"]
    assert summer_time._share(year, summer_time.zones.zone(zone)) == pytest.approx(summer / 365, abs=0.01)


def test_without_a_time_zone_database_hours_are_compared_as_they_are(monkeypatch):
    def missing(name):
        raise ValueError(name)

    random = np.random.default_rng(1)
    winter, summer = (local(random, 20_000, first, 31, "Europe/Berlin") for first in ("2013-01-01", "2013-07-01"))
    monkeypatch.setattr(summer_time.zones, "zone", missing)
    assert only(winter, summer).drifted


def test_times_at_the_ends_of_the_calendar_are_compared():
    ends = pa.array(["0001-01-01", "9999-12-31"] * 100).cast(pa.timestamp("s"))
    found = only(profile([pa.record_batch({"x": ends})]), local(np.random.default_rng(1), 200, "2013-07-01", 31, "UTC"))
    assert found.p_value is not None
