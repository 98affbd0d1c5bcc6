"""A training that was killed or terminated is resumed with exactly the same numbers."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.networks import train_and_record

pytestmark = pytest.mark.slow

KILLED = """
import sys, time
from tests.support.networks import train_and_record
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.models.trainers.torch.loop import Loop

url, ref, key = sys.argv[1:]
original = Loop._step
def step(self, group):
    original(self, group)
    print(self.state.step, flush=True)
    time.sleep(0.05)
Loop._step = step
dataset = open_dataset(ArtifactStore(url), DatasetRef.model_validate_json(ref))
train_and_record(dataset, key, accumulate=2, checkpoint_every=7)
"""

TERMINATED = """
import os, signal, sys
from tests.support.networks import train_and_record
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.core.references import DatasetRef

url, ref, key = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
os.environ["TEST_SLOW"] = "0.1"
class Lines(list):
    def append(self, line):
        super().append(line)
        print(line, flush=True)
dataset = open_dataset(ArtifactStore(url), DatasetRef.model_validate_json(ref))
slow = "tests.support.networks:slow_network"
train_and_record(dataset, key, Lines(), module=slow, processes=2, device="cpu", checkpoint_every=10**6)
"""


@pytest.fixture
def start(dataset, store):
    """``start(script, key)`` starts a training that the test stops later, in a separate process."""

    def start(script: str, key: str) -> subprocess.Popen:
        command = [sys.executable, "-c", script, store.url, dataset.ref.model_dump_json(), key]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[4])

    return start


def test_a_killed_training_is_resumed_with_exactly_the_same_numbers(dataset, start):
    options = {"accumulate": 2, "checkpoint_every": 7}
    whole = train_and_record(dataset, "checkpoints/whole.pt", **options)
    killed = start(KILLED, "checkpoints/killed.pt")
    assert killed.stdout is not None
    while (line := killed.stdout.readline()) and int(line) < 26:
        pass
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    resumed = train_and_record(dataset, "checkpoints/killed.pt", **options)
    assert any("checkpoint after step 21" in line for line in resumed["lines"])
    for name in ("losses", "epochs", "weights"):
        assert resumed[name] == whole[name], name
    assert len(whole["losses"]) > 40


def test_processes_terminated_by_sigterm_are_resumed_with_exactly_the_same_numbers(dataset, start):
    options = {
        "module": "tests.support.networks:slow_network", "processes": 2, "device": "cpu", "checkpoint_every": 10**6
    }  # fmt: skip
    whole = train_and_record(dataset, "checkpoints/whole2.pt", **options)
    # Batches contain different rows than in one process, but the same number of rows, so the loss falls equally far.
    alone = train_and_record(dataset, "checkpoints/alone.pt", **{**options, "processes": 1})
    assert whole["epochs"][-1]["train_loss"] == pytest.approx(alone["epochs"][-1]["train_loss"], rel=0.05)
    assert len(whole["losses"]) == pytest.approx(len(alone["losses"]), abs=len(whole["epochs"]))
    terminated = start(TERMINATED, "checkpoints/terminated.pt")
    assert terminated.stdout is not None
    while (line := terminated.stdout.readline()) and "Epoch 1 of 3" not in line:
        pass
    terminated.send_signal(signal.SIGTERM)
    rest = terminated.stdout.read()
    terminated.wait(60)
    terminated.stdout.close()
    assert "The next try of the task continues from the checkpoint of step" in rest
    resumed = train_and_record(dataset, "checkpoints/terminated.pt", **options)
    assert any("Resuming from the checkpoint" in line for line in resumed["lines"])
    for name in ("losses", "epochs", "weights"):
        assert resumed[name] == whole[name], name
