"""Networks are trained on a stream, reproducible, resumed exactly, and equal to their ONNX export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import ModelFormatError, SpecError, TrainingError
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.spec import TorchTrainerSpec, check_trainer
from airflow_mlops.trainers import TorchTrainer

ROWS = 3000


def rows(seed: int = 0, count: int = ROWS) -> pa.Table:
    random = np.random.default_rng(seed)
    x = random.normal(5, 3, size=(count, 2))
    plan = random.choice(["basic", "plus", "pro"], count)
    signal = (x[:, 0] - 5) / 3 - (plan == "pro") * 2.0
    return pa.table(
        {
            "x": pa.array(x[:, 0], mask=random.random(count) < 0.05),
            "y": pa.array(x[:, 1]),
            "plan": pa.array(plan.tolist()),
            "label": pa.array(signal + random.normal(size=count) > 0),
            "amount": pa.array(100 + 40 * signal + random.normal(size=count)),
            "kind": pa.array(np.where(signal > 1, "high", np.where(signal < -1, "low", "middle")).tolist()),
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path_factory.mktemp('torch')}/store")


@pytest.fixture(scope="module")
def dataset(store):
    with DatasetWriter(store, "rows") as writer:
        for part in range(3):
            writer.write(rows(part), "train")
        return open_dataset(store, writer.commit()[0].ref)


def data(label: str, task: str, classes: list) -> TrainingData:
    table = rows(0).select(["x", "y", "plan"])
    features = feature_columns(table.schema, table.column_names)
    return TrainingData(task, label, features, table, frame(table, features), np.zeros(0), classes)


BINARY = ("label", "binary", [0, 1])


class Record:
    """The messages, metrics and files of a training."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.metrics: dict[int, dict[str, float]] = {}
        self.files: dict[str, list[str]] = {}

    def run(self, dataset, key: str) -> TrainingRun:
        return TrainingRun(
            dataset=dataset,
            part="train",
            checkpoint=key,
            progress=self.lines.append,
            log=self.metrics.__setitem__,
            log_files=lambda folder, name: self.files.update({name: [file.name for file in Path(folder).iterdir()]}),
        )


def train(dataset, task=BINARY, key="checkpoints/a.pt", seed=0, record=None, **options):
    from airflow_mlops.models.trainers.torch import trainer as torch

    spec = TorchTrainerSpec.model_validate(TorchTrainer(**{"epochs": 2, "batch_size": 256, **options}))
    return torch.fit(spec, data(*task), seed, (record or Record()).run(dataset, key))


def weights(model) -> list[float]:
    return [float(value) for tensor in model.network.state_dict().values() for value in tensor.flatten()]


def session(model):
    import onnxruntime

    return onnxruntime.InferenceSession(model.to_onnx(None), providers=["CPUExecutionProvider"])


def exported(model, table: pa.Table) -> np.ndarray:
    loaded = session(model)
    feeds = {
        item.name: table[item.name].to_numpy().astype(np.float32 if "float" in item.type else object).reshape(-1, 1)
        for item in loaded.get_inputs()
    }
    return loaded.run(None, feeds)[-1]


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


KILLED = """
import json, sys, time
from tests.unit.models.test_torch import Record, data, BINARY, TorchTrainer, TorchTrainerSpec
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.models.trainers.torch import trainer
from airflow_mlops.models.trainers.torch.loop import Loop

url, ref, key, slow = sys.argv[1:]
store = ArtifactStore(url)
original = Loop._step
def step(self, group):
    original(self, group)
    print(self.state.step, flush=True)
    time.sleep(float(slow))
Loop._step = step
spec = TorchTrainerSpec.model_validate(TorchTrainer(epochs=3, batch_size=256, accumulate=2, checkpoint_every=7))
record = Record()
run = record.run(open_dataset(store, DatasetRef.model_validate_json(ref)), key)
states = []
original_curves = trainer._log_curves
trainer._log_curves = lambda state, run: (states.append(state), original_curves(state, run))
model = trainer.fit(spec, data(*BINARY), 5, run)
weights = [float(v) for t in model.network.state_dict().values() for v in t.flatten()]
print(json.dumps({"losses": states[0].losses, "epochs": states[0].epochs, "weights": weights, "lines": record.lines}))
"""


def test_a_killed_training_is_resumed_with_exactly_the_same_numbers(dataset, store):
    def start(key: str, slow: float) -> subprocess.Popen:
        arguments = [store.url, dataset.ref.model_dump_json(), key, str(slow)]
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
        )

    whole = json.loads(start("checkpoints/whole.pt", 0).communicate(timeout=600)[0].splitlines()[-1])
    killed = start("checkpoints/killed.pt", 0.05)
    assert killed.stdout is not None
    while (line := killed.stdout.readline()) and int(line) < 26:
        pass
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    resumed = json.loads(start("checkpoints/killed.pt", 0).communicate(timeout=600)[0].splitlines()[-1])
    assert any("checkpoint after step 21" in line for line in resumed["lines"])
    for name in ("losses", "epochs", "weights"):
        assert resumed[name] == whole[name], name
    assert len(whole["losses"]) > 40


MODULE = """
from torch import nn

class Linear(nn.Module):
    def __init__(self, numbers, texts, outputs, bias=True):
        super().__init__()
        self.layer = nn.Linear(numbers, outputs, bias=bias)
    def forward(self, numbers, texts):
        return self.layer(numbers)

def nothing(numbers, texts, outputs):
    return 7
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_networks", None)


def test_a_users_network_is_trained_and_exported(dataset, mine):
    model = train(dataset, module="my_networks:Linear", params={"bias": False}, epochs=6, learning_rate=0.02)
    assert model.name == "Linear"
    assert set(model.sources) == {"my_networks:Linear"}
    unseen = rows(9, 300)
    np.testing.assert_allclose(
        exported(model, unseen), model.predict(unseen.select(["x", "y", "plan"]).to_pandas()), atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"module": "my_networks:Linear", "params": {"depth": 3}},
            SpecError,
            "cannot be created with params={'depth': 3}",
        ),
        ({"module": "my_networks:nothing"}, TrainingError, "type int, .* torch.nn.Module"),
        ({"device": "cuda"}, SpecError, "finds no GPU"),
        ({"learning_rate": 1e30, "params": {"dropout": 0.0}}, TrainingError, "smaller `learning_rate`"),
    ],
    ids=["params", "module", "device", "loss"],
)
def test_invalid_trainers_are_refused(dataset, mine, options, kind, message):
    if options.get("device") == "cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    with pytest.raises(kind, match=message):
        train(dataset, key="checkpoints/wrong.pt", **options)


def test_a_mistake_in_the_trainer_is_found_when_the_dag_is_parsed():
    with pytest.raises(SpecError, match="precision"):
        check_trainer(TorchTrainer(precision="8"), "The trainer")


def test_the_cache_between_epochs_changes_nothing(dataset, monkeypatch):
    from airflow_mlops.models.trainers.torch import batches

    cached = train(dataset, key="checkpoints/cached.pt")
    monkeypatch.setattr(batches, "CACHE_BYTES", 0)
    read_again = train(dataset, key="checkpoints/again.pt")
    assert weights(cached) == weights(read_again)


def test_memory_does_not_grow_with_the_number_of_rows(store, tmp_path):
    code = """
import resource, sys
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.models.trainers.torch import batches
from tests.unit.models.test_torch import train
batches.BUFFER_ROWS, batches.CACHE_BYTES = 20_000, 2**20
store = ArtifactStore(sys.argv[1])
train(open_dataset(store, DatasetRef.model_validate_json(sys.argv[2])), epochs=2, batch_size=4096)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = []
    for name, parts in (("few", 2), ("many", 40)):
        with DatasetWriter(store, name) as writer:
            for part in range(parts):
                writer.write(rows(part, 20_000), "train")
            ref = writer.commit()[0].ref
        done = subprocess.run(
            [sys.executable, "-c", code, store.url, ref.model_dump_json()],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3], env={**os.environ},
        )  # fmt: skip
        peaks.append(int(done.stdout.splitlines()[-1]))
    # 760,000 rows more: 60 MB as Arrow, several times that as a DataFrame.
    assert peaks[1] - peaks[0] < 60, peaks


TOGETHER = {"epochs": 2, "batch_size": 256, "params": {"dropout": 0.0}, "validation": 0.0, "patience": None}


def test_several_processes_learn_the_same_as_one(dataset):
    alone = train(dataset, key="checkpoints/alone.pt", **TOGETHER)
    record = Record()
    together = train(dataset, key="checkpoints/together.pt", record=record, processes=2, accumulate=1, **TOGETHER)
    # Batches contain other rows, but as many of them, so the loss falls equally far.
    assert "Training in 2 processes." in record.lines
    assert set(record.metrics) == {0, 1}
    losses = [model.state.epochs[-1]["train_loss"] for model in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert len(together.state.losses) == pytest.approx(len(alone.state.losses), abs=1)


def test_an_exception_in_the_metrics_callback_ends_the_training_in_all_processes(dataset):
    record = Record()

    class Enough(Exception):  # noqa: N818
        pass

    def enough(epoch, metrics):
        record.metrics[epoch] = metrics
        raise Enough

    record.run = lambda dataset, key: replace(Record.run(record, dataset, key), log=enough)
    for processes in (1, 2):
        record.metrics.clear()
        with pytest.raises(Enough):
            train(dataset, key=f"checkpoints/enough-{processes}.pt", record=record, processes=processes, epochs=500)
        assert set(record.metrics) == {0}


def test_the_gradient_of_several_processes_is_the_gradient_of_their_joint_batch(dataset):
    # With one batch per epoch, each step uses the same rows, whichever process reads them.
    options = {**TOGETHER, "batch_size": 9000, "epochs": 3}
    alone = train(dataset, key="checkpoints/one.pt", **options)
    together = train(dataset, key="checkpoints/two.pt", processes=2, **options)
    np.testing.assert_allclose(together.state.losses, alone.state.losses, rtol=1e-5)
    np.testing.assert_allclose(weights(together), weights(alone), atol=1e-4)


def test_processes_terminated_by_sigterm_are_resumed_with_exactly_the_same_numbers(dataset, store):
    def start(key: str, slow: float) -> subprocess.Popen:
        arguments = [store.url, dataset.ref.model_dump_json(), key, str(slow)]
        return subprocess.Popen(
            [sys.executable, "-c", ASKED, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
        )

    whole = json.loads(start("checkpoints/whole2.pt", 0).communicate(timeout=600)[0].splitlines()[-1])
    asked = start("checkpoints/asked.pt", 0.1)
    assert asked.stdout is not None
    while (line := asked.stdout.readline()) and "Epoch 1 of 3" not in line:
        pass
    asked.send_signal(signal.SIGTERM)
    rest = asked.stdout.read()
    asked.wait(60)
    asked.stdout.close()
    assert "The next try of the task continues from the checkpoint of step" in rest
    resumed = json.loads(start("checkpoints/asked.pt", 0).communicate(timeout=600)[0].splitlines()[-1])
    assert any("Resuming from the checkpoint" in line for line in resumed["lines"])
    for name in ("losses", "epochs", "weights"):
        assert resumed[name] == whole[name], name


ASKED = """
import json, os, signal, sys
from tests.unit.models.test_torch import Record, data, BINARY, TorchTrainer, TorchTrainerSpec
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.models.trainers.torch import trainer

url, ref, key, slow = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
os.environ["TEST_SLOW"] = slow
spec = TorchTrainerSpec.model_validate(
    TorchTrainer("tests.unit.models.test_torch:slow_network", epochs=3, batch_size=256, processes=2, checkpoint_every=10**6)
)
record = Record()
class Lines(list):
    def append(self, line):
        super().append(line)
        print(line, flush=True)
record.lines = Lines()
model = trainer.fit(spec, data(*BINARY), 5, record.run(open_dataset(ArtifactStore(url), DatasetRef.model_validate_json(ref)), key))
weights = [float(v) for t in model.network.state_dict().values() for v in t.flatten()]
state = model.state
print(json.dumps({"losses": state.losses, "epochs": state.epochs, "weights": weights, "lines": record.lines}))
"""


def slow_network(**shape):
    """The built-in network, with a delay of TEST_SLOW seconds in each step."""
    import time

    from airflow_mlops.models.trainers.torch.network import TabularNetwork

    network, slow = TabularNetwork(**shape), float(os.environ.get("TEST_SLOW", "0"))
    network.register_forward_pre_hook(lambda *_: time.sleep(slow))
    return network


def dying_network(**shape):
    if os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return slow_network(**shape)


def test_a_process_that_dies_or_fails_ends_all_processes(dataset):
    with pytest.raises(TrainingError, match="ended with exit status"):
        train(dataset, module="tests.unit.models.test_torch:dying_network", processes=2, key="checkpoints/dies.pt")
    with pytest.raises(TrainingError, match="smaller `learning_rate`"):
        train(dataset, processes=2, learning_rate=1e30, params={"dropout": 0.0}, key="checkpoints/fails.pt")


OWN = """
import torch
from torch import nn
from torch.utils.data import Dataset

class Rows(Dataset):
    def __init__(self, rows, features, label, repeat=1):
        self.x = torch.stack([torch.from_numpy(rows[name].to_numpy().copy()) for name in features], 1)
        self.y = None if label is None else torch.from_numpy(rows[label].to_numpy().copy())
        self.repeat = 1 if label is None else repeat
    def __len__(self):
        return len(self.x) * self.repeat
    def __getitem__(self, place):
        x = self.x[place % len(self.x)]
        return x if self.y is None else (x, self.y[place % len(self.x)])

class Doubled(Rows):
    def __init__(self, *args):
        super().__init__(*args)
        self.x *= 2

class Net(nn.Module):
    def __init__(self, outputs, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    def forward(self, values):
        return self.layers(torch.nan_to_num(values))

def pairs(rows, features, label):
    return [1, 2]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_data", None)


def numeric(label: str, task: str, classes: list) -> TrainingData:
    whole = data(label, task, classes)
    table = whole.table.select(["x", "y"])
    return TrainingData(task, label, whole.features[:2], table, frame(table, whole.features[:2]), np.zeros(0), classes)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "task", [("kind", "multiclass", ["high", "low", "middle"]), ("amount", "regression", [])], ids=lambda task: task[1]
)
def test_a_users_dataset_feeds_a_users_network(dataset, own, task, processes):
    from airflow_mlops.models.trainers.torch import trainer as torch

    outputs = max(1, len(task[2]))
    trainer = TorchTrainer(
        "own_data:Net", {"outputs": outputs, "hidden": 16}, dataset="own_data:Rows", dataset_params={"repeat": 2},
        epochs=6, batch_size=128, learning_rate=0.05, patience=None, processes=processes,
    )  # fmt: skip
    spec = TorchTrainerSpec.model_validate(trainer)
    model = torch.fit(spec, numeric(*task), 0, Record().run(dataset, f"checkpoints/own-{task[1]}-{processes}.pt"))
    assert sum(model.state.epochs[-1].values()) < sum(model.state.epochs[0].values())
    # 9,000 rows twice, without a tenth for validation.
    assert len(model.state.losses) == pytest.approx(6 * 9000 * 2 * 0.9 / 128, rel=0.02)
    assert set(model.sources) == {"own_data:Net", "own_data:Rows"}
    unseen = rows(9, 300).select(["x", "y"])
    found = model.predict(unseen.to_pandas())
    assert found.shape == (300, outputs)
    np.testing.assert_allclose(exported(model, unseen), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "features", "message"),
    [
        ("own_data:Rows", data, "'plan' is text"),
        ("own_data:pairs", numeric, "type list, .*torch.utils.data.Dataset with a length"),
        ("own_data:Nothing", numeric, "does not define 'Nothing'"),
    ],
    ids=["text", "list", "absent"],
)
def test_invalid_user_datasets_are_refused(dataset, own, path, features, message):
    from airflow_mlops.models.trainers.torch import trainer as torch

    spec = TorchTrainerSpec.model_validate(TorchTrainer("own_data:Net", {"outputs": 2, "hidden": 4}, dataset=path))
    with pytest.raises(SpecError, match=message):
        torch.fit(spec, features(*BINARY), 0, Record().run(dataset, "checkpoints/own-wrong.pt"))


def test_a_dataset_without_a_module_is_refused():
    with pytest.raises(SpecError, match="set module="):
        check_trainer(TorchTrainer(dataset="own_data:Rows"), "The trainer")
