"""Times in Feast sources: as event time, as feature and as join key, in the types and forms that files have."""

from __future__ import annotations

import shutil
import textwrap
from datetime import datetime, timezone

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.errors import FeatureStoreError, SchemaError
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesSpec
from airflow_mlops.stages.materialize_features.step import run as materialize
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.training_set.step import run
from tests.support.feature_repo import FEATURE_STORE
from tests.support.int96 import PLACEHOLDER, with_days

UTC = pa.timestamp("us", "UTC")
DEFINITIONS = """
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Int64, String, UnixTimestamp

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
day = Entity(name="day", join_keys=["day"], value_type=ValueType.UNIX_TIMESTAMP)
FIELDS = [Field(name="value", dtype=Int64), Field(name="seen", dtype=UnixTimestamp)]
places = FeatureView(
    name="places", entities=[place], schema=[Field(name="place", dtype=String), *FIELDS],
    source=FileSource(name="places", path="places", timestamp_field="at"),
)
days = FeatureView(
    name="days", entities=[day], schema=[Field(name="day", dtype=UnixTimestamp), FIELDS[0]],
    source=FileSource(name="days", path="days", timestamp_field="at"),
)
"""


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("times")
    (folder / "feature_store.yaml").write_text(FEATURE_STORE)
    (folder / "definitions.py").write_text(textwrap.dedent(DEFINITIONS))
    at = pa.array([utc("2013-01-01")], UTC)
    write(folder, "places", {"place": ["a"], "at": at, "value": [0], "seen": at})
    write(folder, "days", {"day": at, "at": at, "value": [0]})
    store = feast_repo.open_store(str(folder))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    return folder


def write(folder, name, columns, **options):
    """Replace the files of a source."""
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).mkdir()
    pq.write_table(pa.table(columns), folder / name / "rows.parquet", **options)


def build(tmp_path, repo, table, **options):
    store = ArtifactStore(f"file://{tmp_path}/store")
    with DatasetWriter(store, "events") as writer:
        writer.write(table)
        entities = writer.commit()[0].ref
    spec = {"name": "set", "entities": entities, "timestamp": "time", "repo": str(repo), "split": None, **options}
    return open_dataset(store, run(TrainingSetSpec.model_validate(spec), StepContext(store=store)).dataset).table()


TIMES = ["1600-01-01T00:00:00", "2013-01-02T06:30:00", "9999-12-31T00:00:00"]


@pytest.mark.parametrize(
    ("times", "options"),
    [
        (pa.array([utc(time) for time in TIMES], UTC), {}),
        (pa.array([datetime.fromisoformat(time) for time in TIMES], pa.timestamp("ms")), {}),
        (
            pa.array([datetime.fromisoformat(time) for time in TIMES], pa.timestamp("us")),
            {"use_deprecated_int96_timestamps": True},
        ),
        (pa.array(["1600-01-01", "2013-01-02 06:30:00+00", "9999-12-31T00:00Z"]), {}),
    ],
    ids=["UTC", "naive milliseconds", "INT96", "text"],
)
def test_the_years_1_to_9999_are_joined_from_any_type(repo, tmp_path, times, options):
    write(repo, "places", {"place": ["a"] * 3, "at": times, "value": [1, 2, 3], "seen": times}, **options)
    asked = ["1599-12-31", "1600-01-01", "2013-01-02T06:29:59", "2013-01-02T06:30", "9999-12-30T23:59:59", "9999-12-31"]
    found = build(
        tmp_path, repo, pa.table({"place": ["a"] * 6, "time": asked}), features=["places:value", "places:seen"]
    )
    assert found["value"].to_pylist() == [None, 1, 1, 2, 2, 3]
    assert found["seen"].cast(UTC).to_pylist() == [None, *(utc(TIMES[n]) for n in (0, 0, 1, 1, 2))]


@pytest.mark.parametrize("name", ["rows.parquet", "rows[1].parquet"], ids=["read by DuckDB", "read by Arrow"])
@pytest.mark.parametrize("column", ["at", "seen"])
def test_int96_of_the_year_586500_is_refused_and_not_joined_as_2024(repo, tmp_path, column, name):
    times = {"at": [datetime(2013, 1, 1)] * 3, "seen": [datetime(2013, 1, 1)] * 3}
    times[column] = pa.array([PLACEHOLDER] * 3, pa.timestamp("us"))
    table = pa.table({"place": ["a"] * 3, "value": [1, 2, 3], **times})
    write(repo, "places", {"place": []})
    (repo / "places" / "rows.parquet").unlink()
    (repo / "places" / name).write_bytes(with_days(table, [15_000, 213_523_710, 15_001]))
    events = pa.table({"place": ["a"], "time": [utc("2024-02-01")]})
    with pytest.raises(SchemaError, match=rf"'{column}' .*'places'.* row 2 .*18448448544000 seconds"):
        build(tmp_path, repo, events, features=["places:value", "places:seen"])


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_nanoseconds_as_pandas_makes_them_are_joined(repo, tmp_path, zone):
    times = pd.date_range("2013-01-01", "2013-01-03", periods=8, tz=zone)
    write(repo, "places", {"place": ["a"] * 8, "at": times, "value": range(8), "seen": times})
    events = pa.table({"place": ["a"] * 8, "time": pa.array(times + pd.Timedelta(microseconds=1))})
    found = build(tmp_path, repo, events, features=["places:value", "places:seen"])
    assert found["value"].to_pylist() == list(range(8))
    rounded = times.floor("us") if zone else times.floor("us").tz_localize("UTC")
    assert found["seen"].cast(UTC).to_pylist() == list(rounded.to_pydatetime())


@pytest.mark.parametrize(
    "own",
    [
        pa.timestamp("us", "UTC"),
        pa.timestamp("ns"),
        pa.timestamp("ms"),
        pa.timestamp("us", "Asia/Tokyo"),
        pa.date32(),
        pa.string(),
    ],
)
@pytest.mark.parametrize("other", [pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC"), pa.date32()])
def test_join_keys_may_hold_times_of_different_types(repo, tmp_path, own, other):
    days = pa.array(["2013-01-01", "2013-01-02"])

    def column(kind):
        if pa.types.is_string(kind):
            return days
        return days.cast(pa.date32()) if pa.types.is_date(kind) else days.cast(pa.timestamp("us")).cast(UTC).cast(kind)

    write(repo, "days", {"day": column(own), "at": [utc("2013-01-01")] * 2, "value": [1, 2]})
    events = pa.table({"day": column(other), "time": [utc("2013-01-05")] * 2})
    assert build(tmp_path, repo, events, features=["days:value"])["value"].to_pylist() == [1, 2]


def test_the_error_names_text_that_is_not_a_time(repo, tmp_path):
    events = pa.table({"place": ["a"], "time": ["2013-01-05"]})
    write(repo, "places", {"place": ["a"], "at": ["1/2/2013"], "value": [1], "seen": ["2013-01-01"]})
    with pytest.raises(SchemaError, match=r"'at' .*'places'.*'1/2/2013'"):
        build(tmp_path, repo, events, features=["places:value"])
    write(repo, "places", {"place": ["a"], "at": ["2013-01-02"], "value": [1], "seen": ["1/2/2013"]})
    with pytest.raises((SchemaError, FeatureStoreError), match=r"'seen' .*'places'.*'1/2/2013'"):
        build(tmp_path, repo, events, features=["places:seen"])


def test_a_dataset_with_nanoseconds_and_text_is_published(repo, tmp_path):
    store = ArtifactStore(f"file://{tmp_path}/store")
    times = pd.date_range("2013-01-01", "2013-01-03", periods=8)
    at = [f"{time.isoformat()}+00" for time in times.floor("us")]
    table = pa.table({"place": ["a"] * 8, "at": at, "value": range(8), "seen": pa.array(times)})
    with DatasetWriter(store, "places") as writer:
        writer.write(table)
        ref = writer.commit()[0].ref
    shutil.rmtree(repo / "places")
    spec = {"repo": str(repo), "window": "2013-01", "sources": {"places": ref}, "feature_views": ["places"]}
    materialize(MaterializeFeaturesSpec.model_validate(spec), StepContext(store=store))
    events = pa.table({"place": ["a"], "time": ["2013-01-04"]})
    found = build(tmp_path, repo, events, features=["places:value", "places:seen"])
    assert found["value"].to_pylist() == [7]
    assert found["seen"].cast(UTC).to_pylist() == [times[7].tz_localize("UTC").to_pydatetime()]


@pytest.mark.parametrize("times", [["2013-01-05"], [datetime(2013, 1, 5).date()]])
def test_times_that_feast_cannot_materialize_are_named_and_not_tried_again(repo, tmp_path, times):
    write(repo, "places", {"place": ["a"], "at": times, "value": [1], "seen": pa.array([utc("2013-01-05")], UTC)})
    spec = MaterializeFeaturesSpec(repo=str(repo), window="2013-01", feature_views=["places"])
    with pytest.raises(FeatureStoreError, match="'at' .*'places'.* only timestamps") as caught:
        materialize(spec, StepContext(store=ArtifactStore(f"file://{tmp_path}/store")))
    assert not caught.value.retryable


def test_the_years_1600_and_9999_are_materialized(repo, tmp_path):
    at, seen = pa.array([utc("2013-01-05")] * 2, UTC), [utc("1600-01-01"), utc("9999-12-31")]
    write(repo, "places", {"place": ["a", "b"], "at": at, "value": [1, 2], "seen": pa.array(seen, UTC)})
    spec = MaterializeFeaturesSpec(repo=str(repo), window="2013-01", feature_views=["places"])
    materialize(spec, StepContext(store=ArtifactStore(f"file://{tmp_path}/store")))
    online = feast_repo.open_store(str(repo)).get_online_features(
        features=["places:seen"], entity_rows=[{"place": "a"}, {"place": "b"}]
    )
    assert online.to_dict()["seen"] == seen


def test_int96_that_feast_would_materialize_as_another_time_is_refused(repo, tmp_path):
    spec = MaterializeFeaturesSpec(repo=str(repo), window="2013-01", feature_views=["places"])
    at = pa.array([datetime(2013, 1, 5)] * 2, pa.timestamp("us"))

    def run_with(*seen):
        columns = {"place": ["a", "b"], "at": at, "value": [1, 2], "seen": pa.array(seen, pa.timestamp("us"))}
        write(repo, "places", columns, use_deprecated_int96_timestamps=True)
        materialize(spec, StepContext(store=ArtifactStore(f"file://{tmp_path}/store")))

    with pytest.raises(FeatureStoreError, match=r"'seen' .*'places'.* row 2 .*1677 to 2262") as caught:
        run_with(datetime(2013, 1, 1), datetime(9999, 12, 31))
    assert not caught.value.retryable
    run_with(datetime(1700, 1, 1), datetime(2262, 1, 1))
    online = feast_repo.open_store(str(repo)).get_online_features(
        features=["places:seen"], entity_rows=[{"place": "a"}, {"place": "b"}]
    )
    assert online.to_dict()["seen"] == [utc("1700-01-01"), utc("2262-01-01")]
