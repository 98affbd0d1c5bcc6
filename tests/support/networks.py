"""A small table, and short trainings of networks on it."""

from __future__ import annotations

import errno
import gc
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
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


def train_and_record(dataset, key: str, lines: list[str] | None = None, **options) -> dict[str, Any]:
    """Train, and return the results that must not depend on an interruption of the training, and the messages.

    :param lines: the list of messages; by default a new one
    """
    record = Record()
    record.lines = [] if lines is None else lines
    model = train(dataset, key=key, seed=5, record=record, epochs=3, **options)
    state = model.state
    return {"losses": state.losses, "epochs": state.epochs, "weights": weights(model), "lines": record.lines}


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


def slow_network(**shape):
    """The built-in network, with a delay of TEST_SLOW seconds in each step."""
    import time

    from airflow_mlops.models.trainers.torch.network import TabularNetwork

    network, slow = TabularNetwork(**shape), float(os.environ.get("TEST_SLOW", "0"))
    network.register_forward_pre_hook(lambda *_: time.sleep(slow))
    return network


class _Freed:
    """Creates the file TEST_FREED when it is freed in a training process."""

    def __del__(self):
        if "RANK" in os.environ:
            Path(os.environ["TEST_FREED"]).touch()


def observed_network(**shape):
    """The built-in network, which creates the file TEST_PRELOADED in a process that shares its imports with others."""
    network = slow_network(**shape)
    network.observer = _Freed()
    if "RANK" in os.environ and gc.get_freeze_count() > 100_000:
        Path(os.environ["TEST_PRELOADED"]).touch()
    return network


def dying_network(**shape):
    if os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return slow_network(**shape)


def full_disk(**shape):
    if os.environ.get("RANK"):
        raise OSError(errno.ENOSPC, "No space left on device")
    return slow_network(**shape)


def network_with_256_mib(**shape):
    """The built-in network, in a process that may use 256 MiB of the GPU memory."""
    import torch

    from airflow_mlops.models.trainers.torch.network import TabularNetwork

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(2**28 / whole)
    return TabularNetwork(**shape)
