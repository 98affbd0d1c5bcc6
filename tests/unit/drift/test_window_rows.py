"""Schema changes, labels and freshness of a window."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.windows import Window
from airflow_mlops.drift.freshness import freshness
from airflow_mlops.drift.schema import added, changes
from airflow_mlops.profiles.labels import labels
from airflow_mlops.profiles.profile import profile

TRAINED = pa.table({"distance": [1.0, 2.0], "carrier": ["AA", "B6"], "weekend": [True, False]})
TYPES = {field.name: str(field.type) for field in TRAINED.schema}
FEATURES = profile(TRAINED.to_batches()).columns


def changed(*columns, trained=TYPES) -> list[tuple[str, bool]]:
    schemas = [
        pa.schema({**dict(zip(TRAINED.schema.names, TRAINED.schema.types, strict=True)), **item}) for item in columns
    ]
    return [(str(item), item.compared) for item in changes(FEATURES, trained, schemas)]


def test_encodings_are_not_schema_changes():
    assert changed({}, {"carrier": pa.dictionary(pa.int32(), pa.string())}) == []
    assert changed({}, trained={**TYPES, "carrier": "dictionary<values=string, indices=int32, ordered=0>"}) == []
    # A column without any value may have the null type.
    assert changed({"carrier": pa.null()}) == []


@pytest.mark.parametrize(
    ("columns", "change", "compared"),
    [
        ({"distance": pa.int64()}, "distance changed from double to int64", True),
        ({"distance": pa.string()}, "distance changed from double to string", False),
        ({"carrier": pa.list_(pa.int8())}, "carrier changed from string to list<item: int8>", False),
        ({"weekend": pa.int64()}, "weekend changed from bool to int64", False),
    ],
)
def test_a_changed_type_is_reported_with_whether_it_is_compared(columns, change, compared):
    assert changed(columns) == [(change, compared)]


def test_differing_parts_of_a_window_are_reported():
    assert changed({}, {"distance": pa.string()}) == [("distance changed from double to double and string", False)]


def test_a_feature_missing_in_any_part_is_gone():
    whole, part = TRAINED.schema, TRAINED.drop_columns("carrier").schema
    (gone,) = changes(FEATURES, TYPES, [whole, part])
    assert (str(gone), gone.compared, gone.now) == ("carrier is absent", False, None)


def test_without_training_types_kinds_are_compared():
    assert changed({"distance": pa.int64()}, trained={}) == []
    assert changed({"distance": pa.string()}, trained={}) == [("distance changed from numeric to string", False)]


def test_new_columns_are_reported_except_those_of_scoring():
    schemas = [TRAINED.schema.append(pa.field("score", pa.float64())).append(pa.field("gate", pa.string()))]
    assert [str(item) for item in added(TYPES, schemas * 2, ["score"])] == ["gate is new"]


def contract(task: str, classes: list) -> ModelContract:
    return ModelContract(task=task, label="y", features=[], classes=classes, dataset_name="d", dataset_id="0")


@pytest.mark.parametrize(
    "values",
    [[True, False, True], [1, 0, 1], [1.0, 0.0, 1.0], pa.array([1, 0, 1]).dictionary_encode()],
    ids=["booleans", "integers", "floats", "dictionary"],
)
def test_classes_are_equal_in_every_notation(values):
    data = pa.table({"label": values})
    (found,) = labels(data.to_batches(), contract("binary", [0, 1]))
    assert found.column("label").to_pylist() == ["1", "0", "1"]


def test_rows_without_a_label_are_left_out_and_unknown_classes_are_not():
    data = pa.table({"label": pa.array([1.0, None, float("nan"), 7.0])})
    (found,) = labels(data.to_batches(), contract("binary", [0, 1]))
    assert found.column("label").to_pylist() == ["1", "7.0"]
    (found,) = labels(data.to_batches(), contract("regression", []))
    assert found.column("label").to_pylist() == [1.0, 7.0]
    (found,) = labels(pa.table({"label": np.array([1, 2])}).to_batches(), contract("regression", []))
    assert found.schema.field("label").type == pa.float64()


APRIL = Window.model_validate("2013-04")


def test_the_newest_row_of_all_batches_is_found():
    times = [datetime(2013, 4, day, 12, tzinfo=timezone.utc) for day in (3, 29, 7)]
    data = pa.table({"time_hour": times, "scored_at": [item + timedelta(days=1) for item in times]})
    found = freshness(data.to_batches(1), "time_hour", APRIL)
    assert (found.newest_event, found.newest_score) == (times[1], times[1] + timedelta(days=1))
    assert found.behind_days == 1.5
    assert found.age(times[1] + timedelta(days=2)) == timedelta(days=2)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([date(2013, 4, 16), None]),
        pa.array([datetime(2013, 4, 16)]),
        pa.array([datetime(2013, 4, 16)], pa.timestamp("ns", "America/New_York")).cast(pa.timestamp("s", "UTC")),
        pa.array([1_366_070_400_000_000_001, -1], pa.int64()).cast(pa.timestamp("ns")),
        pa.array(["2013-04-16 06:30:00+00", "2013-04-15T23:59:59", "20130416"]),
    ],
    ids=["dates", "without zone", "seconds", "nanoseconds", "text"],
)
def test_times_of_any_type_are_read(column):
    found = freshness(pa.table({"day": column}).to_batches(), "day", APRIL)
    assert found.newest_event.date() == date(2013, 4, 16)
    assert found.newest_score is None


@pytest.mark.parametrize(
    "data", [pa.table({"hour": [1, 2]}), pa.table({"hour": pa.nulls(2, pa.timestamp("us"))}), pa.table({"hour": []})]
)
def test_without_times_there_is_no_freshness(data):
    assert freshness(data.to_batches(), "hour", APRIL) is None


def test_the_newest_row_may_be_of_the_year_9999_and_the_error_names_text_that_is_not_a_time():
    found = freshness(pa.table({"day": [date(9999, 12, 31), date(1, 1, 1)]}).to_batches(), "day", APRIL)
    assert found.newest_event == datetime(9999, 12, 31, tzinfo=timezone.utc)
    # As text, the 30th of September would be the newest.
    with pytest.raises(SchemaError, match="'day' .*'9/30/2013'"):
        freshness(pa.table({"day": ["9/30/2013", "10/2/2013"]}).to_batches(), "day", APRIL)
