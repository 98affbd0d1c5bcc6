"""Shards of a scoring: one dataset that equals a single pass, whatever fails, is retried, is cleared or runs at once."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import count
from types import SimpleNamespace

import pyarrow as pa
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.errors import DatasetCorruptError, SchemaError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, Manifest, open_dataset, read_manifests
from airflow_mlops.data.datasets.content import ContentHash
from airflow_mlops.data.leftovers import find_leftovers
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.predictions.privacy import KEEP_ALL, Privacy
from airflow_mlops.data.selection import select, window_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.score import ScoreOperator
from airflow_mlops.operators.sharded import instances
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score import scoring, shards
from airflow_mlops.stages.score.scoring import Scoring
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.deployed import flights, scoring_set
from tests.support.dying_store import DyingStore
from tests.support.killing import Killed
from tests.support.predictions import model_in_memory

MODEL = model_in_memory()
DETAILS = {"keys": ["flight"], "timestamp": "time_hour"}


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_ROWS", 7)


def version(number: int = 1) -> ModelVersionRef:
    return ModelVersionRef(model="delays", version=number, run_id="r")


def task(
    store: ArtifactStore,
    dataset: object,
    shard: int,
    of: int,
    *,
    champion: int = 1,
    series: str = "first",
    succeeded: list[int] | None = None,
    part: str | None = None,
    privacy: Privacy = KEEP_ALL,
) -> tuple[shards.Round, Manifest | None]:
    """Run a shard as the step does. ``series`` are the tries since the shard was cleared last."""
    spec = ScoreSpec(model="delays", dataset=dataset, shard=shard, shards=of, part=part, succeeded=succeeded or [])
    place = Provenance(dag_id="dag", run_id="run", task_id="score", map_index=shard)
    context = StepContext(store, f"results/dag/run/score/{shard}/{series}.json", provenance=place)
    joined = shards.join(spec, context)
    datasets = select(store, spec.dataset, kept=joined.kept)
    claimed = shards.version(joined, lambda: version(champion))
    work = Scoring(datasets, claimed, "delays_predictions", part, window_of(datasets), context, privacy)
    work.one_shard(joined, lambda: (MODEL, None))
    return joined, work.dataset_of_shards(joined)


def every(store: ArtifactStore, dataset: object, of: int, **options: object) -> Manifest:
    """Run all shards. Only one of them returns the dataset."""
    (manifest,) = [found for found in (task(store, dataset, number, of, **options)[1] for number in range(of)) if found]
    return manifest


def single(store: ArtifactStore, dataset: object, part: str | None = None, privacy: Privacy = KEEP_ALL) -> Manifest:
    spec = ScoreSpec(model="delays", dataset=dataset)
    datasets = select(store, spec.dataset)
    work = Scoring(datasets, version(), "single", part, window_of(datasets), StepContext(store), privacy)
    return work.all_rows(MODEL)


def rows(store: ArtifactStore, manifest: Manifest) -> pa.Table:
    """The rows without the time and the duration of the scoring, which differ in each pass."""
    return open_dataset(store, manifest.ref).table().drop_columns(["scored_at", "latency_ms"])


def assert_equal(store: ArtifactStore, one: Manifest, other: Manifest) -> None:
    found, expected = rows(store, one), rows(store, other)
    assert found.equals(expected)
    hashes = [ContentHash(table.schema) for table in (found, expected)]
    for content, table in zip(hashes, (found, expected), strict=True):
        content.update(table)
    assert hashes[0].hexdigest() == hashes[1].hexdigest()
    assert (one.window, one.parents, one.columns, one.details) == (
        other.window, other.parents, other.columns, other.details,
    )  # fmt: skip
    open_dataset(store, one.ref).verify()


def in_files(store: ArtifactStore, month: int, sizes: list[int]) -> object:
    """A dataset whose files have these numbers of rows."""
    data = flights(sum(sizes), seed=month)
    with DatasetWriter(store, "scoring") as writer:
        first = 0
        for size in sizes:
            with DatasetWriter(store, "scoring") as other:
                other.write(data.slice(first, size))
                writer.include(other.finish())
            first += size
        return writer.commit(window=Window.model_validate(f"2013-0{month}"), details=DETAILS)[0].ref


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=3), min_size=1, max_size=2),
    st.integers(1, 9),
    st.integers(1, 9),
)
@settings(max_examples=12, deadline=None)
def test_the_shards_together_equal_a_single_pass(layout, of, batch_rows):
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BATCH_ROWS", batch_rows)
        datasets = [in_files(store, month, sizes) for month, sizes in enumerate(layout, 1)]
        found = every(store, datasets, of)
        assert_equal(store, found, single(store, datasets))
    assert len(found.files) <= of
    assert (min(file.rows for file in found.files) > 0) == (found.rows > 0)
    assert [entry.id for entry in PredictionLog(store, "delays").entries()] == [found.id]


def test_shards_of_a_small_dataset_have_rows_and_read_only_their_files(store, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_ROWS", 65_536)
    monkeypatch.setattr(scoring, "_FEWEST_ROWS", 2)
    dataset = in_files(store, 1, [20, 20])
    second = open_dataset(store, dataset).manifest.files[1]
    whole = store.read_bytes(second.path)
    store.write_bytes(second.path, b"damaged")
    joined, _ = task(store, dataset, 0, 2)
    assert joined.piece().rows == 20
    store.write_bytes(second.path, whole)
    assert_equal(store, task(store, dataset, 1, 2)[1], single(store, dataset))


def test_parts_privacy_and_rows_of_a_window_are_as_in_a_single_pass(store):
    start = datetime(2013, 4, 1, tzinfo=timezone.utc)
    data = flights(60).set_column(1, "time_hour", pa.array([str(start + timedelta(hours=12 * n)) for n in range(60)]))
    with DatasetWriter(store, "month") as writer:
        writer.write(data.slice(0, 40), "train")
        writer.write(data.slice(40), "test")
        ref = writer.commit(window=Window.model_validate("2013-04"), details=DETAILS)[0].ref
    private = Privacy([], ["wind"])
    one, other = every(store, ref, 3, part="test", privacy=private), single(store, ref, "test", private)
    assert (one.rows, "wind" in one.column_names) == (20, False)
    assert_equal(store, one, other)
    days = {"name": "month", "window": "2013-04-03/2013-04-24", "time_column": "time_hour"}
    one, other = every(store, days, 4), single(store, days)
    assert one.rows == 42
    assert_equal(store, one, other)


def test_windows_whose_columns_have_different_types_of_one_kind_are_scored_together(store):
    data = flights(20)
    first = data.set_column(3, "wind", pa.nulls(20)).set_column(1, "time_hour", pa.array(["2013-04-01"] * 20))
    second = data.set_column(0, "flight", data["flight"].cast(pa.uint64()))
    for window, table in (("2013-04", first), ("2013-05", second), ("2013-06", data.slice(0, 0))):
        with DatasetWriter(store, "months") as writer:
            writer.write(table)
            writer.commit(window=Window.model_validate(window), details=DETAILS)
    months = {"name": "months", "window": "2013-04..2013-06"}
    found, other = (rows(store, item) for item in (every(store, months, 5), single(store, months)))
    assert found.equals(other)
    # The model returns NaN for a row without wind.
    assert found["prediction"].to_pylist()[:20] == found["score"].to_pylist()[:20] == [None] * 20
    assert found.schema.field("wind").type == pa.float64()
    assert found["wind"].to_pylist() == [None] * 20 + data["wind"].to_pylist()
    assert found["flight"].to_pylist() == [*range(20), *range(20)]
    assert found["time_hour"][0].as_py() == datetime(2013, 4, 1, tzinfo=timezone.utc)


def test_an_error_names_the_row_among_all_rows(store):
    data = flights(60)
    times = pa.array(["2013-04-01"] * 50 + ["4/1/2013"] + ["2013-04-01"] * 9)
    ref = scoring_set(store, data.set_column(1, "time_hour", times), "2013-04")
    with pytest.raises(SchemaError, match="'4/1/2013' in row 51"):
        every(store, ref, 4)
    assert not store.find("datasets/delays_predictions/manifests")


def test_a_version_and_a_selection_are_claimed_by_the_first_shard(store):
    scoring_set(store, flights(30), "2013-04")
    by_name = {"name": "scoring", "window": "2013-04"}
    assert task(store, by_name, 2, 3, champion=1)[1] is None
    scoring_set(store, flights(40), "2013-04")
    task(store, by_name, 0, 3, champion=2)
    _, found = task(store, by_name, 1, 3, champion=3)
    assert (found.details["model_version"], found.rows) == (1, 30)
    assert set(rows(store, found)["model_version"].to_pylist()) == {1}
    # Another DAG run, or the same task with other parameters, has shards of its own.
    assert shards.version(task(store, {**by_name, "gaps": "allow"}, 0, 3, champion=2)[0], None).version == 2


def test_a_shard_that_is_cleared_alone_keeps_the_version_and_the_dataset(store):
    ref = scoring_set(store, flights(30), "2013-04")
    found = every(store, ref, 3)
    # The last shard committed the dataset, and only this shard returns it again.
    for shard, expected in ((0, None), (2, found)):
        others = [number for number in range(3) if number != shard]
        joined, again = task(store, ref, shard, 3, champion=2, series="cleared", succeeded=others)
        assert (joined.number, again) == (0, expected)
    assert list(read_manifests(store, "delays_predictions")) == [found]
    assert len(store.find("datasets/delays_predictions/files")) == len(found.files)


def test_if_all_shards_are_cleared_the_version_is_resolved_again(store):
    ref = scoring_set(store, flights(30), "2013-04")
    every(store, ref, 3)
    # Two shards begin at the same time. The third shard begins after one of them has succeeded.
    first, _ = task(store, ref, 1, 3, champion=2, series="cleared")
    other, _ = task(store, ref, 0, 3, champion=3, series="cleared")
    last, found = task(store, ref, 2, 3, champion=4, series="cleared", succeeded=[1])
    assert {joined.number for joined in (first, other, last)} == {1}
    assert found.details["model_version"] == 2
    # A retry belongs to the same round. A shard of the old round notices that its round is no longer the newest.
    assert task(store, ref, 0, 3, series="cleared", succeeded=[1, 2])[0].number == 1
    assert first.is_newest
    assert not replace(first, number=0).is_newest
    assert task(store, ref, 1, 3, champion=5, series="again", succeeded=[0, 2])[0].number == 1


def test_a_shard_that_is_killed_after_any_write_is_retried_with_the_same_dataset():
    for last in count(1):
        store = DyingStore(f"memory://{uuid.uuid4().hex}")
        ref = scoring_set(store, flights(20), "2013-04")
        task(store, ref, 1, 2)
        store.writes, store.last = 0, last
        try:
            task(store, ref, 0, 2)
        except Killed:
            # A killed process cannot delete its file.
            assert len(PredictionLog(store, "delays").history()) <= 1
        else:
            break
        _, found = task(store, ref, 0, 2)
        assert [item.id for item in PredictionLog(store, "delays").entries()] == [found.id]
        assert list(read_manifests(store, "delays_predictions")) == [found]
        assert_equal(store, found, single(store, ref))
    assert last > 8


def test_files_of_a_shard_without_a_dataset_are_leftovers_and_missing_ones_are_an_error(store):
    ref = scoring_set(store, flights(30), "2013-04")
    task(store, ref, 0, 2)
    assert not PredictionLog(store, "delays").history()
    (key,) = store.find("datasets/delays_predictions/files")
    found = find_leftovers(store, datetime.now(timezone.utc) + timedelta(days=1)).found
    assert [(item.kind, item.key) for item in found if item.kind == "file of no dataset"] == [
        ("file of no dataset", key)
    ]
    store.delete(key)
    with pytest.raises(DatasetCorruptError, match=r"shard 0 of 2 were deleted .*Clear all shards"):
        task(store, ref, 1, 2)
    assert not PredictionLog(store, "delays").history()


def test_shards_that_finish_at_the_same_time_commit_one_dataset(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}/store")
    ref = scoring_set(store, flights(60), "2013-04")
    with ThreadPoolExecutor(8) as threads:
        # Each shard runs twice at the same time, as if Airflow had started a second try because it considered the first
        # one dead.
        done = list(threads.map(lambda number: task(store, ref, number % 4, 4), range(8)))
    found = {manifest.id for _, manifest in done if manifest is not None}
    owners = {joined.shard for joined, manifest in done if manifest is not None}
    (manifest,) = read_manifests(store, "delays_predictions")
    assert (found, len(owners)) == ({manifest.id}, 1)
    assert_equal(store, manifest, single(store, ref))
    assert set(store.find("datasets/delays_predictions/files")) == {file.path for file in manifest.files}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shard": 3}, "shard=3 is set, but `shards` is not"),
        ({"shards": 8}, r"shards=8 is set, but `shard` is not.*shard=list\(range\(8\)\)"),
        ({"shard": "8", "shards": "8"}, "shard=8 is out of range: with shards=8 it must be between 0 and 7"),
    ],
)
def test_incomplete_shards_are_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        parse(ScoreSpec, {"model": "delays", "dataset": {"name": "rows"}, **fields}, "The test")


def test_shards_need_a_dag_run(store):
    spec = ScoreSpec(model="delays", dataset={"name": "rows"}, shard=0, shards=2)
    with pytest.raises(SpecError, match="mapped tasks of a DAG run"):
        shards.join(spec, StepContext(store))


def context_of(states: dict[str, str | None]) -> dict[str, object]:
    ti = SimpleNamespace(
        dag_id="d", task_id="score", run_id="r", map_index=1, get_task_states=lambda **_: {"r": states}
    )
    return {"ti": ti}


def test_the_instances_are_those_of_the_mapped_task():
    states = {"score_0": "success", "score_1": "running", "score_10": "success", "score_2": None}
    assert instances(context_of(states)) == {0: "success", 1: "running", 10: "success", 2: None}
    assert instances(context_of({"score": "running"})) == {}
    # The DAG was changed from three shards to two.
    assert instances(context_of({"score_0": "success", "score_1": "running", "score_2": "removed"})) == {
        0: "success",
        1: "running",
    }


@pytest.mark.parametrize("states", [{"score": "running"}, {"score_0": "success", "score_1": "running"}])
def test_fewer_mapped_tasks_than_shards_are_refused(states, monkeypatch):
    operator = ScoreOperator(task_id="score", model="delays", dataset={"name": "rows"}, shard=0, shards=3)
    call = StepCall(step="score", spec={"shard": 0, "shards": 3}, store="memory://", key="results/x.json", version="0")
    monkeypatch.setattr(StepOperator, "call", lambda *_: call)
    with pytest.raises(SpecError, match=rf"has {len(states) - ('score' in states)} mapped instances, but shards=3"):
        operator.call(ScoreSpec(model="delays", dataset={"name": "rows"}, shard=0, shards=3), context_of(states))
    for state in (None, "success"):
        enough = context_of({"score_0": "success", "score_1": "running", "score_2": state})
        spec = operator.call(ScoreSpec(model="delays", dataset={"name": "rows"}), enough).spec
        assert (spec["succeeded"], spec["others_succeeded"]) == (([0, 2], True) if state else ([0], False))


@pytest.mark.parametrize(
    ("expand", "missing"),
    [
        (lambda found: found.expand(shard=[0, 0, 2]), 1),
        (lambda found: found.expand_kwargs([{"shard": number} for number in (1, 2, 2)]), 0),
        (lambda found: found.expand(shard=[2, 0, 1, 1]), None),
        # The output of a task is not known before the task has run.
        (lambda found: found.expand(shard=EmptyOperator(task_id="shards").output), None),
    ],
)
def test_a_shard_that_no_mapped_task_has_is_refused(expand, missing, monkeypatch):
    with DAG("mapped", schedule=None) as dag:
        expand(ScoreOperator.partial(task_id="score", model="delays", dataset={"name": "rows"}, shards=3))
    operator = ScoreOperator(task_id="score", model="delays", dataset={"name": "rows"}, shard=2, shards=3)
    call = StepCall(step="score", spec={"shard": 2, "shards": 3}, store="memory://", key="results/x.json", version="0")
    monkeypatch.setattr(StepOperator, "call", lambda *_: call)
    context = {**context_of({f"score_{number}": "running" for number in range(4)}), "dag": dag}
    if missing is None:
        assert operator.call(None, context).spec["shards"] == 3
        return
    with pytest.raises(SpecError, match=f"no mapped instance of shard {missing}"):
        operator.call(None, context)


def test_a_piece_is_kept_if_the_response_to_its_write_was_lost(store, monkeypatch):
    ref = scoring_set(store, flights(20), "2013-04")
    real = store.fs.pipe_file

    def repeated(path, data, mode="overwrite", **options):
        # The client library repeats a write whose response was lost.
        if mode == "create":
            real(path, data, mode=mode, **options)
        return real(path, data, mode=mode, **options)

    monkeypatch.setattr(type(store.fs), "pipe_file", staticmethod(repeated))
    found = every(store, ref, 2)
    monkeypatch.undo()
    open_dataset(store, found.ref).verify()
    assert_equal(store, found, single(store, ref))
