"""Networks learn from a stream, reproducibly, and their ONNX export predicts the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.trainers import TorchTrainer
from tests.support.forks import Forks
from tests.support.networks import BINARY, Record, data, exported, rows, session, train, weights

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("task", [BINARY, ("kind", "multiclass", ["high", "low", "middle"])], ids=lambda task: task[1])
def test_a_classifier_learns_and_its_onnx_export_predicts_the_same(dataset, task):
    model = train(dataset, task, epochs=8)
    unseen = rows(9, 500)
    unseen = unseen.set_column(2, "plan", pa.array(["new", *unseen["plan"].to_pylist()[1:]]))
    found = model.predict(unseen.select(["x", "y", "plan"]).to_pandas())
    assert found.shape == (500, len(task[2]))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    truth = np.array([task[2].index(value) for value in unseen[task[0]].to_pylist()])
    assert (found.argmax(axis=1) == truth).mean() > 0.75
    np.testing.assert_allclose(exported(model, unseen), found, atol=1e-5)


def test_a_regression_learns_and_its_onnx_export_predicts_the_same(dataset):
    model = train(dataset, ("amount", "regression", []), epochs=8)
    unseen = rows(9, 500).filter(pa.compute.is_valid(rows(9, 500)["x"]))
    found = model.predict(unseen.select(["x", "y", "plan"]).to_pandas())
    assert np.corrcoef(found[:, 0], unseen["amount"].to_numpy())[0, 1] > 0.95
    np.testing.assert_allclose(exported(model, unseen), found, rtol=1e-4)
    with pytest.raises(ModelFormatError, match="cannot be exported in float64, .* only in float32"):
        model.to_onnx(None, "float64")


@pytest.mark.parametrize("names", [["x", "y"], ["plan"]], ids=["numbers", "texts"])
def test_features_of_only_one_kind(dataset, names):
    from airflow_mlops.models.trainers.torch import trainer as torch

    whole = data(*BINARY)
    table = whole.table.select(names)
    features = feature_columns(table.schema, names)
    known = TrainingData("binary", "label", features, table, frame(table, features), np.zeros(0), [0, 1])
    spec = TorchTrainerSpec.model_validate(TorchTrainer(epochs=2))
    model = torch.fit(spec, known, 0, Record().run(dataset, f"checkpoints/only-{names[0]}.pt"))
    unseen = rows(9, 300).select(names)
    assert {item.name for item in session(model).get_inputs()} == set(names)
    np.testing.assert_allclose(exported(model, unseen), model.predict(unseen.to_pandas()), atol=1e-5)


def test_the_seed_determines_the_weights(dataset):
    one, same, other = (train(dataset, seed=seed, key=f"checkpoints/seed{n}.pt") for n, seed in enumerate([1, 1, 2]))
    assert weights(one) == weights(same) != weights(other)


def test_early_stopping_keeps_the_best_weights(dataset):
    record = Record()
    model = train(dataset, epochs=60, learning_rate=0.05, patience=2, record=record)
    losses = [record.metrics[epoch]["validation_loss"] for epoch in sorted(record.metrics)]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 60
    assert model.params["best_epoch"] == best + 1


def test_progress_metrics_and_tensorboard_files_are_logged(dataset):
    record = Record()
    train(dataset, record=record, key="checkpoints/logged.pt")
    assert any("Epoch 2 of 2: train loss 0." in line and "rows/s" in line for line in record.lines)
    assert set(record.metrics) == {0, 1}
    (file,) = record.files["tensorboard"]
    assert file.startswith("events.out.tfevents")


def test_accumulated_batches_give_the_same_steps_as_one_large_batch(dataset):
    options = {"epochs": 1, "params": {"dropout": 0.0}, "validation": 0.0, "patience": None}
    small = train(dataset, batch_size=100, accumulate=10, key="checkpoints/small.pt", **options)
    large = train(dataset, batch_size=1000, key="checkpoints/large.pt", **options)
    np.testing.assert_allclose(weights(small), weights(large), atol=1e-3)
    assert small.params["epochs_run"] == 1


def test_the_cache_between_epochs_changes_nothing(dataset, monkeypatch):
    from airflow_mlops.models.trainers.torch import batches

    cached = train(dataset, key="checkpoints/cached.pt")
    monkeypatch.setattr(batches, "CACHE_BYTES", 0)
    read_again = train(dataset, key="checkpoints/again.pt")
    assert weights(cached) == weights(read_again)


def test_the_number_of_reading_threads_changes_nothing(dataset, monkeypatch):
    from airflow_mlops.models.trainers.torch import batches

    monkeypatch.setattr(batches, "BUFFER_ROWS", 4000)
    found = []
    for readers in (1, 5):
        monkeypatch.setattr(batches, "_READERS", readers)
        found.append(weights(train(dataset, key=f"checkpoints/readers-{readers}.pt")))
    assert found[0] == found[1]


def test_an_error_while_rows_are_read_ahead_is_raised(dataset, monkeypatch):
    original = type(dataset).read_row_group

    def read(self, place, columns):
        if place == self.row_groups("train")[-1]:
            raise OSError("the store is gone")
        return original(self, place, columns)

    monkeypatch.setattr(type(dataset), "read_row_group", read)
    with pytest.raises(OSError, match="the store is gone"):
        train(dataset, key="checkpoints/gone.pt")


def test_memory_does_not_grow_with_the_number_of_rows(store):
    before = """
import resource
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.trainers.torch import batches, preload, trainer
from tests.support.networks import train
"""
    code = """
batches.BUFFER_ROWS, batches.CACHE_BYTES = 20_000, 2**20
store = ArtifactStore(sys.argv[1])
# The rows need memory, not the network, so the smallest one will do.
small = {"hidden": [2], "dropout": 0.0}
train(open_dataset(store, DatasetRef.model_validate_json(sys.argv[2])), epochs=2, batch_size=4096, params=small)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = []
    with Forks(before, cwd=Path(__file__).parents[4]) as forks:
        for name, parts in (("few", 2), ("many", 40)):
            with DatasetWriter(store, name) as writer:
                for part in range(parts):
                    writer.write(rows(part, 20_000), "train")
                ref = writer.commit()[0].ref
            done = forks.run(code, store.url, ref.model_dump_json())
            assert done.returncode == 0, done.stderr
            peaks.append(int(done.stdout.splitlines()[-1]))
    # There are 760,000 more rows, which take 60 MB as Arrow and several times as much as a DataFrame.
    assert peaks[1] - peaks[0] < 60, peaks
