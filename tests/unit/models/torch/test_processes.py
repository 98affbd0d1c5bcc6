"""Training in several processes."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from airflow_mlops.core.errors import SpecError, SpillError, TrainingError
from tests.support.networks import (
    Record,
    train,
    weights,
)

pytestmark = pytest.mark.slow


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
            options = {"processes": processes, "device": "cpu", "epochs": 500}
            train(dataset, key=f"checkpoints/enough-{processes}.pt", record=record, **options)
        assert set(record.metrics) == {0}


def test_the_gradient_of_several_processes_is_the_gradient_of_their_joint_batch(dataset, tmp_path, monkeypatch):
    for name in ("freed", "preloaded"):
        monkeypatch.setenv(f"TEST_{name.upper()}", str(tmp_path / name))
    # With one batch per epoch, each step uses the same rows, whichever process reads them. Several processes need several
    # GPUs, or the CPU.
    options = {
        "epochs": 3, "batch_size": 9000, "params": {"dropout": 0.0}, "validation": 0.0, "patience": None,
        "module": "tests.support.networks:observed_network", "device": "cpu",
    }  # fmt: skip
    alone = train(dataset, key="checkpoints/one.pt", **options)
    record = Record()
    together = train(dataset, key="checkpoints/two.pt", record=record, processes=2, accumulate=1, **options)
    np.testing.assert_allclose(together.state.losses, alone.state.losses, rtol=1e-5)
    np.testing.assert_allclose(weights(together), weights(alone), atol=1e-4)
    assert "Training in 2 processes." in record.lines
    assert set(record.metrics) == {0, 1, 2}
    assert (tmp_path / "preloaded").exists()
    # Freeing the process group can block forever.
    assert not (tmp_path / "freed").exists()


def test_a_full_disk_in_a_process_is_an_error_that_can_be_retried_and_nothing_is_left(dataset, monkeypatch):
    # The path of tmp_path may be too long for sockets.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        with pytest.raises(SpillError) as caught:
            train(
                dataset, module="tests.support.networks:full_disk", processes=2, device="cpu", key="checkpoints/full.pt"
            )
        # PyTorch keeps its compiled functions there.
        assert [name for name in os.listdir(folder) if not name.startswith("torchinductor")] == []
    assert caught.value.retryable


def test_a_temporary_folder_whose_path_is_too_long_for_sockets_is_refused(dataset, tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(SpillError, match="TMPDIR") as caught:
        train(dataset, processes=2, device="cpu", key="checkpoints/long.pt")
    assert not caught.value.retryable
    assert os.listdir(folder) == []


def test_a_process_that_dies_or_fails_ends_all_processes(dataset):
    with pytest.raises(TrainingError, match="ended with exit status"):
        train(
            dataset, module="tests.support.networks:dying_network", processes=2, device="cpu", key="checkpoints/dies.pt"
        )
    with pytest.raises(TrainingError, match="smaller `learning_rate`"):
        options = {"learning_rate": 1e30, "params": {"dropout": 0.0}}
        train(dataset, processes=2, device="cpu", key="checkpoints/fails.pt", **options)


@pytest.mark.parametrize(("gpus", "found"), [(1, "1 GPU, "), (3, "3 GPUs, ")])
def test_more_processes_than_gpus_are_refused(dataset, monkeypatch, gpus, found):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(SpecError, match=f"processes=4, but PyTorch finds only {found}.*gpus=4.*device='cpu'"):
        train(dataset, processes=4, key="checkpoints/few-gpus.pt")
