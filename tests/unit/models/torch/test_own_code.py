"""A user's own network and dataset."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.inputs import frame
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.trainers.spec import TorchTrainerSpec, check_trainer
from airflow_mlops.trainers import TorchTrainer
from tests.support.networks import BINARY, Record, data, exported, rows, train

MODULE = """
import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, numbers, texts, outputs, bias=True):
        super().__init__()
        self.layer = nn.Linear(numbers, outputs, bias=bias)
    def forward(self, numbers, texts):
        return self.layer(numbers)

class Unusable(Linear):
    def forward(self, numbers, texts):
        return self.layer(numbers) * (1.0 if self.training else float("nan"))

class Large(Linear):
    def forward(self, numbers, texts):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 is full.")

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
    # Only the hash of the user's code is stored. The folder of the code does not change the export.
    content = model.to_onnx(None)
    assert b"my_networks" not in content
    assert b"torch.onnx" not in content


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
        (
            {"module": "my_networks:Large", "batch_size": 4096},
            TrainingError,
            r"GPU memory .* 4,096 rows .*20\.00 GiB.* smaller `batch_size` and a larger `accumulate`",
        ),
        ({"learning_rate": 1e30, "params": {"dropout": 0.0}}, TrainingError, "smaller `learning_rate`"),
        ({"module": "my_networks:Unusable"}, TrainingError, "The validation loss is nan after 2 epochs, and was never"),
    ],
    ids=["params", "module", "device", "memory", "loss", "validation"],
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
        epochs=2, batch_size=256, learning_rate=0.05, patience=None, processes=processes,
        device="cpu" if processes > 1 else "auto",
    )  # fmt: skip
    spec = TorchTrainerSpec.model_validate(trainer)
    model = torch.fit(spec, numeric(*task), 0, Record().run(dataset, f"checkpoints/own-{task[1]}-{processes}.pt"))
    assert sum(model.state.epochs[-1].values()) < sum(model.state.epochs[0].values())
    # 9,000 rows twice, without a tenth for validation.
    assert len(model.state.losses) == pytest.approx(2 * 9000 * 2 * 0.9 / 256, rel=0.02)
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
