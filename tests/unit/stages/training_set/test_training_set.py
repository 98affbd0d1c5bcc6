"""Training sets from the events' own columns: labels, order, parts and refusals."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.errors import EmptyWindowError, LeakageError, SchemaError, SpecError, TrainingError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.training_set import files
from airflow_mlops.stages.training_set.labels import LabelValues, infer_task, positive_class
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.training_set.step import run
from tests.support.one_duckdb import one_duckdb  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_duckdb")

START = datetime(2013, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}")


def events(rows=200, seed=0):
    rng = random.Random(seed)
    return pa.table(
        {
            "flight": pa.array(range(rows)),
            "tailnum": [f"N{i % 40}" for i in range(rows)],
            "time_hour": [(START + timedelta(hours=i // 3)).strftime("%Y-%m-%dT%H:%M:%SZ") for i in range(rows)],
            "hour": [(i // 3) % 24 for i in range(rows)],
            "distance": [rng.random() * 1000 for _ in range(rows)],
            "arr_delay": pa.array([rng.randint(-30, 60) if i % 20 else None for i in range(rows)], pa.int64()),
        }
    )


def write(store, table, name="flights", window=None):
    with DatasetWriter(store, name) as writer:
        writer.write(table)
        return writer.commit(window=window)[0].ref


def build(store, entities, **options):
    defaults = {
        "name": "training",
        "timestamp": "time_hour",
        "columns": ["hour", "distance"],
        "keys": ["flight", "tailnum"],
        "label": {"name": "late", "expression": "arr_delay > 15"},
    }
    spec = parse(TrainingSetSpec, {**defaults, "entities": entities, **options}, "The step")
    return run(spec, StepContext(store=store))


def details(store, result):
    return open_dataset(store, result.dataset).manifest.details


def test_a_training_set_holds_keys_time_features_and_label_in_two_parts(store):
    entities = write(store, events(), window=Window.model_validate("2013-01"))
    result = build(store, entities, owner="me", description="why")
    assert result.rows == result.dataset.parts == {"train": 133, "test": 57}
    assert result.dropped == 10
    dataset = open_dataset(store, result.dataset)
    assert dataset.manifest.parents == [entities.id]
    assert dataset.manifest.window == Window.model_validate("2013-01")
    assert (dataset.manifest.owner, dataset.manifest.description) == ("me", "why")
    table = dataset.table()
    assert table.schema == pa.schema(
        [("flight", "int64"), ("tailnum", "string"), ("time_hour", pa.timestamp("us", "UTC")), ("hour", "int64"),
         ("distance", "float64"), ("late", "int64")]
    )  # fmt: skip
    raw = {row["flight"]: row for row in events().to_pylist()}
    for row in table.to_pylist():
        assert row["late"] == (raw[row["flight"]]["arr_delay"] > 15)
        assert row["distance"] == raw[row["flight"]]["distance"]
    found = dataset.manifest.details
    assert {name: found[name] for name in ("label", "task", "features", "timestamp", "keys", "feature_refs")} == {
        "label": "late",
        "task": "binary",
        "features": ["hour", "distance"],
        "timestamp": "time_hour",
        "keys": ["flight", "tailnum"],
        "feature_refs": [],
    }
    assert found["split"]["overlap"] == 0
    assert found["single_feature"]["scores"].keys() == {"hour", "distance"}
    share = pc.mean(table["late"]).as_py()
    assert result.positive_rate == pytest.approx(share, abs=1e-6)
    assert f"{share:.1%} positive; 10 rows without a label were left out." in result.summary


def test_watched_columns_are_kept_and_are_neither_features_nor_part_of_a_rows_identity(store):
    table = events().append_column("note", pa.array([f"note {number}" for number in range(200)]))
    vectors = pa.array([[number, 1.0] for number in range(200)], pa.list_(pa.float32()))
    entities = write(store, table.append_column("vector", vectors))
    for keys in (["flight", "tailnum"], []):
        plain, watched = (build(store, entities, keys=keys, watched=names) for names in ([], ["note", "vector"]))
        kept, other = (open_dataset(store, result.dataset).table("test") for result in (watched, plain))
        assert set(kept.column_names) - set(other.column_names) == {"note", "vector"}
        assert kept.select(other.column_names) == other
        assert details(store, watched) == details(store, plain)
    with pytest.raises(SpecError, match="label 'note' is also in `watched`"):
        build(store, entities, label="note", watched=["note"])


def test_the_same_events_in_any_order_give_the_same_dataset(store):
    table = events()
    order = list(range(table.num_rows))
    random.Random(1).shuffle(order)
    one = build(store, write(store, table, "events"))
    other = build(store, write(store, table, "events"))
    assert one.dataset == other.dataset
    shuffled = build(store, write(store, table.take(order), "events"))
    hashes = [[file.sha256 for file in open_dataset(store, r.dataset).manifest.files] for r in (one, shuffled)]
    assert hashes[0] == hashes[1]


def test_windows_of_a_name_are_joined_in_order(store):
    january, february = (Window.model_validate(f"2013-0{month}") for month in (1, 2))
    later = events().set_column(2, "time_hour", pa.array(["2013-02-03T04:00:00Z"] * 200))
    refs = [write(store, later, window=february), write(store, events(), window=january)]
    result = build(store, {"name": "flights", "window": "2013-01..2013-02"}, split=None)
    assert result.dataset.window == Window.model_validate("2013-01/2013-03")
    assert open_dataset(store, result.dataset).manifest.parents == [refs[1].id, refs[0].id]
    times = open_dataset(store, result.dataset).table()["time_hour"].to_pylist()
    assert times == sorted(times)
    assert len(times) == 380


def test_without_label_and_split_it_is_a_scoring_set_with_every_row(store):
    result = build(store, write(store, events()), label=None, split=None)
    assert result.rows == {"data": 200}
    assert (result.label, result.task, result.dropped, result.positive_rate) == (None, None, 0, None)
    assert details(store, result)["label"] is None
    assert details(store, result)["split"] is None
    assert "late" not in open_dataset(store, result.dataset).table().column_names


def test_split_parts_of_many_rows_are_several_files_with_the_same_row_groups(store, monkeypatch):
    entities = write(store, events())
    split = {"method": "random", "test_size": 0.3}
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 10)
    one = open_dataset(store, build(store, entities, split=split).dataset)
    monkeypatch.setattr(files, "FILE_ROWS", 40)
    several = open_dataset(store, build(store, entities, split=split).dataset)
    assert one.manifest.details == several.manifest.details
    for part, sizes in (("train", [40, 40, 40, 13]), ("test", [40, 17])):
        assert [file.rows for file in one.files(part)] == [sum(sizes)]
        assert [file.rows for file in several.files(part)] == sizes
        groups = ([dataset.read_row_group(group, ["flight"]) for group in dataset.row_groups(part)]
                  for dataset in (one, several))  # fmt: skip
        assert next(groups) == next(groups)
        assert one.table(part).equals(several.table(part))
    # The rows of a single file are the same as before training sets had several files.
    monkeypatch.setattr(files, "FILE_ROWS", 133)
    assert build(store, entities, split=split).dataset == one.ref


def test_a_column_may_be_key_and_feature_at_once_and_the_time_may_be_among_the_keys(store):
    result = build(store, write(store, events()), columns=["hour", "tailnum"], keys=["flight", "tailnum", "time_hour"])
    assert details(store, result)["keys"] == ["flight", "tailnum"]
    assert result.features == ["hour", "tailnum"]
    columns = open_dataset(store, result.dataset).table().column_names
    assert columns == ["flight", "tailnum", "time_hour", "hour", "late"]


def label_values(values: list) -> LabelValues:
    return LabelValues.of([pa.array(values)], pa.array(values).type, None)


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([True, False], "binary"),
        ([0, 1, 1], "binary"),
        ([0.0, 1.0], "binary"),
        (["yes", "no"], "binary"),
        (["a", "b", "c"], "multiclass"),
        ([0, 1, 2], "multiclass"),
        (list(range(30)), "regression"),
        ([0.5, 1.0], "regression"),
        ([0.0, 2.0], "regression"),
    ],
)
def test_the_task_follows_from_the_label(values, task):
    assert infer_task(label_values(values)) == task


def test_regression_and_multiclass_labels(store):
    entities = write(store, events())
    assert build(store, entities, label={"name": "delay", "expression": "arr_delay * 1.0"}).task == "regression"
    assert build(store, entities, label="arr_delay").task == "regression"
    assert build(store, entities, label="tailnum", keys=["flight"], task="multiclass").task == "multiclass"


def test_labels_that_are_missing_or_not_a_number_are_left_out_and_counted(store):
    table = events(100).append_column("y", pa.array([float("nan"), None, *([0.5, 1.5] * 49)]))
    result = build(store, write(store, table), label="y")
    assert result.dropped == 2
    assert details(store, result)["dropped"] == {"label_unknown": 2}


def test_an_infinite_label_is_refused(store):
    table = events(100).append_column("y", pa.array([float("inf"), *([0.5, 1.5] * 49), 1.0]))
    with pytest.raises(TrainingError, match="'y' is infinite in 1 row"):
        build(store, write(store, table), label="y")


def test_infinite_features_are_kept_and_counted(store):
    table = events(100).append_column("ratio", pa.array([*([0.5, 1.5] * 49), float("inf"), float("-inf")]))
    result = build(store, write(store, table), columns=["hour", "ratio"])
    assert details(store, result)["infinite"] == {"ratio": 2}
    assert open_dataset(store, result.dataset).table()["ratio"].to_pylist().count(float("inf")) == 1


@pytest.mark.parametrize("label", [{"name": "late", "expression": "arr_delay > 1000"}, "one"])
def test_labels_of_one_class_are_an_error(store, label):
    entities = write(store, events().append_column("one", pa.array(["same"] * 200)))
    with pytest.raises(TrainingError, match=r"is (0|'same') in all \d+ rows of the events"):
        build(store, entities, label=label)


def test_a_part_with_one_class_is_an_error_that_names_the_part(store):
    table = events().append_column("late", pa.array([i < 100 for i in range(200)]))
    with pytest.raises(TrainingError, match=r"'late' is 0 in all .* rows of the split part 'test'"):
        build(store, write(store, table), label="late", split="time", columns=["distance"])


def test_a_label_that_no_row_has_yet_is_an_error(store):
    table = events().set_column(5, "arr_delay", pa.nulls(200, pa.int64()))
    with pytest.raises(TrainingError, match="label 'late' of all 200 events is null"):
        build(store, write(store, table))


def test_a_feature_that_gives_the_label_away_is_refused(store):
    leak = pa.array([(v or 0) * 60.0 for v in events()["arr_delay"].to_pylist()])
    with pytest.raises(LeakageError, match="'seconds_late'"):
        build(store, write(store, events().append_column("seconds_late", leak)), columns=["hour", "seconds_late"])


def test_a_column_that_is_a_later_time_is_refused(store):
    landed = pa.array([START + timedelta(days=30)] * 200, pa.timestamp("us", "UTC"))
    with pytest.raises(LeakageError, match="'landed' is newer than its event in 190 of 190 rows"):
        build(store, write(store, events().append_column("landed", landed)), columns=["hour", "landed"])


def test_no_events_are_an_error(store):
    with pytest.raises(EmptyWindowError, match="has no rows"):
        build(store, write(store, events().slice(0, 0)))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["2013-01-01T00:00:00Z", None], "'time_hour' is null in 1 row of dataset 'flights'"),
        (
            ["2013-01-01T00:00:00Z", "noon"],
            "'time_hour' of dataset 'flights' contains 'noon' in row 2",
        ),
        ([1, 2], "has the type int64"),
    ],
)
def test_an_event_needs_its_time(store, times, message):
    table = pa.table(
        {"flight": [1, 2], "tailnum": ["a", "b"], "time_hour": times, "hour": [1, 2], "distance": [1.0, 2]}
    )
    with pytest.raises(SchemaError, match=message):
        build(store, write(store, table), label=None, split=None)


def test_times_without_a_zone_and_with_other_zones_are_read_as_utc(store):
    times = ["2013-01-01T01:00:00", "2013-01-01T01:00:00Z", "2013-01-01T03:00:00+02:00", "2013-01-01 01:00:00"]
    table = pa.table({"flight": [1, 2, 3, 4], "tailnum": ["a"] * 4, "time_hour": times, "hour": [1] * 4})
    result = build(store, write(store, table), label=None, split=None, columns=["hour"])
    read = open_dataset(store, result.dataset).table()["time_hour"].to_pylist()
    assert read == [START + timedelta(hours=1)] * 4


TIMES = [datetime(1600, 1, 1), datetime(2013, 1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)]


@pytest.mark.parametrize(
    "times",
    [
        [str(time) for time in TIMES],
        [f"{time.isoformat()}+00" for time in TIMES],
        pa.array(TIMES, pa.timestamp("us")),
        pa.array(TIMES, pa.timestamp("us", "Asia/Tokyo")),
    ],
)
def test_event_times_of_the_years_1_to_9999_are_kept_in_any_form(store, times):
    table = pa.table({"flight": [0, 1, 2], "tailnum": ["a"] * 3, "time_hour": times, "hour": [1] * 3})
    result = build(store, write(store, table), label=None, split=None, columns=["hour"])
    read = open_dataset(store, result.dataset).table()
    assert read["time_hour"].to_pylist() == [time.replace(tzinfo=timezone.utc) for time in TIMES]
    assert read["flight"].to_pylist() == [0, 1, 2]


def test_nanoseconds_are_taken_as_event_time_as_feature_and_as_key(store):
    times = pd.date_range("2013-01-01", "2013-01-02", periods=200)
    table = (
        events()
        .set_column(2, "time_hour", pa.array(times))
        .append_column("seen", pa.array(times - pd.Timedelta(days=1)))
    )
    table = table.append_column("made", pa.array(times))
    result = build(store, write(store, table), columns=["hour", "seen"], keys=["flight", "made"])
    read = pa.concat_tables([open_dataset(store, result.dataset).table(part) for part in ("train", "test")])
    assert set(read["time_hour"].to_pylist()) <= set(times.floor("us").tz_localize("UTC").to_pydatetime())
    # Features and keys are kept as they are.
    assert {str(read.schema.field(name).type) for name in ("seen", "made")} == {"timestamp[ns]"}
    with pytest.raises(LeakageError, match="'later'"):
        later = table.append_column("later", pa.array(times + pd.Timedelta(microseconds=2)))
        build(store, write(store, later), columns=["hour", "later"])


def test_windows_may_hold_the_event_time_in_different_types(store):
    for month, kind in ((1, pa.string()), (2, pa.timestamp("ns")), (3, pa.timestamp("us", "UTC"))):
        times = (
            pa.array([f"2013-0{month}-01T00:00:00"])
            .cast(pa.timestamp("us"))
            .cast(pa.timestamp("us", getattr(kind, "tz", None)))
        )
        table = pa.table({"flight": [month], "tailnum": ["a"], "time_hour": times.cast(kind), "hour": [1]})
        write(store, table, window=Window.model_validate(f"2013-0{month}"))
    whole = {"name": "flights", "window": "2013-01..2013-03"}
    result = build(store, whole, label=None, split=None, columns=["hour"])
    assert open_dataset(store, result.dataset).table()["flight"].to_pylist() == [1, 2, 3]


def test_a_missing_column_is_named(store):
    with pytest.raises(SchemaError, match="no column 'weight'"):
        build(store, write(store, events()), columns=["weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["hour", "arr_delay"]}, "computed from the column 'arr_delay'"),
        ({"columns": ["time_hour"]}, "event time 'time_hour' cannot be a feature"),
        ({"label": "hour"}, "label 'hour' is also in `columns`"),
        ({"columns": []}, "There are no features"),
        ({"features": ["weather:temp"]}, "Set `repo`"),
        ({"features": ["weather:temp"], "feature_service": "delays", "repo": "r"}, "Set only one"),
        ({"label": None, "task": "binary"}, "`label` is not set"),
        ({"label": {"name": "late", "expression": "arr_delay >"}}, "'arr_delay >' is not a valid expression"),
        ({"max_single_feature_score": 1.5}, "max_single_feature_score"),
        ({"memory_limit": "80%"}, "memory_limit"),
    ],
)
def test_a_contradictory_spec_is_refused(store, options, message):
    with pytest.raises(SpecError, match=message):
        build(store, write(store, events()), **options)


def test_rows_in_the_gap_of_a_split_are_in_no_part(store):
    result = build(store, write(store, events()), split={"method": "time", "test_size": "12h", "gap": "6h"})
    assert result.rows == {"train": 139, "test": 34}
    assert details(store, result)["split"]["gap"] == {"duration": "0.25D", "seconds": 21600, "rows": 17}


def test_a_stratified_split_needs_classes(store):
    entities = write(store, events())
    built = build(store, entities, split={"method": "random", "stratify": True})
    assert sum(built.rows.values()) == 190
    for options in ({"label": "arr_delay"}, {"label": None}, {"label": "arr_delay", "task": "regression"}):
        with pytest.raises(SpecError, match="`stratify` keeps the shares of the classes"):
            build(store, entities, split={"method": "random", "stratify": True}, **options)


def test_rows_with_equal_keys_and_times_in_different_groups_are_reported(store):
    rows = events()
    place = rows.schema.get_field_index("tailnum")
    other = rows.slice(1, 30).set_column(place, "tailnum", pa.array(["other"] * 30))
    options = {"keys": ["flight"], "columns": ["distance", "tailnum"], "split": {"method": "group", "group": "tailnum"}}
    built = build(store, write(store, pa.concat_tables([rows, other])), **options)
    # Every row has its own id for the split, because the group is a part of this id.
    known = sum(delay is not None for delay in other["arr_delay"].to_pylist())
    assert details(store, built)["repeated"]["rows"] == known


def test_rows_with_equal_keys_and_times_are_reported(store):
    plain = build(store, write(store, events()))
    assert "repeated" not in details(store, plain)
    again = events().slice(1, 30)
    place = again.schema.get_field_index("arr_delay")
    corrected = again.set_column(place, "arr_delay", pa.array([99] * 30, pa.int64()))
    twice = build(store, write(store, pa.concat_tables([events(), again.slice(0, 10), corrected.slice(10)])))
    known = again["arr_delay"].to_pylist()
    late = sum(delay is not None and delay <= 15 for delay in known[10:])
    found = details(store, twice)["repeated"]
    assert found["labels"] == late
    assert (
        f"Rows with the same keys and event time as another row: {found['rows']}, {late} of them with another label."
        in twice.summary
    )


@pytest.mark.parametrize(
    ("declared", "expected"),
    [(None, 1), (1, 1), ("1", 1), ("1.0", 1), (True, 1), ("True", 1), (0, 0), ("0", 0), (False, 0), ("false", 0)],
)
def test_the_positive_class_is_declared_or_the_last_in_order(store, declared, expected):
    result = build(store, write(store, events()), positive=declared)
    label = open_dataset(store, result.dataset).table()["late"].to_pylist()
    assert result.positive_rate == pytest.approx(label.count(expected) / len(label), abs=1e-6)
    assert details(store, result).get("positive") == (None if declared is None else expected)


def test_the_positive_class_as_text_is_not_rounded():
    large = 2**53
    for value in (large, large + 1):
        assert positive_class(label_values([large, large + 1]), str(value), "x") == value


@pytest.mark.parametrize(
    ("label", "values"),
    [(pa.array([0.0, -0.0, 1.0, 1.0] * 50), {0.0: 100, 1.0: 100}), (pa.array([7, 2**64 - 1] * 100, pa.uint64()), None)],
    ids=["negative zero", "uint64"],
)
def test_both_zeros_are_one_class_and_unsigned_integers_may_be_classes(store, label, values):
    result = build(store, write(store, events().append_column("y", label)), label="y")
    assert (result.task, result.positive_rate) == ("binary", 0.5)
    written = open_dataset(store, result.dataset).table()["y"]
    found = {item["values"]: item["counts"] for item in written.value_counts().to_pylist()}
    assert found == (values or {7: 100, 2**64 - 1: 100})


def test_the_positive_class_of_a_text_label_is_reported(store):
    table = events().append_column("outcome", pa.array(["paid" if number % 3 else "default" for number in range(200)]))
    entities = write(store, table)
    usual, declared = (build(store, entities, label="outcome", positive=name) for name in (None, "default"))
    assert "positive ('paid')" in usual.summary
    assert "positive ('default')" in declared.summary
    assert usual.positive_rate == pytest.approx(1 - declared.positive_rate, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positive": "yes"}, "`positive` is 'yes', but the label 'late' has the values 0 and 1"),
        ({"positive": 1, "label": "distance", "columns": ["hour"]}, "task of the label is regression"),
        ({"positive": 1, "task": "multiclass"}, "no binary label"),
        ({"positive": 1, "label": None, "split": None}, "no binary label"),
    ],
)
def test_a_positive_class_that_the_label_does_not_have_is_refused(store, options, message):
    with pytest.raises(SpecError, match=message):
        build(store, write(store, events()), **options)


def test_a_binary_task_with_more_than_two_labels_is_refused(store):
    with pytest.raises(SpecError, match="'tailnum' has 40 different values"):
        build(store, write(store, events()), label="tailnum", keys=["flight"], task="binary")


def test_decimals_are_numbers_in_features_and_labels(store):
    table = events()
    fare = pa.array([Decimal(i * 7919 % 90_000) / 100 for i in range(200)], pa.decimal128(38, 2))
    total = pa.array([Decimal(i % 3) for i in range(200)], pa.decimal128(38, 0))
    entities = write(store, table.append_column("fare", fare).append_column("total", total))
    result = build(store, entities, columns=["hour", "total"], label="fare")
    found = open_dataset(store, result.dataset).table()
    assert result.task == "regression"
    assert (found.schema.field("fare").type, found.schema.field("total").type) == (pa.float64(), pa.int64())
    assert sorted(found["fare"].to_pylist()) == sorted(float(value) for value in fare.to_pylist())
    # Keys stay exact.
    result = build(store, entities, columns=["hour"], keys=["fare"], label="total", name="classes")
    assert result.task == "multiclass"
    assert open_dataset(store, result.dataset).schema.field("fare").type == pa.decimal128(38, 2)


def test_windows_with_different_types_of_one_kind_are_one_table(store):
    first, second = events(100), events(100, seed=1)
    second = second.set_column(0, "flight", pa.array(range(100, 200), pa.int16()))
    second = second.set_column(1, "tailnum", second["tailnum"].dictionary_encode())
    second = second.set_column(4, "distance", pa.nulls(100))
    write(store, first, window=Window.model_validate("2013-01"))
    write(store, second, window=Window.model_validate("2013-02"))
    found = open_dataset(store, build(store, {"name": "flights"}).dataset).table()
    assert [str(found.schema.field(name).type) for name in ("flight", "tailnum", "distance")] == [
        "int64",
        "string",
        "double",
    ]
    write(store, second.set_column(0, "flight", second["tailnum"]), window=Window.model_validate("2013-03"))
    with pytest.raises(SchemaError, match="'flights' .*'flight' is int64 and "):
        build(store, {"name": "flights"})


def test_a_retry_reads_the_snapshot_that_the_first_try_selected(store, monkeypatch):
    """The newest snapshot becomes another one between the two tries."""
    first = write(store, events(seed=1))
    spec = {
        "name": "training", "timestamp": "time_hour", "columns": ["distance"], "keys": ["flight"],
        "entities": {"name": "flights"}, "label": {"name": "late", "expression": "arr_delay > 15"},
    }  # fmt: skip
    context = StepContext(store=store, key="results/dag/run/task/-1/0-abc.json")
    with monkeypatch.context() as broken:
        broken.setattr(DatasetWriter, "commit", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(parse(TrainingSetSpec, spec, "The step"), context)
    second = write(store, events(seed=2))
    retried = run(parse(TrainingSetSpec, spec, "The step"), context)
    assert open_dataset(store, retried.dataset).manifest.parents == [first.id]
    cleared = run(parse(TrainingSetSpec, spec, "The step"), StepContext(store=store, key="results/cleared.json"))
    assert open_dataset(store, cleared.dataset).manifest.parents == [second.id]


def requested(without: list[str]) -> Provenance:
    """The provenance of a DAG run that a retraining request started."""
    request = Request(
        id="delays/2013-01",
        model="delays",
        triggers=["performance"],
        reason="ROC AUC fell.",
        window="2013-01",
        created=START,
        without=without,
    )
    return Provenance(requests=[request])


def build_without(store, entities, without: list[str], **options):
    spec = {
        "name": "training", "timestamp": "time_hour", "columns": ["hour", "distance"], "keys": ["flight"],
        "label": {"name": "late", "expression": "arr_delay > 15"}, "entities": entities,
    }  # fmt: skip
    found = parse(TrainingSetSpec, {**spec, **options}, "The step")
    return run(found, StepContext(store=store, provenance=requested(without)))


def test_a_request_leaves_broken_features_out_and_keeps_their_columns_for_the_champion(store):
    result = build_without(store, write(store, events()), ["distance", "unknown"])
    assert result.features == ["hour"]
    found = details(store, result)
    assert (found["features"], found["without"]) == (["hour"], ["distance"])
    assert "distance" in open_dataset(store, result.dataset).table().column_names
    # A scoring set has every column.
    scoring = build_without(store, write(store, events()), ["distance"], label=None, split=None)
    assert scoring.features == ["hour", "distance"]
    assert "without" not in details(store, build_without(store, write(store, events()), []))


def test_a_feature_that_is_left_out_may_be_absent_or_of_another_type_in_some_windows(store):
    whole = write(store, events(seed=1), window=Window.model_validate("2013-01"))
    absent = write(store, events(seed=2).drop_columns("distance"), window=Window.model_validate("2013-02"))
    text = events(seed=3)
    text = text.set_column(4, "distance", pa.array(["far"] * len(text)))
    other = write(store, text, window=Window.model_validate("2013-03"))
    assert {whole.name} == {absent.name, other.name}
    window = {"name": "flights", "window": "2013-01..2013-03"}
    with pytest.raises(SchemaError):
        build_without(store, window, [])
    result = build_without(store, window, ["distance"])
    table = open_dataset(store, result.dataset).table()
    assert table.schema.field("distance").type == "double"
    assert table["distance"].null_count == 380
    assert result.features == ["hour"]


def test_a_request_cannot_leave_out_every_feature(store):
    with pytest.raises(TrainingError):
        build_without(store, write(store, events()), ["hour", "distance"])
