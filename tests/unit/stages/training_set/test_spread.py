"""Training sets that executors build in parts: the datasets of the worker, whatever is lost."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import ComputeError, LeakageError, MLOpsError, SchemaError, TrainingError
from airflow_mlops.core.windows import Window
from airflow_mlops.data import row_spans
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.shards import Piece, Round
from airflow_mlops.stages.training_set import files, spread
from airflow_mlops.stages.training_set.events import Times
from airflow_mlops.stages.training_set.parts import Block, divided
from airflow_mlops.stages.training_set.spec import TrainingSetResult, TrainingSetSpec
from airflow_mlops.stages.training_set.step import run
from tests.support.executors import LocalExecutors
from tests.support.one_duckdb import one_duckdb  # noqa: F401 - a fixture
from tests.unit.stages.training_set.test_training_set import START

pytestmark = pytest.mark.usefixtures("one_duckdb")

ROWS = 160


@pytest.fixture
def store(tmp_path, monkeypatch) -> ArtifactStore:
    monkeypatch.setattr(spread, "BLOCK_ROWS", 32)
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 8)
    monkeypatch.setattr(files, "FILE_ROWS", 40)
    return ArtifactStore(f"file://{tmp_path}/store")


def events(seed: int = 0) -> pa.Table:
    """Events in no order, of which some are equal, some have equal times, and some have no label."""
    rng = random.Random(seed)
    rows = [
        {
            "id": rng.choice([b"\xff", b"a", b"b", b"c", None]) if rng.random() < 0.5 else str(number).encode(),
            "place": f"N{rng.randrange(9)}",
            "at": START + timedelta(hours=rng.randrange(ROWS // 3)),
            "number": rng.choice([float("inf"), float("nan"), -0.0, 1.5, None]),
            "whole": Decimal(rng.randrange(9)),
            "exact": Decimal(rng.randrange(90)) / 10,
            "score": rng.choice(["predicted", None]),
            "list": [rng.random()] * rng.randrange(3),
            "delay": rng.choice([None, *range(-30, 60)]),
        }
        for number in range(ROWS - 20)
    ]
    return pa.Table.from_pylist([*rows, *rows[:20]]).cast(
        pa.schema(
            {
                "id": pa.binary(), "place": pa.string(), "at": pa.timestamp("us", "UTC"), "number": pa.float64(),
                "whole": pa.decimal128(20, 0), "exact": pa.decimal128(20, 1), "score": pa.string(),
                "list": pa.list_(pa.float64()), "delay": pa.int64(),
            }
        )
    )  # fmt: skip


def write(store: ArtifactStore, table: pa.Table, sizes: tuple[int, ...] = (60, 0, 50), name: str = "events") -> None:
    """Write two windows of the events, the first with several files."""
    first = sum(sizes)
    for month, part, counts in ((1, table.slice(0, first), sizes), (2, table.slice(first), (table.num_rows - first,))):
        with DatasetWriter(store, name) as writer:
            start = 0
            for count in counts:
                writer.write(part.slice(start, count))
                writer.end_files()
                start += count
            writer.commit(window=Window.model_validate(f"2013-0{month}"))


def build(
    store: ArtifactStore, executors: LocalExecutors | None = None, series: str = "first", **options: Any
) -> TrainingSetResult:
    found = {
        "name": "training",
        "entities": {"name": "events", "window": "2013-01..2013-02"},
        "timestamp": "at",
        "columns": ["number", "whole", "exact", "score"],
        "watched": ["list"],
        "keys": ["id", "place"],
        "label": {"name": "late", "expression": "delay > 15"},
        **options,
    }
    provenance = Provenance(dag_id="dag", run_id="run", task_id="training_set")
    context = StepContext(
        store, f"results/dag/run/training_set/-1/{series}.json", executors=executors, provenance=provenance
    )
    return run(parse(TrainingSetSpec, found, "The step"), context)


def stored(store: ArtifactStore) -> set[str]:
    return set(store.find("datasets/training/files"))


def listed(store: ArtifactStore, *results: TrainingSetResult) -> set[str]:
    return {file.path for result in results for file in open_dataset(store, result.dataset).manifest.files}


@pytest.mark.parametrize(
    "options",
    [
        {"split": {"method": "time", "test_size": "20h", "gap": "5h", "windows": 2}},
        {"split": {"method": "random", "test_size": 0.3, "stratify": True}},
        {"split": {"method": "group", "test_size": 0.3, "group": "score"}},
        {"split": {"method": "group", "test_size": 0.3, "group": "id"}, "keys": ["place"], "watched": ["id"]},
        {"split": {"method": "hash", "test_size": 0.3}, "keys": [], "watched": [], "columns": ["id", "number", "list", "exact"]},
        {"split": None, "label": None},
        {"label": "whole", "columns": ["exact"], "task": "multiclass"},
    ],
    ids=["time", "stratified", "group", "group of bytes", "hash", "no split", "decimal label"],
)  # fmt: skip
def test_a_training_set_is_that_of_the_worker(store, options):
    write(store, events())
    executors = LocalExecutors(store.url)
    found = build(store, executors, **options)
    # The id of a dataset is a hash of its files and of its manifest.
    assert len(executors.ran) > 3 * 3
    assert stored(store) == listed(store, found)
    assert not store.find("checkpoints/split_rows")
    assert build(store, series="worker", **options) == found


def test_a_part_that_runs_twice_and_rows_that_are_stored_already_leave_no_files(store):
    write(store, events())
    found = build(store, LocalExecutors(store.url, times=2))
    assert stored(store) == listed(store, found)
    # The same rows again are the same dataset.
    assert build(store, LocalExecutors(store.url), "again") == found
    assert stored(store) == listed(store, found)


def test_few_events_are_joined_in_the_worker(store):
    write(store, events().slice(0, 16), (10,))
    executors = LocalExecutors(store.url)
    assert build(store, executors, split=None).rows["data"] <= 16
    assert not executors.ran


@pytest.mark.parametrize(
    ("options", "change", "error"),
    [
        ({"columns": ["delay"], "label": "place", "keys": ["id"], "task": "multiclass"}, {}, None),
        ({"columns": ["later"]}, {"later": lambda at: at + timedelta(seconds=1)}, LeakageError),
        ({"columns": ["copy"], "keys": ["place"]}, {"copy": lambda at: at.hour > 11}, LeakageError),
        ({}, {"at": lambda at: None if at == START else at}, SchemaError),
        ({"label": {"name": "late", "expression": "delay > 100"}}, {}, TrainingError),
        ({"label": "number", "columns": ["whole"]}, {}, TrainingError),
    ],
    ids=["passes", "newer", "too predictive", "no time", "one class", "infinite"],
)
def test_checks_have_the_outcome_of_the_worker(store, options, change, error):
    table = events()
    times = table["at"].to_pylist()
    for name, changed in change.items():
        values = pa.array([changed(at) for at in times])
        values = values.cast(pa.timestamp("us", "UTC")) if pa.types.is_timestamp(values.type) else values
        table = table.drop_columns([name] if name in table.column_names else []).append_column(name, values)
    if "copy" in change:
        options = {**options, "label": {"name": "late", "expression": "copy2 > 0"}}
        table = table.append_column("copy2", table["copy"].cast(pa.int64()))
    write(store, table)
    outcomes = []
    for executors in (LocalExecutors(store.url), None):
        try:
            outcomes.append(build(store, executors, str(len(outcomes)), **options))
        except MLOpsError as raised:
            outcomes.append((type(raised), str(raised)))
        if error is not None:
            assert not stored(store)
    assert outcomes[0] == outcomes[1]
    assert isinstance(outcomes[0], tuple) == (error is not None)
    if error is not None:
        assert outcomes[0][0] is error


class LostExecutorError(ComputeError):
    """An executor that is lost. A retry may succeed."""

    retryable = True


def test_a_retry_runs_only_the_parts_that_are_missing(store, monkeypatch):
    write(store, events())
    add, added, limit = Round.add, [], 1_000
    gone: set[str] = set()

    def lost(self: Round, piece: Piece) -> Piece:
        if len(added) == limit:
            gone.update(file.path for file in piece.written.files)
            raise LostExecutorError("lost")
        added.append(self.group)
        return add(self, piece)

    monkeypatch.setattr(Round, "add", lost)
    whole = build(store, LocalExecutors(store.url), "whole", name="other")
    total = len(added)
    # The first try is lost while features are joined, and the second while the last file is written.
    for limit, phases in ((2, 1), (total - 1, 3)):
        added = added[:limit] if len(added) < total else []
        with pytest.raises(ComputeError):
            build(store, LocalExecutors(store.url))
        assert len(set(added)) == phases
    assert not store.find("datasets/training/manifests")
    before, executors, limit = stored(store), LocalExecutors(store.url), total
    found = build(store, executors)
    assert found.rows == whole.rows
    # Only one of the parts that write files had to run again.
    assert len(added) == total
    assert len([part for part in executors.ran if isinstance(part, list)]) == 1
    assert listed(store, found) & before
    assert stored(store) == listed(store, found) | gone
    assert build(store, series="worker") == found


def test_time_is_divided_at_event_times_into_about_equal_parts():
    blocks = [Block(0, 0, 6, 6, [0, 10, 20]), Block(0, 6, 9, 0, []), Block(1, 0, 3, 3, [20, 20, 30])]
    assert divided(blocks, 3) == [Times(None, 10), Times(10, 20), Times(20, None)]
    assert divided([Block(0, 0, 4, 4, [5, 6, 7, 8])], 2) == [Times(None, 7), Times(7, None)]
    assert divided([Block(0, 0, 5, 5, [7, 7])], 4) == [Times(None, None)]


@pytest.mark.parametrize("in_order", [True, False])
def test_events_in_no_order_are_joined_in_fewer_parts(store, monkeypatch, in_order):
    """Each part reads the blocks that have its times. All parts together read at most nine times the events."""
    monkeypatch.setattr(row_spans, "_FEWEST", 20)
    monkeypatch.setattr(spread, "BLOCK_ROWS", 4)
    table = events().sort_by("at") if in_order else events()
    write(store, table)
    executors = LocalExecutors(store.url)
    build(store, executors, columns=["whole"], label=None, split=None)
    joined = [part for part in executors.ran if isinstance(part, list) and isinstance(part[1], list)]
    read = sum(end - start for _, _, places in joined for _, start, end in places)
    assert table.num_rows <= read <= 9 * table.num_rows
    assert (len(joined) > 15) == in_order
