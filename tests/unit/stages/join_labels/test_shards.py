"""Shards of a join of labels: the dataset, numbers and errors of a single pass, whatever fails, is retried or cleared.

The shards are mapped tasks, or parts that executors run.
"""

from __future__ import annotations

import uuid
from itertools import count

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, SchemaError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset, read_manifests
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import joining
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec
from tests.support.deployed import write
from tests.support.dying_store import DyingStore
from tests.support.executors import LocalExecutors
from tests.support.killing import Killed
from tests.support.one_duckdb import one_duckdb  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_duckdb")

APRIL = "2013-04"


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(joining, "FILE_ROWS", 4)


def task(
    store: ArtifactStore,
    predictions: object,
    shard: int | None = None,
    of: int | None = None,
    *,
    series: str = "first",
    succeeded: tuple[int, ...] = (),
    executors: LocalExecutors | None = None,
    **fields,
) -> JoinLabelsResult:
    """Run a shard, or a single pass. ``series`` are the tries since the shard was cleared last."""
    asked = {"predictions": predictions, "labels": {"name": "flights"}, "on": ["flight"], "label": "y", **fields}
    shards = {"shard": shard, "shards": of, "succeeded": list(succeeded)}
    place = Provenance(dag_id="dag", run_id="run", task_id="join", map_index=-1 if shard is None else shard)
    context = StepContext(store, f"results/dag/run/join/{shard}/{series}.json", provenance=place, executors=executors)
    return join_labels.run(JoinLabelsSpec(name="outcomes", **asked, **shards), context)


def every(store: ArtifactStore, predictions: object, of: int, **options) -> JoinLabelsResult:
    """Run all shards. Only one of them returns the dataset."""
    results = [task(store, predictions, number, of, **options) for number in range(of)]
    (found,) = [result for result in results if result.dataset]
    assert [result.shard for result in results] == [*range(of)]
    others = [result for result in results if result is not found]
    assert sum(result.rows for result in others) <= found.rows
    return found


def in_files(store: ArtifactStore, window: str, files: list[list[str | None]]) -> object:
    """Write predictions with these keys in each file."""
    with DatasetWriter(store, "predictions") as writer:
        for keys in files:
            writer.write(
                pa.table({"flight": pa.array(keys, pa.string()), "score": pa.array([0.5] * len(keys), pa.float64())})
            )
            writer.end_files()
        details = {"model": "delays", "model_version": 3}
        return writer.commit(window=Window.model_validate(window), details=details)[0].ref


def outcome(store: ArtifactStore, run) -> object:
    """The result of a join and its rows, or the text of its error."""
    try:
        result = run()
    except SchemaError as error:
        return str(error)
    dataset = open_dataset(store, result.dataset)
    dataset.verify()
    return result.model_copy(update={"shard": None}), dataset.table()


KEYS = st.sampled_from(["1", "01", " 2", "2", "3", "4/5/2013", None])


@given(
    st.lists(st.lists(st.lists(KEYS, max_size=9), min_size=1, max_size=2), min_size=1, max_size=2),
    st.lists(
        st.tuples(st.sampled_from(["1", "2", "03", "2013-04-05"]), st.sampled_from([1.0, 1.0, 2.0, None])), max_size=4
    ),
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 5),
)
# In the second shard alone, the keys with a different form outnumber the matching keys.
@example([[["1"] * 3, ["01"] * 2, ["4/5/2013"]]], [("1", 1.0), ("2013-04-05", None)], False, 3, 2)
@example([[["2"] * 3, ["01"] * 4]], [("1", 1.0), ("2", 2.0)], False, 3, 3)
@example([[["2"] * 3, ["1"] * 4]], [("1", 1.0), ("1", 2.0)], False, 3, 3)
@example([[["2"] * 3, ["3"]]], [("3", None)], True, 3, 2)
@example([[["2"] * 3, ["1"]]], [("1", 2.0), ("1", 2.0)], False, 3, 2)
@example([[["2"], ["1"] * 4]], [("1", None)], False, 3, 2)
@example([[["3"] * 3, ["2"]]], [("1", 1.0)], False, 3, 2)
@settings(max_examples=12, deadline=None)
def test_the_shards_together_equal_a_single_pass(windows, known, infinite, file_rows, of):
    known = [*known, ("3", float("inf"))] if infinite else known
    keys, values = ([item[n] for item in known] for n in range(2))
    flights = pa.table({"flight": pa.array(keys, pa.string()), "y": pa.array(values, pa.float64())})

    def joined(run) -> object:
        store = ArtifactStore(f"memory://{uuid.uuid4().hex}")
        made = [in_files(store, f"2013-0{month}", files) for month, files in enumerate(windows, 1)]
        write(store, "flights", flights)
        return outcome(store, lambda: run(store, made))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "FILE_ROWS", file_rows)
        single = joined(task)
        assert joined(lambda store, made: every(store, made, of)) == single
        assert joined(lambda store, made: task(store, made, executors=LocalExecutors(store.url))) == single


def test_files_have_a_fixed_number_of_rows_of_the_log(store):
    made = [
        in_files(store, f"2013-0{month}", files) for month, files in ((4, [["1"] * 3, ["2"] * 2]), (5, [["3"] * 5]))
    ]
    write(store, "flights", pa.table({"flight": ["1"], "y": [1.0]}))
    for result in (every(store, made, 2), task(store, made)):
        manifest = open_dataset(store, result.dataset).manifest
        assert [file.rows for file in manifest.files] == [4, 4, 2]
    # The single pass found the dataset of the shards.
    assert len(list(read_manifests(store, "outcomes"))) == 1


def test_a_window_of_a_longer_dataset_and_the_rows_in_errors_are_as_in_a_single_pass(store):
    days = [f"2013-04-{day:02}" for day in range(1, 31)]
    details = {"model": "delays", "model_version": 3}
    write(store, "predictions", pa.table({"flight": days, "day": days, "score": [0.5] * 30}), APRIL, details)
    write(store, "flights", pa.table({"flight": pa.array([0], pa.timestamp("us", "UTC")), "y": [1.0]}))
    some = {"name": "predictions", "window": "2013-04-03/2013-04-24", "time_column": "day"}
    assert every(store, some, 3).dataset == task(store, some).dataset
    dates, days[19] = list(days), "4/20/2013"
    write(store, "predictions", pa.table({"flight": days, "day": dates, "score": [0.5] * 30}), APRIL, details)
    messages = []
    for run in (lambda: task(store, some, series="again"), lambda: every(store, some, 3, series="again")):
        with pytest.raises(SchemaError, match="'4/20/2013' in row 18") as error:
            run()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_a_window_without_rows_of_a_longer_dataset_gives_a_dataset_without_rows(store):
    days, details = ["2013-04-01", "2013-04-30"], {"model": "delays", "model_version": 3}
    write(store, "predictions", pa.table({"flight": days, "day": days, "score": [0.5] * 2}), APRIL, details)
    write(store, "flights", pa.table({"flight": days, "y": [1.0] * 2}))
    some = {"name": "predictions", "window": "2013-04-03/2013-04-24", "time_column": "day"}
    found = task(store, some)
    assert (found.rows, found.dataset) == (0, every(store, some, 3).dataset)
    assert open_dataset(store, found.dataset).table().column_names == ["flight", "day", "score", "label"]


def test_all_shards_read_the_labels_that_the_first_shard_selected(store):
    made = in_files(store, APRIL, [["1"] * 12])
    write(store, "flights", pa.table({"flight": ["1"], "y": [1.0]}))
    assert task(store, made, 2, 3).dataset is None
    write(store, "flights", pa.table({"flight": ["1"], "y": [2.0]}))
    task(store, made, 0, 3)
    done = task(store, made, 1, 3)
    assert open_dataset(store, done.dataset).table()["label"].to_pylist() == [1.0] * 12
    # If only one shard is cleared, it uses the same labels again. If all shards are cleared, they select the labels
    # again.
    assert task(store, made, 1, 3, series="cleared", succeeded=(0, 2)) == done
    again = every(store, made, 3, series="all")
    assert open_dataset(store, again.dataset).table()["label"].to_pylist() == [2.0] * 12


def test_if_the_first_shard_finds_nothing_all_are_skipped_although_labels_arrive(store):
    made = in_files(store, APRIL, [["1"] * 8])
    results = [task(store, made, 0, 2, on_missing="skip")]
    write(store, "flights", pa.table({"flight": ["1"], "y": [1.0]}))
    results.append(task(store, made, 1, 2, on_missing="skip"))
    assert [(result.dataset, result.shard) for result in results] == [(None, None)] * 2
    assert results[0].summary == results[1].summary
    assert every(store, made, 2, on_missing="skip", series="cleared").labelled == 8


def test_a_shard_that_finds_nothing_is_not_skipped_if_the_first_shard_has_found_labels(store, monkeypatch):
    made = in_files(store, APRIL, [["1"] * 8])
    write(store, "flights", pa.table({"flight": ["1"], "y": [1.0]}))
    task(store, made, 0, 2, on_missing="skip")
    real = join_labels.select

    def too_early(*args, **options):
        monkeypatch.setattr(join_labels, "select", real)
        raise DatasetNotFoundError("There is no dataset 'flights'.")

    monkeypatch.setattr(join_labels, "select", too_early)
    assert task(store, made, 1, 2, on_missing="skip").labelled == 8


def test_a_shard_that_runs_while_the_others_are_cleared_joins_again(store, monkeypatch):
    made = in_files(store, APRIL, [["1"] * 8])
    write(store, "flights", pa.table({"flight": ["1"], "y": [1.0]}))
    task(store, made, 0, 2)
    real = join_labels.Join.write

    def clear_the_other(self, *args):
        monkeypatch.setattr(join_labels.Join, "write", real)
        write(store, "flights", pa.table({"flight": ["1"], "y": [2.0]}))
        assert task(store, made, 0, 2, series="cleared").dataset is None
        return real(self, *args)

    monkeypatch.setattr(join_labels.Join, "write", clear_the_other)
    done = task(store, made, 1, 2)
    assert open_dataset(store, done.dataset).table()["label"].to_pylist() == [2.0] * 8
    assert [manifest.id for manifest in read_manifests(store, "outcomes")] == [done.dataset.id]


def test_a_shard_that_is_killed_after_any_write_is_retried_with_the_same_dataset():
    for last in count(1):
        store = DyingStore(f"memory://{uuid.uuid4().hex}")
        made = in_files(store, APRIL, [["1", "2"] * 8])
        write(store, "flights", pa.table({"flight": ["1"], "y": [1.0]}))
        task(store, made, 1, 2)
        store.writes, store.last = 0, last
        try:
            done = task(store, made, 0, 2)
        except Killed:
            assert len(list(read_manifests(store, "outcomes"))) <= 1
        else:
            break
        done = task(store, made, 0, 2)
        (manifest,) = read_manifests(store, "outcomes")
        assert (done.dataset.id, done.rows, done.labelled) == (manifest.id, 16, 8)
        assert task(store, made).dataset == done.dataset
    assert last > 6


def test_deleted_files_of_a_shard_are_an_error(store):
    made = in_files(store, APRIL, [["1"] * 8])
    write(store, "flights", pa.table({"flight": ["1"], "y": [1.0]}))
    task(store, made, 0, 2)
    (key,) = store.find("datasets/outcomes/files")
    store.delete(key)
    with pytest.raises(DatasetCorruptError, match=r"shard 0 of 2 were deleted .*Clear all shards"):
        task(store, made, 1, 2)
    assert not store.find("datasets/outcomes/manifests")
