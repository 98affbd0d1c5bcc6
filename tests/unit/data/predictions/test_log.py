"""The prediction log contains each prediction of each version once, even if tasks that wrote it crashed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Condition

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, find_datasets, in_slots, open_dataset
from airflow_mlops.data.predictions import log as prediction_log
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.predictions.privacy import KEEP_ALL, Privacy, Pseudonymizer
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score import step as score
from tests.support.candidates import linear
from tests.support.deployed import FEATURES, WEIGHTS, flights, scoring_set
from tests.support.killing import Killed
from tests.support.predictions import DyingStore, model_in_memory, rows, score_rows

MONTHS = ("2013-04", "2013-05", "2013-06")


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return model_in_memory()


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path}")


def present(store, window: str | None = None) -> dict[tuple[str, int], list[int]]:
    """The flights in the log by window and version, as a reader sees them."""
    found = defaultdict(list)
    for dataset in PredictionLog(store, "delays").present(Window.model_validate(window) if window else None):
        table = dataset.table()
        found[dataset.manifest.window.label, table["model_version"][0].as_py()] += table["flight"].to_pylist()
    return dict(found)


def test_another_version_adds_to_the_log_and_changes_nothing_else(store, model):
    first = score_rows(store, model, 1, "2013-04", rows(1, 2, 3))
    before = {key: store.read_bytes(key) for key in store.find("datasets/delays_predictions") if "/windows/" not in key}
    second = score_rows(store, model, 2, "2013-04", rows(1, 2))
    assert present(store) == {("2013-04", 1): [1, 2, 3], ("2013-04", 2): [1, 2]}
    assert {key: store.read_bytes(key) for key in before} == before
    # The dataset of the window is the one written last.
    (found,) = find_datasets(store, "delays_predictions", Window.model_validate("2013-04"))
    assert found.manifest.id == second.id
    assert [made.id for made in PredictionLog(store, "delays").history()] == [first.id, second.id]


def test_scoring_a_window_again_replaces_the_current_predictions_and_keeps_the_old_dataset(store, model):
    first = score_rows(store, model, 1, "2013-04", rows(1, 2, 3))
    second = score_rows(store, model, 1, "2013-04", rows(2, 3, 4))
    log = PredictionLog(store, "delays")
    assert present(store) == {("2013-04", 1): [2, 3, 4]}
    assert [made.id for made in log.history(Window.model_validate("2013"))] == [first.id, second.id]
    assert open_dataset(store, first.ref).table()["flight"].to_pylist() == [1, 2, 3]
    assert [batch["flight"].to_pylist() for batch in log.batches(columns=["flight"])] == [[2, 3, 4]]


def test_windows_are_ordered_by_time_and_not_by_when_they_were_scored(store, model):
    for month in ("2013-06", "2013-04", "2013-05"):
        score_rows(store, model, 1, month, rows(int(month[-1])))
    assert list(present(store).values()) == [[4], [5], [6]]
    assert list(present(store, "2013-05..2013-06").values()) == [[5], [6]]
    assert present(store, "2014") == {}


def test_windows_and_versions_are_hive_partitions_for_other_engines(tmp_path, model):
    store = ArtifactStore(f"file://{tmp_path}/store")
    for version, window, numbers in (
        (1, "2013-04", [1]),
        (1, "2013-04", [1, 2]),
        (2, "2013-04", [1]),
        (1, "2013-05", [5]),
    ):
        score_rows(store, model, version, window, rows(*numbers))
    score_rows(store, model, 1, "2013-06-01T00:00:00Z/2013-06-08T00:00:00Z", rows(6))
    folder = ds.dataset(store.path("datasets/delays_predictions/files"), partitioning="hive")
    april = (ds.field("window") == "2013-04") & (ds.field("version") == 1)
    assert len(list(folder.get_fragments(filter=april))) == 2
    log = PredictionLog(store, "delays")
    # The folder also contains replaced predictions; the list of files does not.
    assert sorted(folder.to_table(filter=april)["flight"].to_pylist()) == [1, 1, 2]
    exact = log.arrow()
    assert sorted(exact.files) == sorted(file.removeprefix("file://") for file in log.files())
    assert sorted(exact.to_table(filter=april)["flight"].to_pylist()) == [1, 2]
    assert sorted(exact.to_table()["flight"].to_pylist()) == [1, 1, 2, 5, 6]
    week = [path for path in folder.files if "window=20130601T000000Z-20130608T000000Z/version=1" in path]
    assert len(week) == 1


def test_windows_with_different_columns_are_combined_unless_types_differ(store, model):
    def april(version: int, privacy: Privacy) -> None:
        data = open_dataset(store, scoring_set(store, rows(1, 2), "2013-04", f"scoring_{version}"))
        score.score(
            [data], model, ModelVersionRef(model="delays", version=version, run_id="r"), name="delays_predictions",
            part=None, window=data.manifest.window, context=StepContext(store), privacy=privacy,
        )  # fmt: skip

    april(1, Privacy([], ["wind"]))
    april(2, Privacy())
    found = PredictionLog(store, "delays").arrow().to_table(columns=["version", "wind"]).to_pylist()
    assert [(row["version"], row["wind"] is None) for row in found] == [(1, True), (1, True), (2, False), (2, False)]
    april(3, Privacy(["wind"], [], Pseudonymizer(b"0123456789abcdef")))
    with pytest.raises(SchemaError, match="delays_predictions' .*wind"):
        PredictionLog(store, "delays").arrow()


def test_the_weights_of_the_rows_are_in_the_log_if_the_scored_rows_have_them(store):
    plain = model_in_memory()
    contract = plain.contract.model_copy(update={"sample_weight": "weight"})
    weighted = type(plain)(linear("binary", FEATURES, WEIGHTS), contract)
    data = rows(1, 2).append_column("weight", pa.array([2.0, 0.5])).append_column("other", pa.array([1, 2]))

    def scored(number: int, found, data: pa.Table, privacy: Privacy = KEEP_ALL) -> pa.Table:
        dataset = open_dataset(store, scoring_set(store, data, "2013-04", f"weighted_{number}"))
        manifest = score.score(
            [dataset], found, ModelVersionRef(model="delays", version=number, run_id="r"), name="delays_predictions",
            part=None, window=dataset.manifest.window, context=StepContext(store), privacy=privacy,
        )  # fmt: skip
        return open_dataset(store, manifest.ref).table()

    with_weights = scored(1, weighted, data)
    assert with_weights["weight"].to_pylist() == [2.0, 0.5]
    assert "other" not in with_weights.column_names
    # The cases are: rows without the column, models without weights, and privacy options.
    assert "weight" not in scored(2, weighted, data.drop_columns("weight")).column_names
    assert "weight" not in scored(3, plain, data).column_names
    assert "weight" not in scored(4, weighted, data, Privacy([], ["weight"])).column_names
    # Windows with and without weights belong to one log. In windows without weights, the weights are null.
    log = PredictionLog(store, "delays").arrow().to_table(columns=["version", "weight"]).to_pylist()
    assert {(row["version"], row["weight"]) for row in log} == {(1, 2.0), (1, 0.5), (2, None), (3, None), (4, None)}


def test_windows_with_different_types_of_one_kind_are_one_table(store):
    tables = [
        pa.table({"n": pa.array([1], pa.int32()), "s": ["1"]}),
        pa.table({"n": [2], "s": pa.array(["2"]).dictionary_encode()}),
        pa.table({"n": pa.nulls(1), "s": pa.nulls(1)}),
    ]
    for month, table in enumerate(tables, 1):
        window = Window.model_validate(f"2013-{month:02d}")
        with DatasetWriter(store, "delays_predictions", prediction_log.folder(window, 1)) as writer:
            writer.write(table)
            writer.commit(window=window, slots=[f"{month}"], details={"model": "delays", "model_version": 1})
    found = PredictionLog(store, "delays").arrow().to_table().sort_by("window").to_pylist()
    assert [(row["n"], row["s"], row["version"]) for row in found] == [(1, "1", 1), (2, "2", 1), (None, None, 1)]


def test_rows_without_a_window_have_one_entry_for_each_scored_dataset(store, model):
    score_rows(store, model, 1, None, rows(1))
    score_rows(store, model, 1, None, rows(2))
    found = [dataset.table()["flight"].to_pylist() for dataset in PredictionLog(store, "delays").present()]
    assert sorted(found) == [[1], [2]]
    assert PredictionLog(store, "delays").present(Window.model_validate("2013")) == []
    assert all("/window=__HIVE_DEFAULT_PARTITION__/version=1/" in url for url in PredictionLog(store, "delays").files())


def test_models_that_share_a_dataset_name_are_kept_apart(store, model):
    score_rows(store, model, 1, "2013-04", rows(1))
    other = PredictionLog(store, "arrivals", name="delays_predictions")
    assert (other.present(), other.history()) == ([], [])


TRIES = st.tuples(
    st.integers(1, 2),
    st.sampled_from(MONTHS),
    st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    # A commit writes a manifest, a slot and a window.
    st.lists(st.integers(0, 3), max_size=2),
)


@given(st.lists(TRIES, max_size=6), st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_row_is_in_the_log_once_however_often_tasks_are_killed(model, tmp_path, tasks, given_up):
    url = f"file://{tmp_path}/{uuid.uuid4().hex}"
    expected = {}
    for version, month, numbers, deaths in tasks:
        for death in deaths:
            # Each try reads its rows in another order.
            tried = sorted(numbers, key=lambda number, death=death: (number * 7 + death) % 10)
            reached = death >= 2
            try:
                score_rows(DyingStore(url, death), model, version, month, rows(*tried))
                assert death == 3
            except Killed:
                assert death < 3
            if reached:
                expected[month, version] = tried
        if not (given_up and deaths):
            score_rows(ArtifactStore(url), model, version, month, rows(*numbers))
            expected[month, version] = numbers
    assert present(ArtifactStore(url)) == dict(sorted(expected.items()))


KILLED = """
import os, signal, sys
from airflow_mlops.data.store import ArtifactStore
from tests.support.predictions import model_in_memory, rows, score_rows

real = ArtifactStore.write_json
def write(self, key, value):
    if "delays_predictions/" + sys.argv[2] in key:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, key, value)
ArtifactStore.write_json = write
data = rows(1, 2, 3)
score_rows(ArtifactStore(sys.argv[1]), model_in_memory(), 1, "2013-04", data, dag_id="d", run_id="r", task_id="score")
"""


@pytest.mark.parametrize(
    ("point", "found"), [("manifests", {}), ("slots", {}), ("windows", {("2013-04", 1): [1, 2, 3]})]
)
def test_a_killed_process_leaves_no_partial_predictions_and_its_retry_completes_them(tmp_path, model, point, found):
    store = ArtifactStore(f"file://{tmp_path}/store")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, store.url, point],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    # The Parquet file was complete before the kill.
    assert len([key for key in store.find("datasets/delays_predictions/files") if key.endswith(".parquet")]) == 1
    assert present(store) == found
    score_rows(store, model, 1, "2013-04", rows(1, 2, 3), dag_id="d", run_id="r", task_id="score", try_number=2)
    assert present(store) == {("2013-04", 1): [1, 2, 3]}
    (file,) = PredictionLog(store, "delays").files()
    assert os.path.exists(file.removeprefix("file://"))


def test_mapped_tasks_cannot_replace_each_others_predictions(store, model):
    run = {"dag_id": "d", "run_id": "r", "task_id": "score"}
    score_rows(store, model, 1, "2013-04", rows(1), part="data", **run, map_index=0)
    with pytest.raises(SpecError, match=r"'score\[1\]' .*'score\[0\]'"):
        score_rows(store, model, 1, "2013-04", rows(2), part="data", **run, map_index=1)
    assert present(store) == {("2013-04", 1): [1]}
    # A retry, another window, another version and another DAG run do not conflict.
    score_rows(store, model, 1, "2013-04", rows(1, 2), part="data", **run, map_index=0, try_number=2)
    score_rows(store, model, 1, "2013-05", rows(2), part="data", **run, map_index=1)
    score_rows(store, model, 2, "2013-04", rows(3), part="data", **run, map_index=1)
    score_rows(store, model, 1, "2013-04", rows(4), **{**run, "run_id": "later"})
    assert present(store) == {("2013-04", 1): [4], ("2013-04", 2): [3], ("2013-05", 1): [2]}


def test_remapped_tasks_may_score_each_others_windows_again(store, model):
    run = {"dag_id": "d", "run_id": "r", "task_id": "score", "source": "scoring"}
    for order in ((0, 1), (1, 0)):
        for index, number in zip(order, (4, 5), strict=True):
            # The rows may have changed as well.
            score_rows(store, model, 1, f"2013-0{number}", rows(number, order[0]), **run, map_index=index)
    assert present(store) == {("2013-04", 1): [4, 1], ("2013-05", 1): [5, 1]}
    # Different parts of one dataset contain different rows.
    with pytest.raises(SpecError, match="score.2."):
        score_rows(store, model, 1, "2013-04", rows(4), part="data", **run, map_index=2)


def test_only_one_of_several_concurrent_mapped_tasks_scores_a_window(tmp_path, model):
    store = ArtifactStore(f"file://{tmp_path}/store")

    def task(index: int) -> int | None:
        try:
            score_rows(
                store, model, 1, "2013-04", rows(index), dag_id="d", run_id="r", task_id="score", map_index=index
            )
        except SpecError:
            return None
        return index

    with ThreadPoolExecutor(8) as threads:
        scored = [index for index in threads.map(task, range(8)) if index is not None]
    assert len(scored) == 1
    assert present(store) == {("2013-04", 1): scored}


def test_a_window_without_rows_is_in_the_log(store, model):
    score_rows(store, model, 1, "2013-04", flights(3).slice(0, 0))
    (dataset,) = PredictionLog(store, "delays").present()
    assert dataset.manifest.rows == 0
    assert np.asarray(dataset.table()["score"]).size == 0


class Turns:
    """Lets threads take steps in a given order.

    :param order: numbers of the threads
    """

    def __init__(self, order: list[int]) -> None:
        self._order = order
        self._changed = Condition()

    def take(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: not self._order or self._order[0] == number, timeout=30)
            if self._order:
                self._order.pop(0)
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        with self._changed:
            self._order[:] = [item for item in self._order if item != number]
            self._changed.notify_all()


class GatedStore(ArtifactStore):
    """A store whose requests for slots and windows wait for their turn."""

    def __init__(self, url: str, turns: Turns, number: int) -> None:
        super().__init__(url)
        self.turns, self.number = turns, number

    def _gate(self, key: str) -> None:
        if "/slots/" in key or "/windows/" in key:
            self.turns.take(self.number)

    def write_bytes(self, key: str, data: bytes) -> None:
        self._gate(key)
        super().write_bytes(key, data)

    def read_bytes(self, key: str) -> bytes:
        self._gate(key)
        return super().read_bytes(key)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 2), max_size=24))
def test_slot_and_window_agree_in_whatever_order_writers_write_them(tmp_path_factory, order):
    url = tmp_path_factory.mktemp("store").as_uri()
    turns, window = Turns(order), Window.model_validate("2013-04-01")

    def score(number: int) -> str:
        try:
            with DatasetWriter(GatedStore(url, turns, number), "predictions") as writer:
                writer.write(pa.table({"score": [number]}))
                return writer.commit(window=window, slots=[f"{window.key}-delays-v3"])[0].id
        finally:
            turns.leave(number)

    with ThreadPoolExecutor(3) as pool:
        written = list(pool.map(score, range(3)))
    store = ArtifactStore(url)
    (current,) = in_slots(store, "predictions").values()
    assert current.id in written
    assert [dataset.manifest.id for dataset in find_datasets(store, "predictions", window)] == [current.id]


def test_shares_of_several_datasets_are_added_up():
    assert prediction_log.sampled([({}, 5), ({}, 7)]) == {}
    half, mixed = {"sample": {"0.5": 3}}, {"sample": {"0.5": 2, "1.0": 1}}
    assert prediction_log.sampled([({}, 5), (half, 3), (mixed, 3)]) == {"sample": {"1.0": 6, "0.5": 5}}
