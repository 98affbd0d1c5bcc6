"""Feast's features at the time of each event: never newer, never older than their time to live, for every event."""

from __future__ import annotations

import textwrap
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import FeatureStoreError, LeakageError
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.feast import files as feast_files
from airflow_mlops.data.feast import join as feast_join
from airflow_mlops.data.feast import point_in_time as feast_point_in_time
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast import request as feast_request
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.training_set.step import run
from tests.support.feature_repo import FEATURE_STORE

START = datetime(2013, 1, 1, tzinfo=timezone.utc)
UTC = pa.timestamp("us", "UTC")
TTL = timedelta(minutes=150)

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
    pq.write_table(
        pa.table(
            {"place": ["EWR", "EWR", "JFK"], "number": [1, 2, 1], "at": pa.array([START] * 3, UTC), "size": [1.0, 2, 3]}
        ),
        folder / "twofold.parquet",
    )
    store = feast_repo.open_store(str(folder))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    return folder


@pytest.fixture(scope="module")
def feast_store(repo):
    return feast_repo.open_store(str(repo))


def minutes(values):
    return pa.array([START + timedelta(minutes=value) for value in values], UTC)


def write_hourly(folder, rows):
    places, at, created, values, words = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 5
    table = pa.table(
        {
            "place": pa.array(places, pa.string()),
            "at": minutes(at),
            "created": minutes(created),
            "v": pa.array(values, pa.int64()),
            "word": pa.array(words, pa.string()),
        }
    )
    pq.write_table(table, folder / "hourly.parquet", row_group_size=7)


def known(rows, place, minute, ttl):
    """By hand: the newest row at or before the event, of equally new ones that created last, if it is young enough."""
    candidates = [
        (at, created, position)
        for position, (row_place, at, created, _, _) in enumerate(rows)
        if place is not None and row_place == place and at <= minute and (ttl is None or minute - at <= ttl)
    ]
    return rows[max(candidates)[2]] if candidates else None


# Coarse, so that rows tie and ages fall exactly on the time to live.
moments = st.integers(0, 20).map(lambda n: 30 * n)
places = st.sampled_from(["EWR", "JFK", "LGA"])
source_rows = st.lists(
    st.tuples(
        places,
        moments,
        st.integers(0, 3),
        st.one_of(st.none(), st.integers(2**53, 2**53 + 9)),
        st.text("xyz", max_size=2),
    ),
    max_size=60,
)
event_rows = st.lists(
    st.tuples(st.one_of(st.none(), places, st.just("BOS")), st.integers(-2, 24).map(lambda n: 30 * n)),
    min_size=1,
    max_size=60,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source_rows, event_rows, st.sampled_from([5, 100, feast_point_in_time.PAIRS]))
def test_every_event_gets_what_a_join_by_hand_finds(repo, feast_store, rows, events, pairs):
    write_hourly(repo, rows)
    table = pa.table(
        {"place": pa.array([place for place, _ in events], pa.string()), "time": minutes([at for _, at in events])}
    )
    request = feast_request.resolve(feast_store, "both", None)
    with pytest.MonkeyPatch.context() as patch:
        # The fewer pairs at once, the more pieces.
        patch.setattr(feast_point_in_time, "PAIRS", pairs)
        found = feast_join.join(feast_store, request, table, "time")
    assert list(found) == ["fresh:value", "lasting:value", "lasting:word"]
    for position, (place, minute) in enumerate(events):
        young, old = known(rows, place, minute, 150), known(rows, place, minute, None)
        assert found["fresh:value"][position].as_py() == (young and young[3])
        assert found["lasting:value"][position].as_py() == (old and old[3])
        assert found["lasting:word"][position].as_py() == (old and old[4])


def test_the_age_of_a_feature_may_reach_but_not_pass_its_time_to_live(repo, feast_store):
    write_hourly(repo, [("EWR", 0, 0, 7, "a")])
    times = minutes([0, 150]).cast(pa.int64()).to_pylist()
    events = pa.table(
        {"place": ["EWR"] * 4, "time": pa.array([times[0] - 1, times[0], times[1], times[1] + 1], pa.int64()).cast(UTC)}
    )
    found = feast_join.join(feast_store, feast_request.resolve(feast_store, None, ["fresh:value"]), events, "time")
    assert found["fresh:value"].to_pylist() == [None, 7, 7, None]


def test_of_two_rows_with_the_same_time_the_one_created_last_counts(repo, feast_store):
    write_hourly(repo, [("EWR", 0, 9, 2, "late"), ("EWR", 0, 5, 1, "early")])
    events = pa.table({"place": ["EWR"], "time": minutes([20])})
    found = feast_join.join(feast_store, feast_request.resolve(feast_store, None, ["fresh:word"]), events, "time")
    assert found["fresh:word"].to_pylist() == ["late"]


def test_feast_asked_directly_gives_the_same_where_it_answers_at_all(repo, feast_store):
    write_hourly(repo, [(place, at, 0, at, "w") for place in ("EWR", "JFK") for at in range(0, 600, 60)])
    import pandas as pd

    frame = pd.DataFrame(
        {
            "place": ["EWR", "JFK"] * 20,
            "event_timestamp": [START + timedelta(minutes=13 * n) for n in range(40)],
            "n": range(40),
        }
    )
    direct = feast_store.get_historical_features(entity_df=frame, features=["fresh:value"]).to_df()
    events = pa.table({"place": list(frame["place"]), "time": minutes([13 * n for n in range(40)])})
    request = feast_request.resolve(feast_store, None, ["fresh:value"])
    found = feast_join.join(feast_store, request, events, "time")["fresh:value"].to_pylist()
    assert direct.set_index("n")["value"].to_dict() == dict(enumerate(found))
    # And so does the way that other offline stores are asked.
    (view,) = request.views
    other = feast_join._from_store(feast_store, view, events, "time")["value"].to_pylist()
    assert other == found


def test_an_offline_store_is_asked_for_distinct_events_and_answers_for_all(repo, feast_store):
    write_hourly(repo, [("EWR", 0, 0, 7, "a")])
    events = pa.table({"place": ["EWR", None, "EWR", "BOS", "EWR"], "time": minutes([10, 10, 10, 10, 20])})
    (view,) = feast_request.resolve(feast_store, None, ["lasting:value"]).views
    assert feast_join._from_store(feast_store, view, events, "time")["value"].to_pylist() == [7, None, 7, None, 7]


def test_a_wrong_answer_of_feast_would_be_found_out(repo, feast_store, monkeypatch):
    write_hourly(repo, [("EWR", 0, 0, 1, "a"), ("EWR", 60, 0, 2, "b")])
    events = pa.table({"place": ["EWR", "EWR"], "time": minutes([30, 90])})
    request = feast_request.resolve(feast_store, None, ["lasting:value"])
    monkeypatch.setattr(feast_files, "known_rows", lambda *_: np.array([0, 1]))
    assert feast_join.join(feast_store, request, events, "time")["lasting:value"].to_pylist() == [1, 2]
    monkeypatch.setattr(feast_files, "known_rows", lambda *_: np.array([1, 1]))
    with pytest.raises(LeakageError, match="1 values of feature view 'lasting' are newer than their events"):
        feast_join.join(feast_store, request, events, "time")
    request = feast_request.resolve(feast_store, None, ["fresh:value"])
    monkeypatch.setattr(feast_files, "known_rows", lambda *_: np.array([0, 0]))
    with pytest.raises(FeatureStoreError, match="older than its ttl"):
        feast_join.join(feast_store, request, events.set_column(1, "time", minutes([30, 151])), "time")


def test_a_view_of_two_entities_is_joined_by_both_keys(repo, feast_store):
    events = pa.table(
        {
            "place": ["EWR", "EWR", "JFK", "JFK", "EWR"],
            "number": pa.array([1, 2, 1, 2, None], pa.int32()),
            "time": minutes([5] * 5),
        }
    )
    found = feast_join.join(feast_store, feast_request.resolve(feast_store, None, ["twofold:size"]), events, "time")
    assert found["twofold:size"].to_pylist() == [1.0, 2.0, 3.0, None, None]


def build(tmp_path, repo, table, **options):
    store = ArtifactStore(f"file://{tmp_path}/store")
    with DatasetWriter(store, "events") as writer:
        writer.write(table)
        entities = writer.commit()[0].ref
    spec = {"name": "set", "entities": entities, "timestamp": "time", "repo": str(repo), "split": None, **options}
    result = run(TrainingSetSpec.model_validate(spec), StepContext(store=store))
    dataset = open_dataset(store, result.dataset)
    return dataset.table(), dataset.manifest.details


def test_features_of_one_name_keep_their_views_apart(repo, tmp_path):
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


def test_whole_numbers_with_gaps_stay_whole_numbers(repo, tmp_path):
    write_hourly(repo, [("EWR", 0, 0, 2**53 + 1, "a")])
    events = pa.table({"place": ["EWR", "BOS"], "time": minutes([10, 10])})
    table, _ = build(tmp_path, repo, events, features=["lasting:value"])
    assert table["value"].type == pa.int64()
    assert table["value"].to_pylist() == [None, 2**53 + 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_service": "none"}, "no feature service 'none': it has both, there"),
        ({"features": ["none:value"]}, "no feature view 'none': it has computed, fresh, lasting, twofold"),
        ({"features": ["fresh:none"]}, "'fresh' has no feature 'none': it has value, word"),
        ({"features": ["value"]}, "'value' is not a feature: write it as view:feature"),
    ],
)
def test_what_the_repository_does_not_have_is_named_with_what_it_has(repo, tmp_path, options, message):
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


def test_many_events_against_many_rows_are_joined_in_pieces(repo, feast_store):
    # 3 places, a quarter of hours on both sides: 14 million pairs, if they were all compared.
    hours = 24 * 91
    write_hourly(repo, [(place, 60 * hour, 0, hour, "w") for place in ("EWR", "JFK", "LGA") for hour in range(hours)])
    events = pa.table(
        {
            "place": ["EWR", "JFK", "LGA"] * hours,
            "time": minutes([60 * hour + 30 for hour in range(hours) for _ in range(3)]),
        }
    )
    found = feast_join.join(feast_store, feast_request.resolve(feast_store, None, ["lasting:value"]), events, "time")
    assert found["lasting:value"].to_pylist() == [hour for hour in range(hours) for _ in range(3)]
