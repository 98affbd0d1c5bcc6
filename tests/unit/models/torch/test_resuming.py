"""A training that was killed or terminated is resumed with exactly the same numbers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KILLED = """
import json, sys, time
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.trainers import TorchTrainer
from tests.support.networks import BINARY, Record, data
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
            [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[4]
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


def test_processes_terminated_by_sigterm_are_resumed_with_exactly_the_same_numbers(dataset, store):
    def start(key: str, slow: float) -> subprocess.Popen:
        arguments = [store.url, dataset.ref.model_dump_json(), key, str(slow)]
        return subprocess.Popen(
            [sys.executable, "-c", ASKED, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[4]
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
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.trainers import TorchTrainer
from tests.support.networks import BINARY, Record, data
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.models.trainers.torch import trainer

url, ref, key, slow = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
os.environ["TEST_SLOW"] = slow
spec = TorchTrainerSpec.model_validate(
    TorchTrainer("tests.support.networks:slow_network", epochs=3, batch_size=256, processes=2, device="cpu", checkpoint_every=10**6)
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
