"""Waiting for features in a real Feast repository."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.stages.feature_freshness.spec import FeatureFreshnessSpec
from airflow_mlops.stages.feature_freshness.step import covered, look
from airflow_mlops.triggers.sensing import FeatureFreshnessTrigger
from tests.support.feature_repo import FEATURE_STORE, PLACES


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "features"
    write_places(folder)
    return folder


def write_places(folder):
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(FEATURE_STORE)
    (folder / "definitions.py").write_text(PLACES)
    rows = {"place": ["EWR"], "at": pa.array([datetime(2013, 4, 2)], pa.timestamp("us", "UTC")), "value": [1]}
    pq.write_table(pa.table(rows), folder / "places.parquet")


def materialize(repo, start: datetime, end: datetime, views=None):
    store = feast_repo.open_store(str(repo))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    store.materialize(start, end, feature_views=views)


def april(first: int, last: int) -> tuple[datetime, datetime]:
    return (
        datetime(2013, 4, first, tzinfo=timezone.utc),
        datetime(2013, 4, last, tzinfo=timezone.utc) + timedelta(days=1, microseconds=-1),
    )


def check(repo, **options):
    return look(FeatureFreshnessSpec(repo=str(repo), **options))


def test_a_window_is_fresh_when_every_view_has_all_of_it(repo, caplog):
    caplog.set_level("INFO", "airflow_mlops.stages")
    assert check(repo, window="2013-04") is None
    assert "no feature view is served online" in caplog.text
    assert check(repo, window="2013-04", feature_views=["first"]) is None
    assert "'first' is not registered" in caplog.text
    materialize(repo, *april(1, 10))
    assert check(repo, window="2013-04") is None
    assert "'first' is materialized until 2013-04-11T00:00:00+00:00, but the window ends" in caplog.text
    assert "; 'second' is" in caplog.text
    assert check(repo, window="2013-04-01..2013-04-10").materialized_until["first"] == april(1, 10)[1]
    # If only the end of the month is materialized, the month is not fresh.
    materialize(repo, *april(21, 30))
    assert check(repo, window="2013-04") is None
    materialize(repo, *april(11, 20), ["first"])
    found = check(repo, window="2013-04", feature_views=["first"])
    assert (found.project, list(found.materialized_until)) == ("small", ["first"])
    assert found.summary.startswith("first of Feast project small are materialized until 2013-04-30T23:59:59.999999")
    assert check(repo, window="2013-04") is None
    materialize(repo, *april(11, 20))
    assert list(check(repo, window="2013-04").materialized_until) == ["first", "second"]
    assert check(repo, max_age="1D") is None
    assert "'first' is materialized until 2013-04-30" in caplog.text
    now = datetime.now(timezone.utc)
    materialize(repo, now - timedelta(hours=3), now - timedelta(hours=2))
    assert check(repo, max_age="1h") is None
    assert check(repo, max_age="3h").materialized_until["first"] == now - timedelta(hours=2)


def test_the_trigger_checks_in_separate_processes(repo, tmp_path):
    def trigger(repo):
        path, arguments = FeatureFreshnessTrigger({"repo": str(repo), "window": "2013-04"}, 0.1).serialize()
        assert path == "airflow_mlops.triggers.sensing.FeatureFreshnessTrigger"
        return FeatureFreshnessTrigger(**arguments)

    materialize(repo, *april(1, 20))

    async def wait():
        assert await trigger(repo).check() is None
        materialize(repo, *april(21, 30))
        good = (await anext(trigger(repo).run())).payload
        bad = (await anext(trigger(tmp_path).run())).payload
        return good, bad

    good, bad = asyncio.run(wait())
    assert sorted(good["result"]["materialized_until"]) == ["first", "second"]
    assert bad["error"] == "FeatureStoreError"
    assert "is not a Feast repository" in bad["message"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "Neither `window` nor `max_age` is set"),
        ({"window": "2013", "max_age": "1D"}, "`window` and `max_age` are both set"),
    ],
)
def test_a_window_or_an_age_is_required_and_not_both(options, says):
    with pytest.raises(SpecError, match=says):
        parse(FeatureFreshnessSpec, {"repo": "features", **options}, "The sensor")


START = datetime(2013, 4, 1, tzinfo=timezone.utc)
HOURS = st.lists(st.tuples(st.integers(-3, 12), st.integers(1, 5)), max_size=8)


@given(hours=HOURS)
def test_a_window_is_materialized_up_to_its_first_missing_hour(hours):
    """The result by hours equals the result by intervals. An interval ends a microsecond before the next one begins."""
    done = {hour for first, count in hours for hour in range(first, first + count)}
    expected = next(hour for hour in range(20) if hour not in done)
    hour = timedelta(hours=1)
    intervals = [(START + a * hour, START + (a + n) * hour - timedelta(microseconds=1)) for a, n in hours]
    assert covered(intervals, Window(start=START, end=START + 24 * hour)) == START + expected * hour
