"""Training on a GPU. ``pytest -m gpu`` runs these tests only."""

from __future__ import annotations

import gc
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.inputs import frame
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.trainers import TorchTrainer
from tests.support.networks import BINARY, Record, data, exported, rows, train, weights

pytestmark = [pytest.mark.slow, pytest.mark.gpu]

TASKS = [BINARY, ("kind", "multiclass", ["high", "low", "middle"]), ("amount", "regression", [])]
# Without dropout, the CPU and the GPU compute the same.
PLAIN = {"params": {"dropout": 0.0}, "validation": 0.0, "patience": None}
# The kernels of a GPU may add in varying order. Another seed changes the losses by more than 1e-2.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True)
def cuda():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield torch.cuda
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_device_is_a_gpu_unless_it_is_set_to_cpu(dataset, cuda):
    used = {}
    for device in ("cpu", "cuda", "auto"):
        before = cuda.memory_stats().get("allocation.all.allocated", 0)
        model = train(dataset, device=device, processes=1, key=f"checkpoints/device-{device}.pt")
        used[device] = cuda.memory_stats().get("allocation.all.allocated", 0) > before
        assert {parameter.device.type for parameter in model.network.parameters()} == {"cpu"}
    assert used == {"cpu": False, "cuda": True, "auto": True}


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task[1])
def test_every_precision_learns_what_the_cpu_learns(dataset, task, precision):
    models = [
        train(dataset, task, device=device, precision=used, processes=1, epochs=6, key=f"checkpoints/{task[1]}-{device}-{precision}.pt", **PLAIN)
        for device, used in (("cpu", "32"), ("cuda", precision))
    ]  # fmt: skip
    on_cpu, on_gpu = (model.state.epochs[-1]["train_loss"] for model in models)
    assert on_gpu == pytest.approx(on_cpu, rel=0.03, abs=0.01)
    assert {str(parameter.dtype) for parameter in models[1].network.parameters()} == {"torch.float32"}
    unseen = rows(9, 500).filter(np.isfinite(rows(9, 500)["x"].to_numpy()))
    found = models[1].predict(unseen.select(["x", "y", "plan"]).to_pandas())
    np.testing.assert_allclose(exported(models[1], unseen), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["32", "16"])
def test_the_seed_determines_the_weights(dataset, precision):
    one, same, other = (
        train(dataset, seed=seed, precision=precision, processes=1, key=f"checkpoints/gpu-seed-{precision}-{n}.pt")
        for n, seed in enumerate([1, 1, 2])
    )
    np.testing.assert_allclose(one.state.losses, same.state.losses, **CLOSE)
    assert np.abs(np.subtract(one.state.losses, other.state.losses)).max() > 0.01


class Killed(Exception):  # noqa: N818
    pass


@pytest.fixture
def killed(monkeypatch):
    """``killed(dataset, steps, ...)`` trains ``steps`` steps, and ends like a pod that is killed."""

    def run(dataset, steps, **options):
        from airflow_mlops.models.trainers.torch.loop import Loop

        original = Loop._step

        def step(self, group):
            if self.state.step == steps:
                raise Killed
            original(self, group)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_step", step)
            with pytest.raises(Killed):
                train(dataset, **options)

    return run


RESUMED = {"epochs": 3, "accumulate": 2, "checkpoint_every": 7, "processes": 1, "seed": 5}


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_a_killed_training_is_resumed_with_the_same_numbers(dataset, killed, precision):
    options = {**RESUMED, "precision": precision}
    whole = train(dataset, key=f"checkpoints/gpu-whole-{precision}.pt", **options)
    key, record = f"checkpoints/gpu-killed-{precision}.pt", Record()
    killed(dataset, 26, key=key, **options)
    resumed = train(dataset, key=key, record=record, **options)
    assert any("checkpoint after step 21" in line for line in record.lines)
    assert len(resumed.state.losses) == len(whole.state.losses) > 40
    # The losses depend on dropout, so the random state of the GPU has been restored.
    np.testing.assert_allclose(resumed.state.losses, whole.state.losses, **CLOSE)
    np.testing.assert_allclose(weights(resumed), weights(whole), atol=1e-3)


def test_a_training_terminated_by_sigterm_is_resumed(dataset):
    record = Record()
    options = {**RESUMED, "checkpoint_every": 10**6}
    whole = train(dataset, key="checkpoints/gpu-uninterrupted.pt", **options)
    received = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        record.run = lambda dataset, key: terminated(Record.run(record, dataset, key))
        with pytest.raises(SystemExit):
            train(dataset, key="checkpoints/gpu-terminated.pt", record=record, **options)
    finally:
        signal.signal(signal.SIGTERM, received)
    resumed = train(dataset, key="checkpoints/gpu-terminated.pt", **options)
    np.testing.assert_allclose(resumed.state.losses, whole.state.losses, **CLOSE)


def terminated(run):
    """Return ``run`` with a log function that sends SIGTERM after the first epoch."""
    return replace(run, log=lambda epoch, metrics: os.kill(os.getpid(), signal.SIGTERM))


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_checkpoint_can_be_resumed_on_another_device(dataset, killed, first, then):
    options = {**RESUMED, **PLAIN, "key": f"checkpoints/{first}-{then}.pt"}
    killed(dataset, 26, device=first, **options)
    record = Record()
    resumed = train(dataset, device=then, record=record, **options)
    assert any("checkpoint after step 21" in line for line in record.lines)
    whole = train(dataset, device=then, **{**options, "key": f"checkpoints/only-{then}.pt"})
    np.testing.assert_allclose(resumed.state.losses, whole.state.losses, rtol=0.02)


def test_a_resumed_training_needs_no_more_gpu_memory_and_no_more_waiting(dataset, killed, monkeypatch, cuda):
    from airflow_mlops.models.trainers.torch.loop import Loop

    loops = []
    original = Loop.resume
    monkeypatch.setattr(Loop, "resume", lambda self: (original(self), loops.append(self)))
    options = {**RESUMED, "params": {"hidden": [2048, 2048]}, "key": "checkpoints/gpu-memory.pt"}
    killed(dataset, 26, **options)
    before = cuda.max_memory_allocated()
    loops.clear()
    gc.collect()
    cuda.empty_cache()
    cuda.reset_peak_memory_stats()
    train(dataset, **options)
    assert cuda.max_memory_allocated() <= 1.05 * before
    (loop,) = loops
    # A count of steps on the GPU is read back for every parameter in every step.
    assert {state["step"].device.type for state in loop.optimizer.state.values()} == {"cpu"}
    assert {value.device.type for value in loop.state.best.values()} == {"cpu"}


SMALL = {"module": "tests.support.networks:network_with_256_mib", "processes": 1, "validation": 0.0, "patience": None}


def test_too_little_gpu_memory_is_an_error_whose_advice_helps(dataset):
    options = {**SMALL, "epochs": 1, "params": {"hidden": [512] * 8, "dropout": 0.0}}
    with pytest.raises(
        TrainingError, match=r"GPU memory is too small.* 9,000 rows .*CUDA out of memory.* `batch_size`"
    ):
        train(dataset, batch_size=9000, key="checkpoints/gpu-full.pt", **options)
    advised = train(dataset, batch_size=900, accumulate=10, key="checkpoints/gpu-advised.pt", **options)
    whole = train(dataset, batch_size=9000, key="checkpoints/gpu-roomy.pt", device="cpu", **{**options, "module": None})
    # Both make one step with the gradient of all rows.
    assert len(advised.state.losses) == len(whole.state.losses) == 1
    assert advised.state.losses[0] == pytest.approx(whole.state.losses[0], rel=1e-3)
    np.testing.assert_allclose(weights(advised), weights(whole), atol=2.5e-3)


def test_a_network_that_does_not_fit_into_the_gpu_memory_is_an_error(dataset):
    with pytest.raises(TrainingError, match=r"GPU memory is too small for the network .* a smaller network"):
        train(dataset, key="checkpoints/gpu-large.pt", **{**SMALL, "params": {"hidden": [8192, 8192]}})


def by_torchrun(dataset, key, record=None, **options):
    """Train in processes that torchrun starts, even if there is only one."""
    import torch

    from airflow_mlops.models.trainers.torch import processes, trainer
    from airflow_mlops.models.trainers.torch.task import make_network

    spec = TorchTrainerSpec.model_validate(TorchTrainer(**{"epochs": 2, "batch_size": 256, **options}))
    run = (record or Record()).run(dataset, key)
    task = trainer._task(spec, data(*BINARY), 0, run)
    torch.manual_seed(0)
    network = make_network(spec, task.reader)
    state = processes.train(task, network, run)
    return trainer.TorchModel(network, task.reader, spec, state)


def test_a_process_of_torchrun_learns_the_same_with_nccl(dataset):
    record = Record()
    here = train(dataset, processes=1, accumulate=2, key="checkpoints/gpu-here.pt")
    there = by_torchrun(dataset, "checkpoints/gpu-there.pt", record, processes=1, accumulate=2)
    assert set(record.metrics) == {0, 1}
    np.testing.assert_allclose(there.state.losses, here.state.losses, **CLOSE)
    np.testing.assert_allclose(weights(there), weights(here), atol=1e-3)


def test_too_little_gpu_memory_in_a_process_of_torchrun_is_the_same_error(dataset):
    options = {**SMALL, "params": {"hidden": [512] * 8}, "batch_size": 9000}
    with pytest.raises(TrainingError, match=r"GPU memory is too small.* 9,000 rows "):
        by_torchrun(dataset, "checkpoints/gpu-full-process.pt", **options)


# NCCL needs a GPU for each process, gloo does not.
ONE_GPU = """
import os

if "LOCAL_RANK" in os.environ:
    import torch
    from torch import distributed

    from airflow_mlops.models.trainers.torch import task

    original = distributed.init_process_group
    distributed.init_process_group = lambda backend: original("gloo")
    task.find_device = lambda name, gpu=0: torch.device("cuda", 0)
"""


@pytest.mark.parametrize("precision", ["32", "16"])
def test_two_processes_on_a_gpu_learn_what_one_learns(dataset, precision, tmp_path, monkeypatch, cuda):
    (tmp_path / "sitecustomize.py").write_text(ONE_GPU)
    monkeypatch.syspath_prepend(str(tmp_path))
    # With one batch per epoch, each step uses the same rows, whichever process reads them.
    options = {**PLAIN, "batch_size": 9000, "epochs": 3, "precision": precision}
    alone = train(dataset, processes=1, key=f"checkpoints/gpu-one-{precision}.pt", **options)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    together = train(dataset, processes=2, key=f"checkpoints/gpu-two-{precision}.pt", **options)
    np.testing.assert_allclose(together.state.losses, alone.state.losses, rtol=1e-3)
    # Where a gradient is almost zero, three steps of AdamW move a weight by up to 6e-3 in either direction.
    np.testing.assert_allclose(weights(together), weights(alone), atol=6e-3)


def test_every_gpu_gets_a_process(dataset, cuda):
    if cuda.device_count() < 2:
        pytest.skip("PyTorch finds only one GPU")
    record = Record()
    options = {**PLAIN, "batch_size": 9000, "epochs": 3}
    alone = train(dataset, processes=1, key="checkpoints/gpu-single.pt", **options)
    together = train(dataset, key="checkpoints/gpu-all.pt", record=record, **options)
    assert f"Training in {cuda.device_count()} processes." in record.lines
    np.testing.assert_allclose(together.state.losses, alone.state.losses, rtol=1e-3)


OWN = """
import torch
from torch import nn
from torch.utils.data import Dataset

class Rows(Dataset):
    def __init__(self, rows, features, label):
        self.x = torch.stack([torch.from_numpy(rows[name].to_numpy().copy()) for name in features], 1)
        self.y = None if label is None else torch.from_numpy(rows[label].to_numpy().copy())
    def __len__(self):
        return len(self.x)
    def __getitem__(self, place):
        return self.x[place] if self.y is None else (self.x[place], self.y[place])

class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 16), nn.GELU(), nn.Linear(16, outputs))
        self.register_buffer("scale", torch.ones(2))
    def forward(self, values):
        return self.layers(torch.nan_to_num(values) * self.scale)
"""


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_a_users_network_and_dataset_train_on_the_gpu(dataset, precision, tmp_path, monkeypatch, cuda):
    from airflow_mlops.models.trainers.torch import trainer as torch

    (tmp_path / "own_gpu.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = data(*BINARY)
    table = whole.table.select(["x", "y"])
    known = TrainingData(
        "binary", "label", whole.features[:2], table, frame(table, whole.features[:2]), np.zeros(0), [0, 1]
    )
    spec = TorchTrainerSpec.model_validate(
        TorchTrainer("own_gpu:Net", {"outputs": 2}, dataset="own_gpu:Rows", epochs=4, batch_size=256, precision=precision, learning_rate=0.02, processes=1)
    )  # fmt: skip
    try:
        model = torch.fit(spec, known, 0, Record().run(dataset, f"checkpoints/gpu-own-{precision}.pt"))
    finally:
        sys.modules.pop("own_gpu", None)
    assert cuda.max_memory_allocated() > 0
    assert model.state.epochs[-1]["train_loss"] < model.state.epochs[0]["train_loss"]
    unseen = rows(9, 300).select(["x", "y"])
    np.testing.assert_allclose(exported(model, unseen), model.predict(unseen.to_pandas()), rtol=1e-4, atol=1e-5)


def test_a_training_leaves_nothing_in_the_gpu_memory(dataset, cuda):
    options = {"params": {"hidden": [2048, 2048]}, "processes": 1}
    train(dataset, key="checkpoints/gpu-left-0.pt", **options)
    gc.collect()
    before = cuda.memory_allocated()
    for attempt in (1, 2):
        train(dataset, key=f"checkpoints/gpu-left-{attempt}.pt", **options)
    gc.collect()
    # Trials of a search train one after the other in one process.
    assert cuda.memory_allocated() <= before + 2**20
