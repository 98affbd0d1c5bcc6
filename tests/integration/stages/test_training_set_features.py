"""Every event gets the features that were known at its time, and none that are newer or older than their time to live."""

from __future__ import annotations

import json
import textwrap
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow.fs import FSSpecHandler, PyFileSystem

from airflow_mlops.core.errors import FeatureStoreError, LeakageError, MLOpsError, NotCacheableError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.feast import content, offline_store, parquet_source, point_in_time
from airflow_mlops.data.feast import join as feast_join
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast import request as feast_request
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.rows.online_features import OnlineFeatures
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.materialize_features import step as materialize_features
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesSpec
from airflow_mlops.stages.training_set import spread
from airflow_mlops.stages.training_set.features import FeatureSource
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.training_set.step import run
from tests.support.executors import LocalExecutors
from tests.support.feature_repo import FEATURE_STORE
from tests.support.one_duckdb import one_duckdb  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_duckdb")

if TYPE_CHECKING:
    from feast import FeatureStore

START = datetime(2013, 1, 1, tzinfo=timezone.utc)
UTC = pa.timestamp("us", "UTC")
MINUTE = 60_000_000

DEFINITIONS = """
from datetime import timedelta
import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
pair = Entity(name="pair", join_keys=["number"], value_type=ValueType.INT64)
hourly = FileSource(name="hourly", path="hourly.parquet", timestamp_field="at", created_timestamp_column="created",
                    field_mapping={"v": "value"})
schema = [Field(name="place", dtype=String), Field(name="value", dtype=Int64), Field(name="word", dtype=String)]
fresh = FeatureView(name="fresh", entities=[place], ttl=timedelta(minutes=150), schema=schema, source=hourly)
lasting = FeatureView(name="lasting", entities=[place], schema=schema, source=hourly)
twofold = FeatureView(
    name="twofold", entities=[place, pair],
    source=FileSource(name="twofold", path="twofold.parquet", timestamp_field="at"),
    schema=[Field(name="place", dtype=String), Field(name="number", dtype=Int64), Field(name="size", dtype=Float64)],
)
asked = RequestSource(name="asked", schema=[Field(name="factor", dtype=Int64)])

@on_demand_feature_view(sources=[lasting, asked], schema=[Field(name="scaled", dtype=Float64)])
def computed(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"scaled": inputs["value"] * inputs["factor"] * 1.0})

both = FeatureService(name="both", features=[fresh[["value"]], lasting])
there = FeatureService(name="there", features=[
    lasting[["value"]].with_name("origin").with_join_key_map({"place": "from"}),
    lasting[["value"]].with_name("goal").with_join_key_map({"place": "to"}),
])
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small_features")
    (folder / "feature_store.yaml").write_text(FEATURE_STORE)
    (folder / "definitions.py").write_text(textwrap.dedent(DEFINITIONS))
    write_hourly(folder, [("EWR", 0, 0, 1, "a")])
    write_twofold(folder, [("EWR", 1, 0, 1)])
    store = feast_repo.open_store(str(folder))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    return folder


@pytest.fixture(scope="module")
def feast_store(repo):
    return feast_repo.open_store(str(repo))


def minutes(values):
    return pa.array([START + timedelta(minutes=value) for value in values], UTC)


def micros(values, kind=UTC):
    """Times as microseconds after START."""
    start = int(START.timestamp()) * 1_000_000
    return pa.array([start + value for value in values], pa.timestamp("us")).cast(pa.timestamp("us", "UTC")).cast(kind)


def write_hourly(folder, rows, kind=UTC):
    """Rows of place, minute, minute of creation (or none), value and word."""
    write_exact(folder, [(place, at * MINUTE, created, value, word) for place, at, created, value, word in rows], kind)


def write_exact(folder, rows, kind=UTC):
    """The same, with the time in microseconds."""
    places, at, created, values, words = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 5
    table = pa.table(
        {
            "place": pa.array(places, pa.string()),
            "at": micros(at, kind),
            "created": pa.array([None if c is None else START + timedelta(minutes=c) for c in created], UTC),
            "v": pa.array(values, pa.int64()),
            "word": pa.array(words, pa.string()),
        }
    )
    pq.write_table(table, folder / "hourly.parquet", row_group_size=7)


def write_twofold(folder, rows):
    """Rows of place, number, time in microseconds and size."""
    places, numbers, at, sizes = zip(*rows, strict=True)
    table = pa.table({"place": places, "number": numbers, "at": micros(at), "size": pa.array(sizes, pa.float64())})
    pq.write_table(table, folder / "twofold.parquet")


def look_up(store, features, events):
    """Join, and put the slices together."""
    service = None if isinstance(features, list) else features
    request = feast_request.resolve(store, service, features if service is None else None)
    return pa.concat_tables(feast_join.join(store, request, events, "time"))


def seen(rows, place, time, ttl):
    """The expected row: the newest row up to the event that is within the TTL, and of ties the row created last."""
    candidates = [
        (at, -1 if created is None else created, position)
        for position, (row_place, at, created, _, _) in enumerate(rows)
        if place is not None and row_place == place and at <= time and (ttl is None or time - at <= ttl)
    ]
    return rows[max(candidates)[2]] if candidates else None


# Hypothesis does not shrink a failing case, because that would take minutes.
RANDOM = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)

# The times are coarse, so that some rows have equal times, and some ages equal the time to live or differ from it by a
# microsecond.
moments = st.builds(lambda n, shift: 30 * n * MINUTE + shift, st.integers(0, 20), st.sampled_from([0, 0, 0, -1, 1]))
places = st.sampled_from(["EWR", "JFK", "LGA"])
values = st.one_of(st.none(), st.integers(2**53, 2**53 + 9))
source_rows = st.tuples(places, moments, st.one_of(st.none(), st.integers(0, 3)), values, st.text("xyz", max_size=2))
event_rows = st.tuples(st.one_of(st.none(), places, st.just("BOS")), moments)
# Each kind can hold the moments exactly.
kinds = st.sampled_from(
    [UTC, pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "Asia/Tokyo")]
)


@settings(RANDOM, max_examples=60)
@given(
    st.lists(source_rows, max_size=60), st.lists(event_rows, min_size=1, max_size=60), kinds, kinds,
    # DuckDB joins up to 64 events by another algorithm.
    st.sampled_from([1, 70]),
)  # fmt: skip
def test_every_event_gets_what_a_join_by_hand_finds(repo, feast_store, rows, events, source_kind, event_kind, times):
    write_exact(repo, rows, source_kind)
    events = events * times
    table = pa.table(
        {
            "place": pa.array([place for place, _ in events], pa.string()),
            "time": micros([at for _, at in events], event_kind),
        }
    )
    found = look_up(feast_store, "both", table)
    assert found.column_names == ["fresh:value", "lasting:value", "lasting:word"]
    expected = []
    for place, time in events:
        young, old = seen(rows, place, time, 150 * MINUTE), seen(rows, place, time, None)
        expected.append((young and young[3], old and old[3], old and old[4]))
    assert list(zip(*found.to_pydict().values(), strict=True)) == expected


def from_feast(store, view, feature, keys, events):
    """The answers of Feast's own join, by the number of the event. Feast leaves out events without a matching feature row."""
    frame = events.to_pandas().rename(columns={"time": "event_timestamp", **keys}).assign(n=range(events.num_rows))
    found = store.get_historical_features(entity_df=frame, features=[f"{view}:{feature}"]).to_df()
    return {n: None if pd.isna(value) else int(value) for n, value in zip(found["n"], found[feature], strict=True)}


def distinct_by(*positions):
    return lambda row: tuple(row[position] for position in positions)


exact_values = st.integers(0, 2**40)
# Feast itself fails for sources with other types of time, when an event finds no row.
feast_kinds = st.sampled_from([UTC, pa.timestamp("ns", "UTC")])
whole_rows = st.tuples(places, moments, st.integers(0, 3), exact_values, st.just("w"))
few_with_ties = st.tuples(
    st.lists(whole_rows, min_size=1, max_size=8),
    st.lists(st.tuples(places, moments), min_size=1, max_size=2, unique=True),
)
many_without_ties = st.tuples(
    st.lists(whole_rows, min_size=1, max_size=60, unique_by=distinct_by(0, 1)),
    st.lists(st.tuples(st.sampled_from(["EWR", "JFK", "LGA", "BOS"]), moments), min_size=1, max_size=90, unique=True),
)


@RANDOM
# Feast's sort is stable only for up to 16 pairs of an event and a row: beyond that its choice between ties is arbitrary.
@given(st.one_of(few_with_ties, many_without_ties), feast_kinds, kinds, st.sampled_from(["fresh", "lasting"]))
def test_feasts_own_join_gives_the_same(repo, feast_store, case, source_kind, event_kind, view):
    rows, events = case
    write_exact(repo, rows, source_kind)
    table = pa.table(
        {
            "place": pa.array([place for place, _ in events], pa.string()),
            "time": micros([at for _, at in events], event_kind),
        }
    )
    found = look_up(feast_store, [f"{view}:value"], table)[f"{view}:value"].to_pylist()
    expected = from_feast(feast_store, view, "value", {}, table)
    assert found == [expected.get(n) for n in range(len(events))]


@settings(RANDOM, max_examples=15)
@given(
    st.lists(st.tuples(places, st.integers(1, 2), moments, exact_values), min_size=1, max_size=40, unique_by=distinct_by(0, 1, 2)),
    st.lists(st.tuples(places, st.integers(1, 3), moments), min_size=1, max_size=80, unique=True),
)  # fmt: skip
def test_feasts_own_join_by_two_keys_gives_the_same_rows(repo, feast_store, rows, events):
    write_twofold(repo, rows)
    place, number, at = zip(*events, strict=True)
    table = pa.table({"place": place, "number": number, "time": micros(at)})
    found = look_up(feast_store, ["twofold:size"], table)["twofold:size"].to_pylist()
    expected = from_feast(feast_store, "twofold", "size", {}, table)
    assert found == [expected.get(n) for n in range(len(events))]


def test_the_age_of_a_feature_may_reach_but_not_pass_its_time_to_live(repo, feast_store):
    write_hourly(repo, [("EWR", 0, 0, 7, "a")])
    ttl = 150 * MINUTE
    events = pa.table({"place": ["EWR"] * 5, "time": micros([-1, 0, ttl - 1, ttl, ttl + 1])})
    assert look_up(feast_store, ["fresh:value"], events)["fresh:value"].to_pylist() == [None, 7, 7, 7, None]


def test_fractions_of_a_microsecond_never_let_an_event_see_a_later_row(repo, feast_store):
    # The time of the event is rounded down, and the time of the feature row is rounded up.
    at = micros([0]).cast(pa.timestamp("ns")).cast(pa.int64())[0].as_py()
    nanoseconds = pa.timestamp("ns", "UTC")
    columns = {"place": ["EWR"], "created": minutes([0]), "v": [7], "word": ["a"]}
    pq.write_table(pa.table({**columns, "at": pa.array([at + 300], nanoseconds)}), repo / "hourly.parquet")
    times = [at, at + 299, at + 999, at + 1000, at + 1001]
    events = pa.table({"place": ["EWR"] * 5, "time": pa.array(times, nanoseconds)})
    assert look_up(feast_store, ["lasting:value"], events)["lasting:value"].to_pylist() == [None, None, None, 7, 7]


def test_for_equal_times_the_row_created_last_counts_and_ties_go_to_the_last_row(repo, feast_store):
    rows = [("EWR", 0, 9, 1, "late"), ("EWR", 0, 5, 2, "early"), ("EWR", 0, None, 3, "never")]
    rows += [("JFK", 0, 5, 4, "first"), ("JFK", 0, 5, 5, "second")]
    write_hourly(repo, rows)
    for repeat in (1, 70):
        events = pa.table({"place": ["EWR", "JFK"] * repeat, "time": minutes([20, 20] * repeat)})
        assert look_up(feast_store, ["fresh:word"], events)["fresh:word"].to_pylist() == ["late", "second"] * repeat


def test_rows_without_a_time_are_never_seen(repo, feast_store):
    columns = {"place": ["EWR", "EWR"], "created": minutes([0, 0]), "v": [7, 8], "word": ["a", "b"]}
    pq.write_table(pa.table({**columns, "at": pa.array([None, START], UTC)}), repo / "hourly.parquet")
    events = pa.table({"place": ["EWR", "EWR"], "time": minutes([-1, 0])})
    assert look_up(feast_store, ["lasting:value"], events)["lasting:value"].to_pylist() == [None, 8]


def test_feasts_offline_store_gives_the_same(repo, feast_store):
    write_hourly(repo, [(place, at, 0, at, "w") for place in ("EWR", "JFK") for at in range(0, 600, 60)])
    events = pa.table({"place": ["EWR", "JFK"] * 20, "time": minutes([13 * n for n in range(40)])})
    (view,) = feast_request.resolve(feast_store, None, ["fresh:value"]).views
    with offline_store.look_up(feast_store, view, events, "time") as found:
        other = found["fresh:value"]
    assert other.to_pylist() == look_up(feast_store, ["fresh:value"], events)["fresh:value"].to_pylist()


def test_an_offline_store_gets_distinct_events_and_answers_for_all(repo, feast_store):
    write_hourly(repo, [("EWR", 0, 0, 7, "a")])
    events = pa.table({"place": ["EWR", None, "EWR", "BOS", "EWR"], "time": minutes([10, 10, 10, 10, 20])})
    (view,) = feast_request.resolve(feast_store, None, ["lasting:value"]).views
    with offline_store.look_up(feast_store, view, events, "time") as features:
        found = features["lasting:value"]
    assert found.to_pylist() == [7, None, 7, None, 7]


HOURLY = {
    "place": pa.array(["EWR", "EWR", "JFK"]),
    "at": pa.array([START, START + timedelta(minutes=60), START], UTC),
    "created": pa.array([START] * 3, UTC),
    "v": pa.array([1, 2, 3]),
    "word": pa.array(["a", "b", "c"]),
}


def folder_of(*tables, name="hourly.parquet"):
    def write(path):
        (path / name).mkdir(parents=True)
        for number, table in enumerate(tables):
            pq.write_table(pa.table(table), path / name / f"{number}.parquet")

    return write


def text(column):
    return pa.array([time.isoformat() for time in column.to_pylist()])


@pytest.mark.parametrize(
    ("write", "by_duckdb"),
    [
        (folder_of(HOURLY), True),
        (folder_of({name: column[:2] for name, column in HOURLY.items()}, {n: c[2:] for n, c in HOURLY.items()}), True),
        (folder_of({**HOURLY, "place": HOURLY["place"].dictionary_encode()}), True),
        (folder_of({**HOURLY, "other": pa.array([timedelta(0)] * 3)}), True),
        (folder_of({**HOURLY, "at": text(HOURLY["at"])}), False),
        (folder_of({**HOURLY, "PLACE": HOURLY["place"]}), False),
        (folder_of({**HOURLY, "filename": HOURLY["place"]}), False),
        (folder_of({**HOURLY, "v": pa.array([1, 2, 3], pa.duration("us"))}), False),
        (folder_of({n: c[:2] for n, c in HOURLY.items()}, {n: c.cast(pa.float64()) if n == "v" else c for n, c in HOURLY.items()}), False),
        (folder_of(HOURLY, name="hourly[1]*.parquet"), False),
    ],
    ids=["folder", "two files", "dictionary", "unused column", "text", "case", "place", "duration", "types", "pattern"],
)  # fmt: skip
def test_sources_that_duckdb_cannot_read_are_read_by_arrow(repo, feast_store, tmp_path, monkeypatch, write, by_duckdb):
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    (view,) = feast_request.resolve(feast_store, None, ["lasting:value"]).views
    monkeypatch.setattr(type(view.view.batch_source), "get_uri_for_file_path", staticmethod(lambda **_: str(path)))
    events = pa.table({"place": ["JFK", "EWR", None, "EWR"], "time": minutes([5, 59, 5, 60])})
    assert parquet_source.open_source(feast_store, view, events.schema).is_readable_by_duckdb() == by_duckdb
    assert look_up(feast_store, ["lasting:value"], events)["lasting:value"].to_pylist() == [3, 1, None, 2]


@pytest.mark.parametrize(
    ("view", "created", "file"), [("twofold:size", None, 1), ("lasting:value", (0, 0), 1), ("lasting:value", (1, 0), 0)],
    ids=["no creation times", "equal creation times", "later creation times in the first file"],
)  # fmt: skip
def test_many_ties_go_to_the_last_row_of_the_last_file(feast_store, tmp_path, monkeypatch, view, created, file):
    # The first file has more rows, so row numbers alone would prefer it.
    sizes, keys, tables, last = (60_000, 20_000), 500, [], {}
    for number, size in enumerate(sizes):
        rows = np.arange(size) + sum(sizes[:number])
        table = {"place": [f"p{row % keys}" for row in rows], "at": pa.array([START] * size, UTC), "word": ["w"] * size}
        if created is None:
            table |= {"number": np.ones(size, int), "size": rows.astype(float)}
        else:
            table |= {"created": minutes([created[number]] * size), "v": rows}
        tables.append(table)
        if number == file:
            last = dict(zip(table["place"], rows.tolist(), strict=True))
    folder_of(*tables)(tmp_path)
    (opened,) = feast_request.resolve(feast_store, None, [view]).views
    source, path = type(opened.view.batch_source), str(tmp_path / "hourly.parquet")
    monkeypatch.setattr(source, "get_uri_for_file_path", staticmethod(lambda **_: path))
    places = [f"p{number % keys}" for number in range(2_000)]
    events = pa.table({"place": places, "number": np.ones(2_000, int), "time": minutes([5] * 2_000)})
    assert look_up(feast_store, [view], events)[view].to_pylist() == [last[place] for place in places]


def test_sources_in_other_file_systems_are_read_by_arrow(repo, feast_store, monkeypatch):
    write_hourly(repo, [("EWR", 0, 0, 1, "a"), ("EWR", 60, 0, 2, "b"), ("EWR", 60, 0, 3, "c")])
    events = pa.table({"place": ["EWR", "EWR"], "time": minutes([59, 61])})
    (view,) = feast_request.resolve(feast_store, None, ["lasting:value"]).views
    remote = PyFileSystem(FSSpecHandler(LocalFileSystem()))
    monkeypatch.setattr(
        type(view.view.batch_source), "create_filesystem_and_path", staticmethod(lambda path, *_: (remote, path))
    )
    assert not parquet_source.open_source(feast_store, view, events.schema).is_readable_by_duckdb()
    assert look_up(feast_store, "both", events).to_pydict() == {
        "fresh:value": [1, 3], "lasting:value": [1, 3], "lasting:word": ["a", "c"],
    }  # fmt: skip


def test_a_join_that_does_not_fit_into_memory_names_the_setting(repo, feast_store):
    write_hourly(repo, [("EWR", minute, 0, minute, "a") for minute in range(5_000)])
    events = pa.table({"place": ["EWR"] * 5_000, "time": minutes(range(5_000))})
    request = feast_request.resolve(feast_store, None, ["lasting:value"])
    with pytest.raises(FeatureStoreError, match="more memory than its limit of 1KB .*Increase `memory_limit`"):
        list(feast_join.join(feast_store, request, events, "time", memory_limit="1KB"))


@pytest.mark.parametrize("operator", ["<=", "<"])
def test_feature_values_newer_than_their_event_or_too_old_are_refused(repo, feast_store, monkeypatch, operator):
    write_hourly(repo, [("EWR", 0, 0, 1, "a"), ("EWR", 60, 0, 2, "b")])
    real = point_in_time._query

    def wrong(*arguments):
        sql, parameters = real(*arguments)
        if operator == "<=":
            return sql.replace("ROW(e.t, ", "ROW(e.t + 3600000000, "), parameters
        return sql, {**parameters, "ttl_0": 10 * parameters["ttl_0"]}

    events = pa.table({"place": ["EWR", "EWR"], "time": minutes([30, 500 if operator == "<" else 90])})
    look_up(feast_store, ["fresh:value"], events)
    monkeypatch.setattr(point_in_time, "_query", wrong)
    error, message = (
        (LeakageError, "1 values of feature view 'fresh'") if operator == "<=" else (FeatureStoreError, "older")
    )
    with pytest.raises(error, match=message):
        look_up(feast_store, ["fresh:value"], events)


def test_a_view_of_two_entities_is_joined_by_both_keys(repo, feast_store):
    write_twofold(repo, [("EWR", 1, 0, 1), ("EWR", 2, 0, 2), ("JFK", 1, 0, 3)])
    events = pa.table(
        {
            "place": ["EWR", "EWR", "JFK", "JFK", "EWR"],
            "number": pa.array([1, 2, 1, 2, None], pa.int32()),
            "time": minutes([5] * 5),
        }
    )
    found = look_up(feast_store, ["twofold:size"], events)
    assert found["twofold:size"].to_pylist() == [1.0, 2.0, 3.0, None, None]


def build(tmp_path, repo, table, executors=None, **options):
    store = ArtifactStore(f"file://{tmp_path}/store")
    with DatasetWriter(store, "events") as writer:
        writer.write(table)
        entities = writer.commit()[0].ref
    spec = {"name": "set", "entities": entities, "timestamp": "time", "repo": str(repo), "split": None, **options}
    result = run(TrainingSetSpec.model_validate(spec), StepContext(store=store, executors=executors))
    dataset = open_dataset(store, result.dataset)
    return dataset.table(), dataset.manifest.details


@settings(RANDOM, max_examples=8)
@given(
    st.lists(source_rows, min_size=1, max_size=60), st.lists(event_rows, min_size=20, max_size=60), kinds, kinds,
    st.sampled_from(["both", "there"]), st.randoms(use_true_random=False),
)  # fmt: skip
def test_executors_join_what_the_worker_joins(
    repo, tmp_path_factory, rows, events, source_kind, event_kind, service, order
):
    write_exact(repo, rows, source_kind)
    events = events + events[:5]
    order.shuffle(events)
    columns = {"time": micros([at for _, at in events], event_kind)}
    columns |= {name: pa.array([place for place, _ in events], pa.string()) for name in ("place", "from")}
    columns |= {"to": columns["place"][::-1], "late": pa.array([n % 2 for n in range(len(events))])}
    table = pa.table(columns)
    url = f"file://{tmp_path_factory.mktemp('parts')}"
    store = ArtifactStore(url)
    made = []
    for part in (table.slice(0, 15), table.slice(15)):
        with DatasetWriter(store, "events") as writer:
            writer.write(part)
            made.append(writer.commit()[0].ref)
    fields = {"name": "set", "entities": made, "timestamp": "time", "repo": str(repo), "label": "late", "split": "hash"}
    spec = TrainingSetSpec.model_validate({**fields, "feature_service": service})
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread, "BLOCK_ROWS", 4)
        for executors in (LocalExecutors(url), None):
            try:
                found.append(run(spec, StepContext(store=store, executors=executors)))
            except MLOpsError as error:
                found.append((type(error), str(error)))
            if executors is not None:
                assert len({str(part) for part in executors.ran}) > 2 * 3
    assert found[0] == found[1]


def test_a_source_that_changes_between_two_parts_is_not_mixed(repo, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "BLOCK_ROWS", 4)
    write_hourly(repo, [("EWR", 0, 0, 7, "a")])
    changed = []

    def change(part):
        # Of several parts of the join, the second finds other files.
        if isinstance(part, list):
            changed.append(part)
            if len(changed) == 2:
                write_hourly(repo, [("EWR", 0, 0, 8, "longer")])

    events = pa.table({"place": ["EWR"] * 16, "time": minutes(range(16))})
    store = ArtifactStore(f"file://{tmp_path}/store")
    with pytest.raises(FeatureStoreError, match="was changed") as caught:
        build(tmp_path, repo, events, LocalExecutors(store.url, change), features=["lasting:value"])
    assert caught.value.retryable
    # A retry joins all parts with the new file.
    table, _ = build(tmp_path, repo, events, LocalExecutors(store.url), features=["lasting:value"])
    assert set(table["value"].to_pylist()) == {8}


def test_features_that_feast_computes_are_joined_in_the_worker(repo, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "BLOCK_ROWS", 1)
    write_hourly(repo, [("EWR", 0, 0, 7, "a")])
    events = pa.table({"place": ["EWR", "EWR"], "factor": [2, 3], "time": minutes([10, 10])})
    executors = LocalExecutors(f"file://{tmp_path}/store")
    table, _ = build(tmp_path, repo, events, executors, features=["computed:scaled"])
    assert sorted(table["scaled"].to_pylist()) == [14.0, 21.0]
    assert not executors.ran


def test_features_with_one_name_in_two_views_get_the_views_name(repo, tmp_path):
    write_hourly(repo, [("EWR", 0, 0, 7, "a")])
    events = pa.table({"place": ["EWR", "EWR"], "time": minutes([10, 500])})
    table, details = build(tmp_path, repo, events, feature_service="both")
    assert details["features"] == ["fresh__value", "lasting__value", "word"]
    assert details["keys"] == ["place"]
    assert details["feature_refs"] == ["fresh:value", "lasting:value", "lasting:word"]
    assert details["feature_service"] == "both"
    assert table.to_pylist()[1] == {
        "place": "EWR", "time": START + timedelta(minutes=500), "fresh__value": None, "lasting__value": 7, "word": "a",
    }  # fmt: skip


def test_a_service_that_joins_one_view_by_two_columns(repo, tmp_path):
    write_hourly(repo, [("EWR", 0, 0, 7, "a"), ("JFK", 0, 0, 8, "a")])
    events = pa.table({"from": ["EWR", "JFK"], "to": ["JFK", "EWR"], "time": minutes([10, 11])})
    table, details = build(tmp_path, repo, events, feature_service="there")
    assert details["keys"] == ["from", "to"]
    assert details["features"] == ["origin__value", "goal__value"]
    assert (table["origin__value"].to_pylist(), table["goal__value"].to_pylist()) == ([7, 8], [8, 7])


def test_on_demand_features_are_computed_by_feast(repo, tmp_path):
    write_hourly(repo, [("EWR", 0, 0, 7, "a")])
    events = pa.table({"place": ["EWR", "EWR"], "factor": [2, 3], "time": minutes([10, 10])})
    table, details = build(tmp_path, repo, events, features=["computed:scaled", "lasting:word"])
    assert details["features"] == ["scaled", "word"]
    assert sorted(table["scaled"].to_pylist()) == [14.0, 21.0]


def test_integers_with_gaps_stay_integers(repo, tmp_path):
    write_hourly(repo, [("EWR", 0, 0, 2**53 + 1, "a")])
    events = pa.table({"place": ["EWR", "BOS"], "time": minutes([10, 10])})
    table, _ = build(tmp_path, repo, events, features=["lasting:value"])
    assert table["value"].type == pa.int64()
    assert table["value"].to_pylist() == [None, 2**53 + 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_service": "none"}, "no feature service 'none'.*: both, there"),
        ({"features": ["none:value"]}, "no feature view 'none'.*: computed, fresh, lasting, twofold"),
        ({"features": ["fresh:none"]}, "'fresh' has no feature 'none'.*: value, word"),
        ({"features": ["value"]}, "'value' is not a reference to a feature.*`view:feature`"),
    ],
)
def test_for_a_missing_name_the_error_lists_the_existing_ones(repo, tmp_path, options, message):
    events = pa.table({"place": ["EWR"], "time": minutes([10])})
    with pytest.raises(FeatureStoreError, match=message):
        build(tmp_path, repo, events, **options)


def test_join_keys_of_different_types_are_refused(repo, tmp_path):
    write_hourly(repo, [("EWR", 0, 0, 7, "a")])
    with pytest.raises(FeatureStoreError, match="Join key 'place' is int64 in the events, but string in the source"):
        build(tmp_path, repo, pa.table({"place": [1], "time": minutes([10])}), features=["fresh:value"])


def test_a_source_without_its_file_is_named(repo, tmp_path):
    (repo / "hourly.parquet").rename(repo / "gone.parquet")
    try:
        with pytest.raises(FeatureStoreError, match=r"source of feature view 'fresh', hourly.parquet, cannot be read"):
            build(tmp_path, repo, pa.table({"place": ["EWR"], "time": minutes([10])}), features=["fresh:value"])
    finally:
        (repo / "gone.parquet").rename(repo / "hourly.parquet")


def test_many_events_against_many_rows_come_in_slices_that_keep_the_order(repo, feast_store):
    # 3 places, a quarter of hours on both sides: 14 million pairs, if they were all compared.
    hours = 24 * 91
    write_hourly(repo, [(place, 60 * hour, 0, hour, "w") for place in ("EWR", "JFK", "LGA") for hour in range(hours)])
    events = pa.table(
        {
            "place": ["EWR", "JFK", "LGA"] * hours,
            "time": minutes([60 * hour + 30 for hour in range(hours) for _ in range(3)]),
        }
    )
    found = look_up(feast_store, ["lasting:value"], events)
    assert found["lasting:value"].to_pylist() == [hour for hour in range(hours) for _ in range(3)]


KINDS = """
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
source = FileSource(name="kinds", path="kinds.parquet", timestamp_field="at")
kinds = FeatureView(name="kinds", entities=[place], source=source, schema=[
    Field(name="place", dtype=String), Field(name="category", dtype=String), Field(name="code", dtype=Int64),
    Field(name="half", dtype=Float32), Field(name="small", dtype=Int32), Field(name="price", dtype=Float64),
    Field(name="flag", dtype=Bool), Field(name="seen", dtype=UnixTimestamp), Field(name="numbers", dtype=Array(Int64)),
    Field(name="words", dtype=Array(String)), Field(name="vector", dtype=Array(Float32)),
])
numbers = FeatureView(name="numbers", entities=[number], source=source, schema=[
    Field(name="number", dtype=Int64), Field(name="small", dtype=Int32),
])
opaque = FeatureView(name="opaque", entities=[place], source=source, schema=[
    Field(name="place", dtype=String), Field(name="bytes", dtype=Bytes),
])
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "feature_store.yaml").write_text(FEATURE_STORE)
    (folder / "definitions.py").write_text(KINDS)
    table = pa.table(
        {
            "place": pa.array(["EWR", "JFK"]).dictionary_encode(),
            "number": pa.array([2**53, 2**53 + 1], pa.uint64()),
            "category": pa.array(["a", "b"]).dictionary_encode(),
            "code": pa.array([1, 2], pa.int16()).dictionary_encode(),
            "half": pa.array(np.array([0.5, 1.5], np.float16)),
            "small": pa.array([1, 2], pa.uint8()),
            "price": [Decimal("12.30"), Decimal("0.10")],
            "flag": [True, None],
            "seen": pa.array([1_500_000_000_123_456_000, None], pa.timestamp("ns")),
            "numbers": pa.array([[1, 2], None], pa.list_(pa.int32())),
            "words": [["x", None], []],
            "vector": pa.array([[0.5, 1.5], [2.5, 3.5]], pa.list_(pa.float64(), 2)),
            "bytes": [b"x", b"y"],
            "at": minutes([0, 0]),
        }
    )
    pq.write_table(table, folder / "kinds.parquet")
    store = feast_repo.open_store(str(folder))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    return store


def test_features_of_all_types_with_gaps_have_the_types_that_the_view_declares(kinds):
    names = ["category", "code", "half", "small", "price", "flag", "seen", "numbers", "words", "vector"]
    events = pa.table({"place": ["EWR", "BOS", "JFK"], "time": minutes([10, 10, 10])})
    found = look_up(kinds, [f"kinds:{name}" for name in names], events)
    seen = datetime(2017, 7, 14, 2, 40, 0, 123456, timezone.utc)
    assert {name: found[f"kinds:{name}"].to_pylist() for name in names} == {
        "category": ["a", None, "b"], "code": [1, None, 2], "half": [0.5, None, 1.5], "small": [1, None, 2],
        "price": [12.3, None, 0.1], "flag": [True, None, None], "seen": [seen, None, None],
        "numbers": [[1, 2], None, None], "words": [["x", None], None, []],
        "vector": [[0.5, 1.5], None, [2.5, 3.5]],
    }  # fmt: skip
    assert [str(kind) for kind in found.schema.types] == [
        "string", "int64", "float", "int32", "double", "bool", "timestamp[us, tz=UTC]", "list<item: int64>",
        "list<item: string>", "list<item: float>",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([2**53 + 1, None, 2**53], pa.uint64()),
        pa.array([2**53 + 1, None, 2**53]),
        pa.array([Decimal(2**53 + 1), None, Decimal(2**53)], pa.decimal128(38, 0)),
    ],
)
def test_ids_are_joined_exactly(kinds, keys):
    events = pa.table({"number": keys, "time": minutes([10, 10, 10])})
    assert look_up(kinds, ["numbers:small"], events)["numbers:small"].to_pylist() == [2, None, 1]


FRACTIONS = pa.decimal128(38, 30)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (pa.array([1, 10**12]), pa.array([Decimal(1), Decimal("1.5")], FRACTIONS), [1, None]),
        (pa.array([Decimal(1), Decimal("1.5")], FRACTIONS), pa.array([1, 10**12]), [1, None]),
        (
            pa.array([Decimal(1), Decimal("1.5")], FRACTIONS),
            pa.array([Decimal("1.50"), Decimal("123456789012.25")], pa.decimal128(20, 2)),
            [2, None],
        ),
        (pa.array([1, 2**64 - 1], pa.uint64()), pa.array([Decimal(2**64 - 1), None], pa.decimal128(38, 1)), [2, None]),
    ],
    ids=["decimal events", "decimal source", "two decimals", "uint64"],
)
# DuckDB joins up to 64 events by another algorithm.
@pytest.mark.parametrize("times", [1, 70])
def test_keys_that_do_not_fit_into_the_type_of_the_other_keys_match_no_row(
    kinds, tmp_path, monkeypatch, own, other, expected, times
):
    pq.write_table(pa.table({"number": own, "small": [1, 2], "at": minutes([0, 0])}), tmp_path / "a.parquet")
    (view,) = feast_request.resolve(kinds, None, ["numbers:small"]).views
    source = type(view.view.batch_source)
    monkeypatch.setattr(source, "get_uri_for_file_path", staticmethod(lambda **_: str(tmp_path / "a.parquet")))
    events = pa.concat_tables([pa.table({"number": other, "time": minutes([10, 10])})] * times)
    assert look_up(kinds, ["numbers:small"], events)["numbers:small"].to_pylist() == expected * times


def test_decimals_with_more_digits_than_duckdb_has_are_refused(kinds, tmp_path, monkeypatch):
    wide = pa.array([Decimal(1)], pa.decimal256(50, 2))
    (view,) = feast_request.resolve(kinds, None, ["numbers:small"]).views
    source = type(view.view.batch_source)
    monkeypatch.setattr(source, "get_uri_for_file_path", staticmethod(lambda **_: str(tmp_path / "a.parquet")))
    for column in ("number", "small"):
        table = {"number": pa.array([1]), "small": pa.array([1]), "at": minutes([0]), column: wide}
        pq.write_table(pa.table(table), tmp_path / "a.parquet")
        with pytest.raises(FeatureStoreError, match=rf"Column '{column}' .* is decimal256\(50, 2\), but DuckDB"):
            look_up(kinds, ["numbers:small"], pa.table({"number": [1], "time": minutes([10])}))


def test_feasts_offline_store_gets_exact_ids(kinds):
    # Feast itself would compare int64 and uint64 as doubles.
    events = pa.table({"number": pa.array([2**53 + 1, None, 2**53], pa.uint64()), "time": minutes([10, 10, 10])})
    (view,) = feast_request.resolve(kinds, None, ["numbers:small"]).views
    with offline_store.look_up(kinds, view, events, "time") as features:
        found = features["numbers:small"]
    assert found.to_pylist() == [2, None, 1]


def test_a_type_without_an_arrow_equivalent_is_named(kinds):
    with pytest.raises(FeatureStoreError, match="'bytes' of feature view 'opaque' has the type Bytes"):
        look_up(kinds, ["opaque:bytes"], pa.table({"place": ["EWR"], "time": minutes([10])}))


@pytest.fixture
def computed(tmp_path) -> FeatureStore:
    """A repository with a batch and a stream feature view that have a function."""
    view = """
from feast import BatchFeatureView, PushSource, StreamFeatureView
computed_by = dict(
    entities=[place], schema=[Field(name="value", dtype=Int64)], mode="pandas", online=True, udf=lambda frame: frame * 2,
    udf_string="",
)
doubled = BatchFeatureView(name="doubled", source=hourly, **computed_by)
pushed = PushSource(name="pushed", batch_source=hourly)
streamed = StreamFeatureView(name="streamed", source=pushed, timestamp_field="at", **computed_by)
"""
    (tmp_path / "feature_store.yaml").write_text(FEATURE_STORE)
    write_hourly(tmp_path, [("EWR", 0, 0, 1, "a")])
    write_twofold(tmp_path, [("EWR", 1, 0, 1)])
    (tmp_path / "definitions.py").write_text(textwrap.dedent(DEFINITIONS) + view)
    store = feast_repo.open_store(str(tmp_path))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    return store


def test_features_that_only_a_materialization_computes_are_refused(computed, tmp_path):
    def source(feature):
        return FeatureSource(
            TrainingSetSpec(name="n", entities="e", timestamp="at", repo=str(tmp_path), features=[feature])
        )

    def serve():
        training = SimpleNamespace(details={})
        columns = SimpleNamespace(features=[], carried={})
        return OnlineFeatures(str(tmp_path))._plan(training, columns, {"value": "streamed:value"})

    with pytest.raises(FeatureStoreError, match="'doubled' has a function"):
        source("doubled:value")
    # What a stream has computed is in the batch source. Feast would apply the function again.
    source("streamed:value")
    serve()
    view = computed.get_stream_feature_view("streamed")
    computed.registry.apply_materialization(view, computed.project, START, START + timedelta(days=1))
    for refused in (partial(source, "streamed:value"), serve):
        with pytest.raises(FeatureStoreError, match="'streamed' has a function"):
            refused()


def test_a_stream_feature_view_with_a_function_is_not_materialized(computed, tmp_path):
    # A model that was trained before would get other values.
    window = Window(start=START, end=START + timedelta(days=1))
    spec = MaterializeFeaturesSpec(repo=str(tmp_path), window=window, apply=False, feature_views=["streamed"])
    with pytest.raises(FeatureStoreError, match="'streamed' has a function"):
        materialize_features.run(spec, StepContext(ArtifactStore(f"file://{tmp_path}/store"), key="results/x.json"))
    assert {"doubled", "streamed"} & {*materialize_features._views(computed, None)} == {"doubled"}


def test_the_content_of_features_changes_with_definitions_and_files_only(tmp_path):
    def described(**spec):
        features = {"features": ["lasting:value", "computed:scaled"], **spec}
        made = TrainingSetSpec(name="n", entities="e", timestamp="at", repo=str(tmp_path), **features)
        return FeatureSource(made).content()

    def applied(definitions):
        (tmp_path / "definitions.py").write_text(textwrap.dedent(definitions))
        store = feast_repo.open_store(str(tmp_path))
        feast_repo.apply(store, feast_repo.parse_repo(store))

    (tmp_path / "feature_store.yaml").write_text(FEATURE_STORE)
    write_hourly(tmp_path, [("EWR", 0, 0, 1, "a")])
    write_twofold(tmp_path, [("EWR", 1, 0, 1)])
    applied(DEFINITIONS)
    first = described()
    # Applying again changes the registry. The other source belongs to no requested feature.
    applied(DEFINITIONS)
    write_twofold(tmp_path, [("EWR", 1, 0, 2)])
    assert described() == first
    assert described(features=["lasting:value"]) != first
    write_hourly(tmp_path, [("EWR", 0, 0, 2, "a")])
    second = described()
    applied(
        DEFINITIONS.replace('name="lasting", entities=[place],', 'name="lasting", entities=[place], ttl=timedelta(1),')
    )
    third = described()
    applied(DEFINITIONS.replace("* 1.0", "* 2.0"))
    assert len({json.dumps(item) for item in (first, second, third, described())}) == 4


def test_code_that_an_on_demand_view_imports_counts(tmp_path, monkeypatch):
    repo, elsewhere = tmp_path / "repo", tmp_path / "elsewhere"
    repo.mkdir()
    elsewhere.mkdir()
    monkeypatch.syspath_prepend(elsewhere)
    (repo / "feature_store.yaml").write_text(FEATURE_STORE)
    write_hourly(repo, [("EWR", 0, 0, 1, "a")])
    write_twofold(repo, [("EWR", 1, 0, 1)])
    (elsewhere / "company_rates.py").write_text("RATE = 2.0\n")
    definitions = DEFINITIONS.replace("    return pd", "    from company_rates import RATE\n    return pd").replace(
        "1.0", "RATE"
    )
    (repo / "definitions.py").write_text(definitions)
    store = feast_repo.open_store(str(repo))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    request = feast_request.resolve(store, None, ["computed:scaled"])
    first = content.describe(store, request)
    assert content.describe(store, request) == first
    (elsewhere / "company_rates.py").write_text("RATE = 3.0\n")
    assert content.describe(store, request) != first
    (repo / "definitions.py").write_text("")
    with pytest.raises(NotCacheableError, match="'computed'"):
        content.describe(store, request)


def test_a_function_that_feast_runs_from_its_pickle_counts_with_the_pickle(tmp_path):
    # The source text of the function cannot run alone, because the rate is defined outside of it.
    changed = DEFINITIONS.replace("inputs: pd.DataFrame)", "inputs: pd.DataFrame, rate=RATE)")
    found = []
    for rate in (2.0, 3.0):
        folder = tmp_path / str(rate)
        folder.mkdir()
        (folder / "feature_store.yaml").write_text(FEATURE_STORE)
        write_hourly(folder, [("EWR", 0, 0, 1, "a")])
        write_twofold(folder, [("EWR", 1, 0, 1)])
        (folder / "definitions.py").write_text(changed.replace("asked = ", f"RATE = {rate}\nasked = "))
        store = feast_repo.open_store(str(folder))
        feast_repo.apply(store, feast_repo.parse_repo(store))
        # A worker may have another copy of the repository, without the definitions.
        (folder / "definitions.py").unlink()
        view = feast_repo.open_store(str(folder)).get_on_demand_feature_view("computed")
        found.append(content._definition(view))
    assert found[0] != found[1]


def test_sources_without_a_hash_are_not_cached(feast_store, monkeypatch):
    request = feast_request.resolve(feast_store, None, ["lasting:value"])
    monkeypatch.setattr(parquet_source, "is_parquet", lambda *_: False)
    with pytest.raises(NotCacheableError, match="feature view 'lasting' does not consist of Parquet"):
        content.describe(feast_store, request)
