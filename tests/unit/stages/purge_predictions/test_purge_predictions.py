"""Retention deletes old rows, keeps their manifests, and is safe to interrupt at any point."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import DatasetPurgedError, SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, Manifest, find_datasets, open_dataset
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsSpec
from airflow_mlops.stages.purge_predictions.step import purge
from tests.support.deployed import write
from tests.support.killing import Killed
from tests.support.predictions import DyingStore, join_delays, model_in_memory, rows, score_rows

NOW = datetime.now(timezone.utc)
FILES = ("datasets/delays_predictions/files", "datasets/delays_outcomes/files")


@pytest.fixture(scope="module")
def model():
    return model_in_memory()


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


def age(store: ArtifactStore, manifest: Manifest, days: float) -> Manifest:
    """Change the creation time of a dataset to some days ago."""
    key = f"datasets/{manifest.name}/manifests/{manifest.id}.json"
    store.write_json(key, {**store.read_json(key), "created": (NOW - timedelta(days=days)).isoformat()})
    return manifest


def do(store: ArtifactStore, days: float = 90, now: datetime = NOW, **fields):
    return purge(PurgePredictionsSpec(model="delays", older_than=timedelta(days=days), **fields), store, now)


def everything(store: ArtifactStore) -> dict[str, bytes]:
    return {key: store.read_bytes(key) for key in store.find("datasets")}


@pytest.fixture
def log(store, model) -> dict[str, Manifest]:
    """Predictions made 100 and 10 days ago, both with labels."""
    old = age(store, score_rows(store, model, 1, "2013-04", rows(1, 2)), 100)
    young = age(store, score_rows(store, model, 2, "2013-05", rows(3)), 10)
    for manifest in (old, young):
        join_delays(store, manifest.ref, rows(1, 2, 3))
    return {"old": old, "young": young}


def test_only_old_predictions_and_their_outcomes_are_deleted(store, log):
    before = everything(store)
    result = do(store)
    assert (result.predictions, result.outcomes, result.rows, result.files, result.orphans) == (1, 1, 4, 2, 0)
    gone = before.keys() - everything(store).keys()
    assert len(gone) == 2
    assert all(key.startswith(FILES) for key in gone)
    assert result.bytes == sum(len(before[key]) for key in gone)
    changed = {key for key, data in everything(store).items() if data != before[key]}
    assert {key.split("/")[1:3][1] for key in changed} == {"manifests"}
    assert len(changed) == 2
    (present,) = PredictionLog(store, "delays").present()
    assert present.table()["flight"].to_pylist() == [3]
    assert [bool(entry.purged) for entry in PredictionLog(store, "delays").entries()] == [True, False]


def test_differences_of_features_are_deleted_with_the_predictions_in_which_they_were_found(store, log):
    for number, manifest in enumerate(log.values()):
        with DatasetWriter(store, "delays_feature_differences") as writer:
            writer.write(pa.table({"request_row": [number]}))
            writer.commit(window=manifest.window, parents=[manifest.ref])
    do(store)
    (kept,) = find_datasets(store, "delays_feature_differences")
    assert kept.table()["request_row"].to_pylist() == [1]
    with pytest.raises(DatasetPurgedError):
        find_datasets(store, "delays_feature_differences", log["old"].window)[0].table()


def test_the_error_for_a_purged_dataset_names_the_window_the_date_and_the_operator(store, log):
    do(store)
    april = Window.model_validate("2013-04")
    message = rf"2013-04 .*{NOW:%Y-%m-%d} by PurgePredictionsOperator"
    for name in ("delays_predictions", "delays_outcomes"):
        (found,) = find_datasets(store, name, april)
        for read in (
            found.table,
            found.verify,
            lambda found=found: next(found.batches()),
            lambda found=found: found.schema,
        ):
            with pytest.raises(DatasetPurgedError, match=message):
                read()
        # Without a window, only the readable datasets are returned.
        assert [item.manifest.window.label for item in find_datasets(store, name)] == ["2013-05"]
    with pytest.raises(DatasetPurgedError, match=rf"'delays' in the window 2013-04 .* {NOW:%Y-%m-%d}"):
        PredictionLog(store, "delays").files(april)


def test_lineage_still_describes_purged_datasets(store, log):
    from airflow_mlops.lineage.datasets import Datasets

    (before,) = Datasets(store.url).read(log["old"].ref)
    do(store)
    assert Datasets(store.url).read(log["old"].ref) == [before]
    assert before.inputFacets["inputStatistics"].rowCount == 2


def test_purging_again_changes_nothing(store, log):
    do(store)
    after = everything(store)
    result = do(store, now=NOW + timedelta(minutes=5))
    assert (result.predictions, result.outcomes, result.files) == (0, 0, 0)
    assert everything(store) == after


def test_a_dry_run_reports_the_same_numbers_and_changes_nothing(store, log):
    before = everything(store)
    dry = do(store, dry_run=True)
    assert everything(store) == before
    assert dry.summary.startswith("Would delete 1 dataset of predictions of delays")
    done = do(store)
    assert done.model_copy(update={"summary": ""}) == dry.model_copy(update={"summary": ""})


@pytest.mark.parametrize("changes", range(4))
def test_after_a_kill_every_dataset_is_readable_or_marked_and_the_next_run_finishes(store, log, changes):
    # A run makes four changes: it marks two manifests and deletes two files.
    with pytest.raises(Killed):
        do(DyingStore(store.url, changes))
    for name in ("delays_predictions", "delays_outcomes"):
        for window in ("2013-04", "2013-05"):
            (found,) = find_datasets(store, name, Window.model_validate(window))
            try:
                found.table()
            except DatasetPurgedError:
                assert window == "2013-04"
    do(store)
    assert [len(store.find(folder)) for folder in FILES] == [1, 1]
    assert [bool(entry.purged) for entry in PredictionLog(store, "delays").entries()] == [True, False]


def test_age_counts_from_the_windows_end_or_from_scoring_whichever_is_later(store, model):
    window = f"{NOW - timedelta(days=120):%Y-%m-%d}..{NOW - timedelta(days=80):%Y-%m-%d}"
    age(store, score_rows(store, model, 1, window, rows(1)), 100)
    assert do(store).predictions == 0
    assert do(store, now=NOW + timedelta(days=12)).predictions == 1
    score_rows(store, model, 1, "2013-04", rows(1))
    assert do(store).predictions == 0
    assert do(store, now=NOW + timedelta(days=91)).predictions == 1


def test_replaced_predictions_and_those_without_a_window_are_purged_too(store, model):
    replaced = age(store, score_rows(store, model, 1, "2013-04", rows(1)), 100)
    score_rows(store, model, 1, "2013-04", rows(2))
    bare = age(store, score_rows(store, model, 1, None, rows(3)), 100)
    assert do(store).predictions == 2
    for manifest in (replaced, bare):
        with pytest.raises(DatasetPurgedError):
            open_dataset(store, manifest.ref).table()
    assert [dataset.table()["flight"][0].as_py() for dataset in PredictionLog(store, "delays").present()] == [2]


def test_outcomes_of_several_windows_are_purged_with_the_first_of_them(store, model, log):
    joined = join_delays(store, {"name": "delays_predictions", "window": "2013", "gaps": "allow"}, rows(1, 2, 3))
    do(store)
    with pytest.raises(DatasetPurgedError):
        open_dataset(store, joined).table()
    # The remaining predictions can be joined again.
    assert open_dataset(store, join_delays(store, {"name": "delays_predictions"}, rows(3))).table()[
        "flight"
    ].to_pylist() == [3]


def test_a_purged_window_can_be_scored_again(store, model, log):
    do(store)
    score_rows(store, model, 1, "2013-04", rows(1, 2))
    april = PredictionLog(store, "delays").present(Window.model_validate("2013-04"))
    assert [dataset.table()["flight"].to_pylist() for dataset in april] == [[1, 2]]


def test_the_same_empty_window_can_be_written_again(store, model):
    first = age(store, score_rows(store, model, 1, "2013-04", rows()), 100)
    do(store)
    second = score_rows(store, model, 1, "2013-04", rows())
    assert open_dataset(store, second.ref).table().num_rows == 0
    assert first.rows == second.rows == 0


def test_orphaned_files_are_deleted_after_a_day(store, log):
    def leave(name: str, days: float) -> str:
        key = f"{FILES[0]}/window=2013-04/version=1/{name}"
        store.write_bytes(key, b"rows")
        moment = (NOW - timedelta(days=days)).timestamp()
        os.utime(store.path(key), (moment, moment))
        return key

    old, hidden, young = leave("a.parquet", 1.1), leave(".b.parquet.123.tmp", 1.1), leave("c.parquet", 0.9)
    claim = "datasets/delays_predictions/claims/x.json"
    store.write_bytes(claim, b"score")
    os.utime(store.path(claim), (0, 0))
    result = do(store, days=1000)
    assert (result.predictions, result.files, result.orphans, result.bytes) == (0, 2, 2, 8)
    assert [store.exists(key) for key in (old, hidden, young, claim)] == [False, False, True, False]
    assert len(PredictionLog(store, "delays").files()) == 2


def test_predictions_of_other_models_are_not_purged(store, model, log):
    age(store, score_rows(store, model, 1, "2013-04", rows(5), name="arrivals"), 100)
    do(store)
    (dataset,) = PredictionLog(store, "arrivals", name="delays_predictions").present()
    assert dataset.table()["flight"].to_pylist() == [5]


@pytest.mark.parametrize("field", ["predictions", "outcomes"])
def test_a_dataset_of_another_kind_is_refused_and_unchanged(store, log, field):
    age(store, open_dataset(store, write(store, "flights_raw", rows(1, 2))).manifest, 1000)
    before = everything(store)
    with pytest.raises(SpecError, match="'flights_raw' .*predictions .*'delays'"):
        do(store, **{field: "flights_raw"})
    assert everything(store) == before


def test_an_invalid_duration_is_refused():
    for value in ("0D", "-P1D", "soon"):
        with pytest.raises(SpecError, match="older_than"):
            parse(PurgePredictionsSpec, {"model": "delays", "older_than": value}, "Task 'purge'")
