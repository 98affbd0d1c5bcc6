"""``SklearnTrainer(max_rows=...)`` fits the model to a uniform sample of the training rows, and the record says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.datasets.reader import Dataset
from airflow_mlops.data.datasets.subsets import with_rows
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.trainers.sampling import drawn, sampled
from airflow_mlops.models.trainers.spec import check_trainer
from airflow_mlops.models.training_data import read_part
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train.candidate import fit_candidate, load_all, load_data
from airflow_mlops.stages.train.record import _parameters
from airflow_mlops.stages.train.runs import unlogged_run
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import SklearnTrainer
from tests.support.training import FEATURES, flights, timed, training_set

LOGISTIC, RIDGE = "sklearn.linear_model.LogisticRegression", "sklearn.linear_model.Ridge"


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path.as_uri())


def limited(rows, estimator=LOGISTIC):
    return SklearnTrainer(estimator, max_rows=rows)


def fit(store, ref, trainer, **fields):
    spec = TrainSpec(dataset=ref, model="late", trainer=trainer, **fields)
    context = StepContext(store, "results/t.json")
    dataset, train, test = load_data(spec, store)
    return spec, dataset, fit_candidate(spec, context, dataset, train, test, unlogged_run(context, dataset)), test


def test_a_sample_has_the_requested_size_and_each_row_has_the_same_chance():
    labels = np.zeros(1_000)
    counts = np.zeros(1_000)
    for seed in range(300):
        chosen = drawn(labels, 200, seed, regression=True)
        assert chosen.sum() == 200
        counts += chosen
    # Each row is drawn in 60 of 300 samples on average, with a standard deviation of 7.
    assert counts.min() > 25
    assert counts.max() < 95
    assert abs(counts[:500].sum() - counts[500:].sum()) < 2_000
    assert drawn(labels, 1_000, 0, regression=True).all()
    assert drawn(labels, None, 0, regression=True).all()
    np.testing.assert_array_equal(drawn(labels, 200, 7, regression=True), drawn(labels, 200, 7, regression=True))


def test_the_model_is_fitted_to_the_sample_and_measured_on_all_held_out_rows(store, caplog):
    caplog.set_level("INFO")
    spec, dataset, found, test = fit(store, training_set(store), limited(200), seed=4)
    chosen = drawn(flights(600, seed=1)["late"].to_numpy(), 200, 4, regression=False)
    alone = training_set(store, flights(600, seed=1).filter(pa.array(chosen)))
    _, _, same, _ = fit(store, alone, SklearnTrainer(LOGISTIC), seed=4)
    assert found.exported == same.exported
    assert found.metrics == same.metrics
    assert len(found.train.labels) == 200
    assert len(test.labels) == 300
    assert same.contract.training_sample is None
    # The record says it.
    contract = ModelContract.model_validate_json(found.contract.model_dump_json())
    assert (contract.training_sample.rows, contract.training_sample.of) == (200, 600)
    assert "200 of 600 rows" in caplog.text
    params = _parameters(spec, dataset.manifest, found, found.train, test)
    assert (params["train_rows"], params["sampled_from_rows"], params["test_rows"]) == (200, 600, 300)
    # Contracts of earlier versions do not have the field.
    old = found.contract.model_dump(mode="json", exclude={"training_sample"})
    assert ModelContract.model_validate(old).training_sample is None


def test_the_sample_does_not_depend_on_the_files(store):
    rows = flights(600, "regression", seed=1)
    ref = training_set(store, rows, task="regression")
    with DatasetWriter(store, "late_training") as writer:
        for first in range(0, 600, 70):
            writer.write(rows.slice(first, 70), "train")
        writer.write(flights(300, "regression", seed=2), "test")
        details = {"label": "late", "task": "regression", "features": FEATURES, "timestamp": None, "keys": ["flight"]}
        split = writer.commit(details=details)[0].ref
    models = [fit(store, each, limited(100, RIDGE))[2].exported for each in (ref, split)]
    assert models[0] == models[1]
    assert fit(store, ref, limited(100, RIDGE), seed=1)[2].exported != models[0]


def test_rows_that_are_set_aside_are_not_sampled_and_a_refit_draws_from_all_rows(store):
    ref = training_set(store, timed(500, 1), timed(200, 2), timestamp="at")
    _, _, found, _ = fit(store, ref, limited(100), threshold={"maximise": "f1"})
    assert found.contract.threshold_choice.rows == 100
    assert (found.contract.training_sample.rows, found.contract.training_sample.of) == (100, 400)
    newest = np.argsort(np.argsort(timed(500, 1)["at"].to_numpy())) >= 400
    hours = timed(500, 1)["distance"].filter(pa.array(newest)).to_pylist()
    assert not set(filter(None, hours)) & set(filter(None, found.train.table["distance"].to_pylist()))
    spec = TrainSpec(dataset=ref, model="late", trainer=limited(100))
    dataset, rows, test = load_all(spec, store)
    context = StepContext(store, "results/t.json")
    again = fit_candidate(spec, context, dataset, rows, test, replace(unlogged_run(context, dataset), part=None))
    assert (again.contract.training_sample.rows, again.contract.training_sample.of) == (100, 700)
    # With enough rows for all, nothing is drawn.
    assert fit(store, ref, limited(500))[2].contract.training_sample is None


def test_weights_belong_to_the_sampled_rows(store):
    weights = np.arange(1.0, 601)
    parts = ((600, 1, weights), (300, 2, np.ones(300)))
    ref = training_set(store, *(flights(rows, seed=seed).append_column("w", [found]) for rows, seed, found in parts))
    _, _, found, _ = fit(store, ref, limited(200), sample_weight="w")
    chosen = drawn(flights(600, seed=1)["late"].to_numpy(), 200, 0, regression=False)
    np.testing.assert_array_equal(found.train.weights, weights[chosen])


def test_a_sample_of_rows_in_memory_is_the_same(store):
    data = read_part(open_dataset(store, training_set(store)), "train")
    assert isinstance(data, TrainingData)
    found, chosen = sampled(data, 150, 3), drawn(data.labels, 150, 3, regression=False)
    np.testing.assert_array_equal(found.labels, data.labels[chosen])
    assert found.table.equals(data.table.filter(pa.array(chosen)))
    assert found.frame["hour"].tolist() == data.frame["hour"][chosen].tolist()
    assert sampled(data, 600, 3) is data


def test_only_the_sampled_rows_are_kept_in_memory(store, monkeypatch):
    with DatasetWriter(store, "large") as writer:
        writer.write(pa.table({"x": np.arange(400_000.0), "y": np.arange(400_000.0)}), "train")
        dataset = open_dataset(store, writer.commit(details={})[0].ref)
    chosen = np.zeros(400_000, dtype=bool)
    chosen[::4_000] = True
    # This method reads all rows at once.
    monkeypatch.setattr(Dataset, "table", None)
    table = with_rows(dataset, "train", chosen).table("train", ["y", "x"])
    assert table.column_names == ["y", "x"]
    assert table["x"].to_pylist() == list(range(0, 400_000, 4_000))
    assert table.get_total_buffer_size() < 10_000


def test_a_sample_without_a_class_is_refused(store):
    labels = np.array(["a"] * 5_000 + ["b"])
    with pytest.raises(TrainingError, match="max_rows"):
        drawn(labels, 10, 0, regression=False)


def test_a_feature_without_values_in_the_sample_is_refused_with_the_size_of_the_sample(store):
    values = pa.array([1.0, *[None] * 599])
    ref = training_set(store, flights(600, seed=1).append_column("rare", values), flights(300, seed=2).append_column("rare", values[:300]), features=["hour", "rare"])  # fmt: skip
    with pytest.raises(TrainingError, match="a uniform sample of 100 of 600 rows.*'rare'"):
        fit(store, ref, limited(100))


@pytest.mark.parametrize("rows", [0, -1, 1.5, "many"])
def test_other_numbers_are_refused_when_the_dag_is_parsed(rows):
    with pytest.raises(SpecError, match="max_rows"):
        check_trainer(limited(rows), "The trainer")
