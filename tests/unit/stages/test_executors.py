"""Parts of a step on executors: the same results as one pass, exactly once whatever is lost, and errors of their own type."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import ComputeError, ModelCorruptError, SchemaError, SpillError, StoreError
from airflow_mlops.core.references import DatasetSelection, ModelVersionRef
from airflow_mlops.data import row_spans, sent_datasets
from airflow_mlops.data.datasets import Manifest, open_dataset
from airflow_mlops.data.predictions.privacy import Privacy
from airflow_mlops.data.selection import select, window_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import sent_models
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.executors import answer
from airflow_mlops.stages.profile import step as profile
from airflow_mlops.stages.profile.spec import ProfileSpec
from airflow_mlops.stages.score import on_executors
from airflow_mlops.stages.score.scoring import Scoring
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.shards import Round
from airflow_mlops.stages.usage import Meter
from tests.support.candidates import linear
from tests.support.deployed import FEATURES, WEIGHTS, flights, scoring_set, write
from tests.support.executors import LocalExecutors
from tests.support.predictions import model_in_memory

MODEL = model_in_memory()
VERSION = ModelVersionRef(model="delays", version=1, run_id="r")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a model version."""
    folder = tmp_path / "model"
    (folder / "mlops").mkdir(parents=True)
    (folder / "mlops" / "contract.json").write_text(MODEL.contract.model_dump_json())
    (folder / "model.onnx").write_bytes(linear("binary", FEATURES, WEIGHTS))
    (folder / "model.pkl").write_bytes(b"large")
    return folder


def run(
    store: ArtifactStore,
    folder: Path,
    dataset: object,
    executors: LocalExecutors,
    meter: Meter | None = None,
    **fields: object,
) -> Manifest:
    """Score as the step does, with the files of the model version at hand."""
    spec = ScoreSpec(model="delays", dataset=dataset, **fields)
    place = Provenance(dag_id="dag", run_id="run", task_id="score")
    context = StepContext(store, "results/dag/run/score/1.json", provenance=place, executors=executors, meter=meter)
    datasets = select(store, spec.dataset)
    privacy = Privacy.of(spec.hash_columns, spec.drop_columns, spec.hash_conn_id, context.connection)
    scoring = Scoring(datasets, VERSION, spec.predictions, spec.part, window_of(datasets), context, privacy)

    @contextmanager
    def send():
        with sent_models.sent(store, folder, "delays v1", explain=False, contract=None, allow_pyfunc=False) as model:
            yield model

    return on_executors.score(scoring, spec, on_executors.parts(spec, datasets, context), send)[0]


def single(store: ArtifactStore, dataset: object, privacy: Privacy = Privacy()) -> Manifest:  # noqa: B008
    datasets = select(store, ScoreSpec(model="delays", dataset=dataset).dataset)
    return Scoring(datasets, VERSION, "single", None, window_of(datasets), StepContext(store), privacy).all_rows(MODEL)


def rows(store: ArtifactStore, manifest: Manifest) -> pa.Table:
    return open_dataset(store, manifest.ref).table().drop_columns(["scored_at", "latency_ms"])


def parquet(store: ArtifactStore, name: str) -> list[str]:
    return store.find(f"datasets/{name}/files")


@pytest.mark.parametrize("size", [0, 1, 2_100, 20_000])
def test_scores_equal_one_pass(store, folder, size):
    dataset = scoring_set(store, flights(size), "2013-04")
    meter = Meter(store)
    found = run(store, folder, dataset, LocalExecutors(store.url), meter)
    # Bytes that executors wrote are counted, too.
    assert meter.usage().written_bytes > sum(file.bytes for file in found.files)
    expected = single(store, dataset)
    assert rows(store, found).equals(rows(store, expected))
    assert (found.window, found.parents, found.columns, found.details) == (
        expected.window, expected.parents, expected.columns, expected.details,
    )  # fmt: skip
    assert len(found.files) == {0: 1, 1: 1, 2_100: 3, 20_000: 8}[size]
    # The files of the model are needed only while executors run.
    assert not store.find("checkpoints/models")


def test_only_the_rows_of_a_window_are_scored(store, folder):
    data = flights(40)
    hours = pa.array(
        [1_364_774_400_000_000 + number * 3_600_000_000 for number in range(40)], pa.timestamp("us", "UTC")
    )
    scoring_set(store, data.set_column(1, "time_hour", hours), "2013-04")
    wanted = DatasetSelection(name="scoring", window="2013-04-01")
    found = run(store, folder, wanted, LocalExecutors(store.url))
    assert rows(store, found)["flight"].to_pylist() == list(range(24))


def test_a_retry_scores_only_what_is_missing(store, folder):
    dataset = scoring_set(store, flights(8_192), "2013-04")

    def lost(part: int) -> None:
        if part == 3:
            raise ComputeError("lost")

    first = LocalExecutors(store.url, lost)
    with pytest.raises(ComputeError, match="lost"):
        run(store, folder, dataset, first)
    assert not list(store.find("datasets/delays_predictions/manifests"))
    again = LocalExecutors(store.url)
    found = run(store, folder, dataset, again)
    assert (sorted(first.ran), sorted(again.ran)) == ([4, 5, 6, 7], [0, 1, 2, 3])
    assert rows(store, found).equals(rows(store, single(store, dataset)))
    # A retry after the commit finds the dataset.
    assert run(store, folder, dataset, LocalExecutors(store.url, pytest.fail)).id == found.id


def test_parts_that_run_twice_leave_each_row_once_and_no_file(store, folder, monkeypatch):
    dataset = scoring_set(store, flights(4_000), "2013-04")

    class Blind(LocalExecutors):
        def run(self, *arguments):
            # No executor sees the finished part of another one, as when both run at once.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Round, "piece", lambda _: None)
                return super().run(*arguments)

    written = []
    create = ArtifactStore.create
    monkeypatch.setattr(ArtifactStore, "create", lambda self, key: written.append(key) or create(self, key))
    found = run(store, folder, dataset, Blind(store.url, times=2))
    assert sum(key.endswith(".parquet") for key in written) == 8
    assert len(found.files) == 4
    assert found.rows == 4_000
    assert sorted(parquet(store, found.name)) == sorted(file.path for file in found.files)


def test_an_error_has_the_type_that_it_has_in_one_process(store, folder):
    data = flights(3_000).drop_columns(["wind"])
    dataset = scoring_set(store, data, "2013-04")
    with pytest.raises(SchemaError, match="wind") as caught:
        run(store, folder, dataset, LocalExecutors(store.url))
    assert not caught.value.retryable
    assert not parquet(store, "delays_predictions")


def test_an_unexpected_exception_is_one_sentence_and_its_traceback_is_logged(store, caplog):
    context = StepContext(store, executors=LocalExecutors(store.url))
    with pytest.raises(ComputeError, match="ZeroDivisionError: division by zero"):
        context.spread("tests.unit.stages.test_executors:divide", {"by": 0}, [1])
    assert "in divide" in caplog.text


def divide(store: ArtifactStore, arguments: dict[str, int], part: int) -> float:
    return part / arguments["by"]


@pytest.mark.parametrize("disk_full", [True, False])
def test_an_error_is_retryable_if_it_is_in_one_process(store, disk_full):
    context = StepContext(store, executors=LocalExecutors(store.url))
    with pytest.raises(SpillError) as caught:
        context.spread("tests.unit.stages.test_executors:spill", {"disk_full": disk_full}, [1])
    assert caught.value.retryable is disk_full


def spill(store: ArtifactStore, arguments: dict[str, bool], part: int) -> None:
    raise SpillError("The disk is full.", disk_full=arguments["disk_full"])


def test_errors_contain_no_credentials_of_the_environment(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sEcReTsEcReT")
    found = answer("tests.unit.stages.test_executors:reveal", store.url, {}, 0)
    assert "sEcReT" not in json.dumps(found)
    assert found["error"] == "RuntimeError"


def reveal(store: ArtifactStore, arguments: object, part: int) -> None:
    raise RuntimeError("the server refused sEcReTsEcReT")


def test_hashed_columns_equal_those_of_one_pass(store, folder, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_HASHES", json.dumps({"conn_type": "generic", "password": "k" * 32}))
    dataset = scoring_set(store, flights(2_100), "2013-04")
    executors = LocalExecutors(store.url)
    options = {"hash_columns": ["flight"], "drop_columns": ["wind"], "hash_conn_id": "hashes"}
    found = run(store, folder, dataset, executors, **options)
    context = StepContext(store)
    expected = single(store, dataset, Privacy.of(["flight"], ["wind"], "hashes", context.connection))
    assert rows(store, found).equals(rows(store, expected))
    assert "wind" not in found.column_names
    assert executors.conn_ids == {"hashes"}


def test_a_model_that_was_changed_on_its_way_is_not_loaded(store, folder):
    with sent_models.sent(store, folder, "delays v1", explain=False, contract=None, allow_pyfunc=False) as model:
        assert b"large" not in store.read_bytes(model.key)
        changed = model.model_copy(update={"sha256": "0" * 64})
        with pytest.raises(ModelCorruptError, match="delays v1"):
            sent_models.load(store, changed)
    with pytest.raises(StoreError, match="delays v1"):
        sent_models.load(store, model)


@pytest.mark.parametrize("columns", [None, ["wind", "flight"]])
def test_a_profile_equals_one_pass_to_the_last_byte(store, columns):
    for day, size in enumerate((3_000, 200, 70_000)):
        write(store, "rows", flights(size, seed=day), f"2013-04-0{day + 1}")
    spec = ProfileSpec(dataset=DatasetSelection(name="rows", window="2013-04-01..2013-04-03"), columns=columns)
    executors = LocalExecutors(store.url)
    found = profile.run(spec, StepContext(store, executors=executors))
    assert executors.ran == [2, 1, 0]
    expected = profile.run(spec, StepContext(store))
    assert found == expected


def test_a_mapped_shard_is_profiled_in_one_process(store):
    dataset = write(store, "rows", flights(100), "2013-04")
    spec = ProfileSpec(dataset=dataset, shard=1, shards=2)
    executors = LocalExecutors(store.url)
    assert profile.run(spec, StepContext(store, executors=executors)) == profile.run(spec, StepContext(store))
    assert not executors.ran


@pytest.mark.parametrize(
    ("sizes", "count"), [([0], 1), ([5], 1), ([50], 5), ([200], 8), ([5, 5, 5], 3), ([1 << 24], 16)]
)
def test_the_number_of_parts_depends_only_on_the_rows(sizes, count):
    class Sized:
        def files(self, part: str | None) -> list[object]:
            return [type("File", (), {"rows": rows}) for rows in sizes]

    assert row_spans.count([Sized()], None, 10) == count


def test_a_dataset_is_opened_once_for_all_its_parts(store):
    dataset = open_dataset(store, write(store, f"rows_{uuid.uuid4().hex}", flights(10), "2013-04"))
    text = sent_datasets.describe(dataset)
    assert sent_datasets.restore(store, text) is sent_datasets.restore(store, text)
