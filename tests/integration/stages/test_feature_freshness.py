"""Waiting for features in a real Feast repository."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.compute import first_check
from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import FeatureStoreError, MaterializationError, SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.feature_freshness.spec import FeatureFreshnessSpec
from airflow_mlops.stages.feature_freshness.step import covered, look
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesSpec
from airflow_mlops.stages.materialize_features.step import run
from airflow_mlops.triggers.sensing import FeatureFreshnessTrigger
from tests.support import redis
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


@pytest.fixture(scope="module")
def server():
    with redis.server() as found:
        yield found


def in_redis(repo, server):
    """The repository with its online store in Redis, which is empty."""
    settings = {"type": "redis", "connection_string": server.address}
    (repo / "feature_store.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load(FEATURE_STORE), "online_store": settings})
    )
    flush(server)


def flush(server):
    from redis import Redis

    with Redis.from_url(f"redis://:s3cret@{server.address.partition(',')[0]}") as client:
        client.flushall()


def table(rows):
    schema = pa.schema([("place", pa.string()), ("at", pa.timestamp("us", "UTC")), ("value", pa.int64())])
    return pa.table(list(zip(*rows, strict=True)), schema=schema)


def materialize_again(repo, tmp_path, window="2013-04", key="results/again.json", **options):
    store, said = ArtifactStore(f"file://{tmp_path}/store"), []

    class Context(StepContext):
        def progress(self, message):
            said.append(message)

    spec = parse(MaterializeFeaturesSpec, {"repo": str(repo), "window": window, **options}, "The step")
    run(spec, Context(store=store, key=key))
    return "\n".join(said)


def test_features_that_the_online_store_has_lost_are_not_fresh(repo, server, tmp_path, caplog):
    caplog.set_level("INFO", "airflow_mlops.stages")
    in_redis(repo, server)
    rows = [(f"P{number}", datetime(2013, 4, 2 + number % 9), number) for number in range(40)]
    pq.write_table(table(rows), repo / "places.parquet")
    assert "lacks" not in materialize_again(repo, tmp_path, key="results/first.json")
    assert check(repo, window="2013-04").project == "small"
    flush(server)
    assert check(repo, window="2013-04") is None
    assert "the online store lacks 20 of 20 keys of 'first'" in caplog.text
    # A later window has none of the rows.
    assert "lacks 20 of 20 keys of 'second'" in materialize_again(repo, tmp_path, "2013-05")
    assert check(repo, window="2013-04..2013-05") is not None
    found = feast_repo.open_store(str(repo)).get_online_features(["first:value"], [{"place": "P7"}]).to_dict()
    assert found["value"] == [7]
    # The last window has no rows either, so the rows of an earlier one are looked up.
    assert "lacks" not in materialize_again(repo, tmp_path, "2013-07")
    flush(server)
    assert "lacks 20 of 20 keys of 'first'" in materialize_again(repo, tmp_path, "2013-08")
    # Rows that came late, after their window was materialized, are not a loss.
    late = [(f"P{number}", datetime(2013, 4, 3), number) for number in range(40, 60)]
    pq.write_table(table([*rows, *late]), repo / "places.parquet")
    assert check(repo, window="2013-04..2013-05") is not None
    # Rows that the store itself deletes after some time are not a loss.
    settings = yaml.safe_load((repo / "feature_store.yaml").read_text())
    settings["online_store"]["key_ttl_seconds"] = 3600
    flush(server)
    (repo / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    assert check(repo, window="2013-04..2013-05") is not None


def test_a_retry_fills_what_a_failed_refill_left_out(repo, server, tmp_path, monkeypatch):
    in_redis(repo, server)
    materialize_again(repo, tmp_path, key="results/first.json")
    flush(server)
    kind = type(feast_repo.open_store(str(repo)))
    written = kind.materialize

    def half(self, start, end, feature_views=None, **options):
        written(self, start, end, feature_views=["first"])
        raise ConnectionError("The server was restarted.")

    with monkeypatch.context() as broken:
        broken.setattr(kind, "materialize", half)
        with pytest.raises(MaterializationError):
            materialize_again(repo, tmp_path, "2013-05", feature_views=["first"])
    # The store has the only row, but the task does not know whether it has all of them.
    assert "has lost rows of 'first'" in materialize_again(repo, tmp_path, "2013-05", feature_views=["first"])


def test_an_online_store_that_cannot_be_read_is_an_error(repo, server, tmp_path):
    in_redis(repo, server)
    materialize_again(repo, tmp_path)
    text = (repo / "feature_store.yaml").read_text()
    (repo / "feature_store.yaml").write_text(text.replace("s3cret", "other"))
    with pytest.raises(FeatureStoreError, match="online store of Feast project 'small' cannot be read"):
        check(repo, window="2013-04")


def test_a_deleted_sqlite_file_is_noticed(repo, caplog):
    caplog.set_level("INFO", "airflow_mlops.stages")
    materialize(repo, *april(1, 30))
    assert check(repo, window="2013-04") is not None
    (repo / "online.db").unlink()
    assert check(repo, window="2013-04") is None
    assert "the online store has no row of 'first'" in caplog.text


def test_the_trigger_checks_in_separate_processes(repo, tmp_path, monkeypatch):
    monkeypatch.setattr(first_check, "_SECONDS", 0)

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
