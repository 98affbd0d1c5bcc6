"""Joining labels to predictions: each prediction appears once, with the right label or none."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import DatasetNotFoundError, SchemaError, SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import find_datasets, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.operators import JoinLabelsOperator
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.join_labels.step import run
from tests.support.deployed import write

LATE = {"name": "late", "expression": "arr_delay > 15"}


def predictions(store, window: str | None = "2013-04", name: str = "predictions", **columns):
    rows = len(next(iter(columns.values())))
    data = pa.table({**columns, "score": pa.array([0.5] * rows, pa.float64())})
    return write(store, name, data, window, {"model": "delays", "model_version": 3})


def labels(store, window: str | None = "2013-04", **columns):
    return write(store, "flights", pa.table(columns), window)


def join(store, left, right, **fields):
    spec = {"predictions": left, "labels": right, "on": ["flight"], "label": LATE, "name": "outcomes", **fields}
    return run(JoinLabelsSpec(**spec), StepContext(store=store))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)


def joined(store, result) -> dict:
    return open_dataset(store, result.dataset).table().to_pydict()


def test_each_prediction_has_its_label_or_null(store):
    result = join(
        store,
        predictions(store, flight=[3, 1, 2, 4]),
        labels(store, flight=[1, 2, 4, 9], arr_delay=[20.0, 3.0, None, 99.0]),
    )
    found = joined(store, result)
    assert (found["flight"], found["label"]) == ([3, 1, 2, 4], [None, True, False, None])
    assert (result.rows, result.labelled, result.coverage) == (4, 2, 0.5)
    assert "2 of 4 predictions of 2013-04" in result.summary
    assert "50.0%" in result.summary
    details = open_dataset(store, result.dataset).manifest.details
    assert (details["label"], details["coverage"], details["model_version"]) == ("late", 0.5, 3)


def test_labels_are_joined_only_to_predictions(store):
    known = labels(store, flight=[1], arr_delay=[20.0])
    # A dataset of scores, such as credit scores, which no model of this package has predicted.
    scored = write(store, "scores", pa.table({"flight": [1], "score": [710]}), "2013-04", {"keys": ["flight"]})
    # The rows that an evaluation has compared name their model.
    compared = write(store, "delays_evidence", pa.table({"flight": [1]}), "2013-04", {"model": "delays"})
    for rows in (known, scored, compared):
        with pytest.raises(SchemaError, match=f"'{rows.name}' has no predictions"):
            join(store, rows, known)
    with pytest.raises(SchemaError, match="'scores' has no predictions"):
        join(store, [predictions(store, flight=[1]), scored], known)


def test_later_labels_make_a_new_current_dataset_of_the_window(store):
    made = predictions(store, flight=[1, 2])
    first = join(store, made, labels(store, flight=[1], arr_delay=[20.0]))
    second = join(store, made, labels(store, flight=[1, 2], arr_delay=[20.0, 0.0]))
    assert (first.coverage, second.coverage) == (0.5, 1.0)
    assert first.dataset.id != second.dataset.id
    (present,) = find_datasets(store, "outcomes", Window.model_validate("2013-04"))
    assert present.manifest.id == second.dataset.id
    assert joined(store, first)["label"] == [True, None]


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab"))), st.dictionaries(
    st.tuples(st.integers(0, 6), st.sampled_from("ab")), st.one_of(st.none(), st.integers(-50, 50)), max_size=14
))  # fmt: skip
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_join_equals_a_dictionary_lookup_for_each_prediction_in_order(store, keys, known):
    left = pa.table({
        "f": pa.array([key[0] for key in keys], pa.int64()), "c": pa.array([key[1] for key in keys], pa.string()),
    })  # fmt: skip
    right = pa.table({
        "f": pa.array([key[0] for key in known], pa.int32()),
        "c": pa.array([key[1] for key in known], pa.string()).dictionary_encode(),
        "arr_delay": pa.array(list(known.values()), pa.float64()),
    })  # fmt: skip
    made = predictions(store, **{name: left[name] for name in left.column_names})
    result = join(store, made, write(store, "l", right, "2013-04"), on=["f", "c"])
    expected = [None if known.get(key) is None else known[key] > 15 for key in keys]
    assert joined(store, result)["label"] == expected
    assert result.labelled == sum(label is not None for label in expected)


def test_several_labels_for_one_prediction_are_an_error_with_an_example(store):
    made = predictions(store, flight=[1, 2], origin=["JFK", "EWR"])
    twice = labels(store, flight=[1, 1, 7, 7], origin=["JFK"] * 4, arr_delay=[20.0, 3.0, 1.0, 2.0])
    with pytest.raises(SchemaError, match="'flights' .* 1 prediction, .*flight=1, origin='JFK'"):
        join(store, made, twice, on=["flight", "origin"])
    # Labels without a prediction may be duplicated.
    assert join(store, predictions(store, flight=[2]), twice).labelled == 0


def test_a_label_that_is_delivered_twice_is_one_label(store):
    made = predictions(store, flight=[1, 2, 3])
    labels(store, flight=[1, 2], arr_delay=[20.0, None], window="2013-04")
    labels(store, flight=[1, 2, 1], arr_delay=[20.0, 3.0, 20.0], window="2013-05")
    result = join(store, made, {"name": "flights"})
    # A label that was null at first did not count as known.
    assert joined(store, result)["label"] == [True, False, None]
    assert (result.rows, result.repeated) == (3, 2)
    assert "Several rows of flights match 2 predictions" in result.summary
    assert open_dataset(store, result.dataset).manifest.details["repeated"] == 2


VERSIONS = {
    "numbers": [1, 3, 2, None, None, 1],
    "times": [None if version is None else datetime(2013, 5, version) for version in (1, 3, 2, None, None, 1)],
}


@pytest.mark.parametrize("kind", VERSIONS)
def test_the_latest_version_of_a_corrected_label_is_joined(kind, store):
    made = predictions(store, flight=[1, 2, 3])
    seen = [datetime(2013, 6, day) for day in (9, 1, 2, 3, 4, 5)]
    corrected = labels(
        store, flight=[1, 1, 1, 2, 2, 3], arr_delay=[0.0, 99.0, 0.0, 99.0, 99.0, 1.0], version=VERSIONS[kind], seen=seen
    )
    result = join(store, made, corrected, labels_version="version", labels_timestamp="seen")
    found = joined(store, result)
    assert found["label"] == [True, True, False]
    # The label became known with the joined version, or with the earliest row with the same label.
    assert [at.day for at in found["label_at"]] == [1, 3, 5]
    withdrawn = labels(store, flight=[1, 1], arr_delay=[20.0, None], version=[1, 2])
    assert joined(store, join(store, made, withdrawn, labels_version="version"))["label"] == [None, None, None]


@pytest.mark.parametrize("parameter", ["labels_version", "labels_timestamp"])
def test_different_labels_of_the_same_version_are_an_error(parameter, store):
    made = predictions(store, flight=[1, 2])
    day = datetime(2013, 5, 1)
    twice = labels(store, flight=[1, 1, 2], arr_delay=[20.0, 3.0, 1.0], at=[day, day, day])
    with pytest.raises(SchemaError, match="with the same 'at' for 1 prediction, .*flight=1"):
        join(store, made, twice, **{parameter: "at"})


def test_a_version_without_an_order_is_refused(store):
    several = labels(store, flight=[1, 1], arr_delay=[20.0, 3.0], revision=["9", "10"])
    with pytest.raises(SchemaError, match="The `labels_version` 'revision' of dataset 'flights'"):
        join(store, predictions(store, flight=[1]), several, labels_version="revision")


@pytest.mark.parametrize("key", ["flight no.", ".flight", "[flight]", "class", "__label_row__"])
def test_a_key_may_have_any_name(key, store):
    made = predictions(store, **{key: [1, 2], "flight": [2, 1]})
    known = write(store, "l", pa.table({key: [2, 2], "arr_delay": [20.0, 20.0], "flight": [1, 1]}), "2013-04")
    assert joined(store, join(store, made, known, on=[key]))["label"] == [None, True]
    twice = write(store, "l", pa.table({key: [2, 2], "arr_delay": [20.0, 2.0]}), "2013-04")
    with pytest.raises(SchemaError, match="more than one label"):
        join(store, made, twice, on=[key])


def test_the_latest_of_several_labels_is_used_if_times_are_known(store):
    times = [datetime(2013, 5, day) for day in (3, 1, 2)]
    several = labels(store, flight=[1, 1, 1], arr_delay=[0.0, 99.0, 99.0], seen=times)
    result = join(store, predictions(store, flight=[1, 1]), several, labels_timestamp="seen")
    assert joined(store, result)["label"] == [False, False]


def test_the_label_may_be_a_column_and_labels_may_be_in_any_window(store):
    predictions(store, flight=[1], window="2013-04")
    predictions(store, flight=[2], window="2013-05")
    labels(store, flight=[2], outcome=["late"], window="2013-07")
    result = join(store, {"name": "predictions", "window": "2013-04..2013-05"}, {"name": "flights"}, label="outcome")
    assert joined(store, result)["label"] == [None, "late"]
    assert result.dataset.window.label == "2013-04-01T00:00:00Z/2013-06-01T00:00:00Z"


def test_windows_with_different_types_of_one_kind_are_one_dataset(store):
    predictions(store, flight=pa.array([1], pa.int32()), word=pa.array(["a"]).dictionary_encode())
    predictions(store, flight=[2], word=pa.array(["b"], pa.large_string()), window="2013-05")
    predictions(store, flight=pa.array([3], pa.int64()), word=pa.array([None]), window="2013-06")
    labels(store, flight=pa.array([1], pa.int16()), arr_delay=[Decimal("20.50")])
    labels(store, flight=pa.array([2], pa.uint64()), arr_delay=[0.5], window="2013-05")
    labels(store, flight=[3], arr_delay=pa.array([None]), window="2013-06")
    found = joined(store, join(store, {"name": "predictions"}, {"name": "flights"}))
    assert (found["flight"], found["word"], found["label"]) == ([1, 2, 3], ["a", "b", None], [True, False, None])
    found = joined(store, join(store, {"name": "predictions"}, {"name": "flights"}, label="arr_delay"))
    assert found["label"] == [20.5, 0.5, None]


def test_windows_with_types_of_different_kinds_are_named(store):
    predictions(store, flight=[1])
    predictions(store, flight=["2"], window="2013-05")
    with pytest.raises(SchemaError, match="'predictions' .*'flight' is int64 and string"):
        join(store, {"name": "predictions"}, labels(store, flight=[1], arr_delay=[1.0]))


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.decimal128(38, 0), pa.string()])
def test_ids_are_compared_exactly(kind, store):
    ids = pa.array([str(2**53), str(2**53 + 1), str(2**53 + 2), None]).cast(kind)
    made = predictions(store, flight=ids.take([2, 1, 0, 3]))
    result = join(store, made, labels(store, flight=ids, n=[0, 1, 2, 3]), label="n")
    assert joined(store, result)["label"] == [2, 1, 0, None]


def test_keys_of_different_types_are_compared_if_they_can_be_cast(store):
    result = join(store, predictions(store, flight=["1", "2"]), labels(store, flight=[1, 3], arr_delay=[20.0, 20.0]))
    assert joined(store, result)["label"] == [True, None]
    result = join(store, predictions(store, flight=[1, 7]), labels(store, flight=["1", "007"], arr_delay=[20.0] * 2))
    assert joined(store, result)["label"] == [True, None]
    with pytest.raises(SchemaError, match="'flight' is int64 .* string in dataset 'flights'"):
        join(store, predictions(store, flight=[1]), labels(store, flight=["UA1"], arr_delay=[20.0]))


def test_integers_and_doubles_with_a_null_are_joined_exactly(store):
    made = predictions(store, flight=[2**53 + 1, 2, 3])
    result = join(store, made, labels(store, flight=[2.0, None, 3.0], n=[1, 2, 3]), label="n")
    assert joined(store, result)["label"] == [None, 1, 3]


@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_nested_columns_are_neither_keys_nor_labels(value, store):
    nested, there = pa.array([value]), labels(store, flight=[1], n=pa.array([value]))
    made = predictions(store, flight=nested)
    with pytest.raises(
        SchemaError, match="The key column 'flight' of dataset 'predictions' has the type (list|struct)"
    ):
        join(store, made, there, label="n")
    with pytest.raises(SchemaError, match="The key column 'flight' of dataset 'flights' has the type (list|struct)"):
        join(store, predictions(store, flight=[1]), labels(store, flight=nested, n=[1]), label="n")
    with pytest.raises(SchemaError, match="The label 'n' of dataset 'flights' has the type (list|struct)"):
        join(store, predictions(store, flight=[1]), labels(store, flight=[1], n=nested), label="n")


def test_a_key_may_be_named_twice(store):
    result = join(store, predictions(store, flight=[1]), labels(store, flight=[1], n=[4]), label="n", on=["flight"] * 2)
    assert joined(store, result)["label"] == [4]


def test_an_empty_dataset_of_predictions_is_joined_to_an_empty_dataset(store):
    made = predictions(store, flight=pa.array([], pa.int64()))
    result = join(store, made, labels(store, flight=[1], arr_delay=[20.0]))
    assert (result.rows, result.coverage) == (0, None)
    assert joined(store, result) == {"flight": [], "score": [], "label": []}


def test_errors_name_the_dataset_and_the_column(store):
    made, there = predictions(store, flight=[1]), labels(store, flight=[1], arr_delay=[20.0])
    with pytest.raises(SchemaError, match="'flights' .*'dep_delay'"):
        join(store, made, there, label={"name": "late", "expression": "dep_delay > 15"})
    with pytest.raises(SchemaError, match="'predictions' .*'origin'"):
        join(store, made, there, on=["origin"])
    with pytest.raises(SpecError, match="__import__"):
        join(store, made, there, label={"name": "late", "expression": "__import__('os')"})
    with pytest.raises(SchemaError, match="'label'"):
        join(store, predictions(store, flight=[1], label=[True]), there)
    with pytest.raises(DatasetNotFoundError, match="'predictions' in the window 2013-08"):
        join(store, {"name": "predictions", "window": "2013-08"}, there)
    skipped = join(store, {"name": "predictions", "window": "2013-08"}, there, on_missing="skip")
    assert skipped.dataset is None
    assert "'predictions' in the window 2013-08" in skipped.summary


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import JoinLabelsOperator

with DAG("join_labels_{month}", default_args={{"on_missing": "skip"}}):
    JoinLabelsOperator(
        task_id="join_labels", name="joined_outcomes",
        predictions={{"name": "joined_predictions", "window": "{month}"}}, labels={{"name": "joined_flights"}},
        on=["flight"], label={{"name": "late", "expression": "arr_delay > 15"}},
    )
"""


@pytest.mark.parametrize(("month", "state"), [("2013-04", "success"), ("2013-05", "skipped")])
def test_a_task_joins_labels_or_is_skipped_without_predictions(month, state, run_dag):
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    predictions(store, name="joined_predictions", flight=[1, 2])
    write(store, "joined_flights", pa.table({"flight": [1], "arr_delay": [20.0]}), "2013-06")
    run = run_dag(DAG.format(month=month))
    assert run.states() == {"join_labels": state}
    if state == "success":
        assert run.xcom("join_labels")["dataset"]["name"] == "joined_outcomes"
        assert run.xcom("join_labels")["coverage"] == 0.5


def test_mlflow_is_asked_only_before_a_task_of_a_model_is_skipped():
    given = {
        "task_id": "t",
        "predictions": {"name": "p"},
        "labels": {"name": "l"},
        "on": ["id"],
        "label": "y",
        "name": "n",
    }
    asked = {"model": "m", "on_missing": "skip", "mlflow_conn_id": "other"}
    fields = JoinLabelsOperator(**given, **asked).build_spec({})
    assert (fields["model"], fields["mlflow"]["conn_id"]) == ("m", "other")
    for change in ({"model": None}, {"on_missing": "fail"}):
        assert JoinLabelsOperator(**given, **{**asked, **change}).build_spec({})["mlflow"] is None


def test_label_at_is_added_only_if_labels_timestamp_holds_times(store):
    made = predictions(store, flight=[1, 2, 3, 4])
    days = [datetime(2013, 4, day) for day in (3, 9, 5, 6)]
    when = labels(store, flight=[1, 1, 2, 3], arr_delay=[20.0, 3.0, 40.0, None], landed=days)
    found = joined(store, join(store, made, when, labels_timestamp="landed"))
    assert found["label"] == [False, True, None, None]
    assert found["label_at"] == [utc(2013, 4, 9), utc(2013, 4, 5), None, None]
    order = labels(store, flight=[1, 2], arr_delay=[20.0, 3.0], version=[1, 2])
    assert "label_at" not in joined(store, join(store, made, order, labels_timestamp="version"))
    taken = predictions(store, flight=[1], label_at=[0])
    with pytest.raises(SchemaError, match="'label_at'"):
        join(store, taken, when, labels_timestamp="landed")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2024-09-30", "2024-10-02"),
        ("2024-09-30 23:00:00+00", "2024-09-30 12:00:00-12"),
        ("2024-09-30T23:30:00-01:00", "2024-10-01T01:00:00Z"),
        ("20241002", "2024-10-03T00:00"),
        ("2024-10-02T00:00:00.9", "2024-10-02T00:00:00.900000001"),
        ("1600-01-01", "9999-12-31"),
    ],
)
def test_text_orders_labels_by_time_in_any_form(store, earlier, later):
    made = predictions(store, flight=[1, 2])
    late_last = labels(
        store, flight=[1, 1, 2, 2], arr_delay=[0.0, 20.0, 20.0, 0.0], at=[earlier, later, later, earlier]
    )
    found = joined(store, join(store, made, late_last, labels_timestamp="at"))
    assert found["label"] == [True, True]
    assert found["label_at"][0] == found["label_at"][1]
    assert found["label_at"][0].utcoffset() is not None


def test_text_that_is_not_a_time_never_selects_a_label(store):
    made = predictions(store, flight=[1])
    # If the times were compared as text, September would come after October.
    several = labels(store, flight=[1, 1], arr_delay=[0.0, 20.0], at=["9/30/2024", "10/2/2024"])
    with pytest.raises(SchemaError, match="'at' of dataset 'flights' .*'9/30/2024' in row 1"):
        join(store, made, several, labels_timestamp="at")


def test_nanoseconds_order_labels(store):
    times = pa.array([1_700_000_000_000_000_002, 1_700_000_000_000_000_001], pa.int64()).cast(pa.timestamp("ns"))
    several = labels(store, flight=[1, 1], arr_delay=[20.0, 0.0], at=times)
    found = joined(store, join(store, predictions(store, flight=[1]), several, labels_timestamp="at"))
    assert found["label"] == [True]


TIMES = [utc(2024, 1, 5, 6, 30), utc(9999, 12, 31)]


@pytest.mark.parametrize(
    "keys",
    [
        pa.array(["2024-01-05 06:30:00+00", "9999-12-31"]),
        pa.array(["2024-01-05T07:30+01:00", "9999-12-31T00:00:00Z"]).dictionary_encode(),
        pa.array(TIMES, pa.timestamp("s", "Asia/Tokyo")),
        pa.array([time.replace(tzinfo=None) for time in TIMES], pa.timestamp("ms")),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_times_in_keys_are_compared_as_times(store, keys, swapped):
    both = [pa.array(TIMES, pa.timestamp("us", "UTC")), keys]
    left, right = both[::-1] if swapped else both
    result = join(store, predictions(store, at=left), labels(store, at=right, arr_delay=[20.0, 0.0]), on=["at"])
    assert joined(store, result)["label"] == [True, False]


def test_windows_may_hold_the_times_of_keys_in_different_types(store):
    predictions(store, window="2024-01", at=[date(2024, 1, 5)])
    predictions(store, window="2024-02", at=[date(2024, 2, 5)])
    labels(store, window="2024-01", at=pa.array([utc(2024, 1, 5)], pa.timestamp("ns", "UTC")), arr_delay=[20.0])
    labels(store, window="2024-02", at=["2024-02-05"], arr_delay=[20.0])
    both = {"window": "2024-01..2024-02"}
    result = join(store, {"name": "predictions", **both}, {"name": "flights", **both}, on=["at"])
    assert joined(store, result)["label"] == [True, True]


def test_text_that_is_not_a_time_is_an_error_among_keys_that_are_times(store):
    made = predictions(store, at=[utc(2024, 9, 30)])
    with pytest.raises(SchemaError, match="'at' of dataset 'flights' .*'9/30/2024' in row 1"):
        join(store, made, labels(store, at=["9/30/2024"], arr_delay=[20.0]), on=["at"])


@pytest.mark.parametrize(
    ("ours", "theirs", "remedy"),
    [
        (["2024-03-05", "2024-03-06"], ["3/5/2024", "3/6/2024"], "types="),
        (["2024-03-05T06:00:00Z", "2024-03-06T06:00:00Z"], ["2024-03-05 06:00:00", "2024-03-06 06:00:00"], "types="),
        (["UA", "AA"], ["ua", "aa "], "same form"),
        ([7, 8], ["007", "008"], "same form"),
    ],
)
def test_keys_that_no_label_has_in_their_form_are_refused(store, ours, theirs, remedy):
    made, known = predictions(store, k=ours), labels(store, k=theirs, arr_delay=[20.0, 0.0])
    with pytest.raises(SchemaError, match="2 of 2 predictions have no label, because the key column 'k'") as error:
        join(store, made, known, on=["k"])
    assert repr(str(ours[0])) in str(error.value)
    assert repr(theirs[0]) in str(error.value)
    assert remedy in str(error.value)
    with pytest.raises(DatasetNotFoundError):
        find_datasets(store, "outcomes", None)


def test_a_few_keys_in_another_form_are_in_the_summary(store):
    made = predictions(store, carrier=["UA", "AA", "DL", "B6"])
    result = join(store, made, labels(store, carrier=["UA", "AA", "dl", "X"], arr_delay=[20.0] * 4), on=["carrier"])
    assert joined(store, result)["label"] == [True, True, None, None]
    assert "No label for 1 prediction: 'carrier' is 'DL' in the predictions but 'dl' in flights" in result.summary


def test_the_summary_says_why_no_prediction_has_a_label(store):
    made = predictions(store, flight=[3, 4], at=[utc(2013, 4, 1, 6), utc(2013, 4, 2, 6)])
    late = join(store, made, labels(store, flight=[5], at=[utc(2013, 4, 1, 6)], arr_delay=[20.0]), on=["flight", "at"])
    assert late.labelled == 0
    assert "flights has no row" in late.summary
    assert late.summary.endswith("such as flight=3, at=2013-04-01 06:00:00+00:00.")
    null = join(store, made, labels(store, flight=[3, 9], arr_delay=[None, 20.0]))
    assert null.labelled == 0
    assert "flights has rows for 1 prediction, but the labels in these rows are null." in null.summary
    some = join(store, made, labels(store, flight=[3, 9], arr_delay=[0.0, 20.0]))
    assert some.summary.endswith("(50.0%).")
