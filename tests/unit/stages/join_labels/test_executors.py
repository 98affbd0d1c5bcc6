"""Parts of a join of labels on executors: the dataset of a single pass, exactly once whatever is lost.

That errors and numbers are those of a single pass is tested with the shards of mapped tasks.
"""

from __future__ import annotations

import json
import uuid

import pyarrow as pa
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import ComputeError, DatasetCorruptError, SpecError
from airflow_mlops.data import row_spans
from airflow_mlops.data.datasets import open_dataset, read_manifests
from airflow_mlops.data.predictions.privacy import Pseudonymizer
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import joining
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec
from airflow_mlops.stages.join_labels.step import run
from airflow_mlops.stages.shards import Round
from airflow_mlops.stages.usage import Meter
from tests.support.deployed import write
from tests.support.executors import LocalExecutors
from tests.support.one_duckdb import one_duckdb  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_duckdb")


@pytest.fixture
def store(monkeypatch) -> ArtifactStore:
    monkeypatch.setattr(joining, "FILE_ROWS", 4)
    found = ArtifactStore(f"memory://{uuid.uuid4().hex}")
    write(found, "flights", pa.table({"flight": range(0, 60, 2), "y": [float(n % 3) for n in range(30)]}))
    return found


def predictions(store: ArtifactStore, rows: int, window: str = "2013-04", **details: object) -> object:
    data = pa.table({"flight": pa.array(range(rows), pa.int64()), "score": pa.array([0.5] * rows, pa.float64())})
    return write(store, "predictions", data, window, {"model": "delays", "model_version": 3, **details})


def join(
    store: ArtifactStore,
    made: object,
    executors: LocalExecutors | None = None,
    series: str = "first",
    meter: Meter | None = None,
    **fields: object,
) -> JoinLabelsResult:
    spec = {"predictions": made, "labels": {"name": "flights"}, "on": ["flight"], "label": "y", "name": "outcomes"}
    place = Provenance(dag_id="dag", run_id="run", task_id="join")
    context = StepContext(store, f"results/dag/run/join/-1/{series}.json", provenance=place, meter=meter)
    if executors is not None:
        context = StepContext(store, context.key, provenance=place, meter=meter, executors=executors)
    return run(JoinLabelsSpec.model_validate({**spec, **fields}), context)


def files(store: ArtifactStore) -> list[str]:
    return sorted(store.find("datasets/outcomes/files"))


@pytest.mark.parametrize(("sizes", "parts"), [([0], 1), ([3], 1), ([9], 3), ([30, 5, 10], 8)])
def test_the_dataset_is_that_of_a_single_pass(store, sizes, parts):
    made = [predictions(store, size, f"2013-0{month}") for month, size in enumerate(sizes, 1)]
    executors, meter = LocalExecutors(store.url), Meter(store)
    found = join(store, made, executors, meter=meter)
    assert len(executors.ran) == parts
    assert meter.usage().written_bytes > sum(file.bytes for file in open_dataset(store, found.dataset).manifest.files)
    assert meter.usage().rows == found.rows == sum(sizes)
    # The id of a dataset is a hash of its files and of its manifest.
    assert join(store, made) == found
    assert len(list(read_manifests(store, "outcomes"))) == 1


def test_many_labels_make_fewer_parts(store):
    write(store, "flights", pa.table({"flight": range(160), "y": [1.0] * 160}))
    made, executors = predictions(store, 32), LocalExecutors(store.url)
    found = join(store, made, executors)
    assert len(executors.ran) == 2
    assert join(store, made) == found


def test_a_retry_joins_only_what_is_missing(store):
    made = predictions(store, 32)

    def lost(part: int) -> None:
        if part == 3:
            raise ComputeError("lost")

    first, again = LocalExecutors(store.url, lost), LocalExecutors(store.url)
    with pytest.raises(ComputeError, match="lost"):
        join(store, made, first)
    assert not list(read_manifests(store, "outcomes"))
    # The labels that have arrived since are not read by the retry.
    write(store, "flights", pa.table({"flight": [0], "y": [9.0]}))
    found = join(store, made, again)
    assert (sorted(first.ran), sorted(again.ran)) == ([4, 5, 6, 7], [0, 1, 2, 3])
    assert found.labelled == 16
    assert files(store) == sorted(file.path for file in open_dataset(store, found.dataset).manifest.files)
    # A retry after the commit finds the dataset. A cleared task joins all predictions again.
    assert join(store, made, LocalExecutors(store.url, pytest.fail)) == found
    cleared = LocalExecutors(store.url)
    assert join(store, made, cleared, "cleared").labelled == 1
    assert len(cleared.ran) == 8


def test_parts_that_run_twice_leave_each_row_once_and_no_file(store):
    class Blind(LocalExecutors):
        def run(self, *arguments):
            # No executor sees the finished part of another one, as when both run at once.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Round, "piece", lambda _: None)
                return super().run(*arguments)

    found = join(store, predictions(store, 30), Blind(store.url, times=2))
    dataset = open_dataset(store, found.dataset)
    assert dataset.table()["flight"].to_pylist() == [*range(30)]
    assert files(store) == sorted(file.path for file in dataset.manifest.files)


def test_files_that_were_deleted_before_the_commit_are_an_error(store):
    made = predictions(store, 32)

    def lost(part: int) -> None:
        if part == 0:
            raise ComputeError("lost")

    with pytest.raises(ComputeError):
        join(store, made, LocalExecutors(store.url, lost))
    store.delete(files(store)[0])
    with pytest.raises(DatasetCorruptError):
        join(store, made, LocalExecutors(store.url))
    assert not list(read_manifests(store, "outcomes"))


def test_keys_are_hashed_on_executors(store, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_HASHES", json.dumps({"conn_type": "generic", "password": "k" * 32}))
    key = Pseudonymizer.from_connection(StepContext(store).connection("hashes"))
    data = pa.table({"flight": key.hash_column(pa.array(range(20))), "score": [0.5] * 20})
    details = {"model": "delays", "model_version": 3, "hashed": ["flight"], "hash_key_id": key.key_id}
    made = write(store, "predictions", data, "2013-04", details)
    executors = LocalExecutors(store.url)
    found = join(store, made, executors, hash_conn_id="hashes")
    assert (found.labelled, executors.conn_ids) == (10, {"hashes"})
    assert join(store, made, hash_conn_id="hashes") == found
    # The step refuses before an executor starts.
    with pytest.raises(SpecError, match="hash_conn_id"):
        join(store, made, LocalExecutors(store.url, pytest.fail))


def test_a_mapped_shard_is_joined_in_one_process(store):
    made = predictions(store, 16)
    join(store, made, LocalExecutors(store.url, pytest.fail), shard=0, shards=2)


@pytest.mark.parametrize(
    ("rows", "labels", "count"),
    [
        (0, 0, 1),
        (1 << 18, 0, 1),
        (3_000_000, 0, 8),
        (50 << 20, 0, 50),
        (50 << 20, 50 << 20, 8),
        (3_000_000, 50 << 20, 1),
    ],
)
def test_large_datasets_of_labels_make_fewer_parts(rows, labels, count):
    class Sized:
        def files(self) -> list[object]:
            return [type("File", (), {"rows": rows})]

    assert row_spans.count_of_pieces([Sized()], 1 << 18, labels // 8) == count
