"""Training on several nodes with the environment of Kubeflow Trainer; here the nodes are processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from typing import Any

import pytest

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.data.results import read_result
from airflow_mlops.registry.client import connect
from airflow_mlops.stages.calls import KEY_VARIABLE, STORE_VARIABLE, call_key, write_call
from airflow_mlops.stages.runner import run_call
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import TorchTrainer
from tests.support.training import training_set

# Seconds after which a node counts as hanging: far more than a node needs, because a slow run on a loaded machine is
# not a failure.
HANGS = 600


@pytest.fixture
def call(store):
    def call(trainer):
        spec = TrainSpec(dataset=training_set(store), model=f"late_{uuid.uuid4().hex[:8]}", trainer=trainer)
        return StepCall(
            step="train",
            spec=spec.model_dump(mode="json"),
            store=store.url,
            key=f"results/{uuid.uuid4().hex}.json",
            version=__version__,
            provenance=Provenance(dag_id="d", task_id="t"),
        )

    return call


def variables(rank: int, port: int) -> dict[str, str]:
    """The environment of a node."""
    return {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "auto",
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }


def start(call: StepCall, rank: int, port: int) -> subprocess.Popen:
    write_call(call)
    return subprocess.Popen(
        [sys.executable, "-m", "airflow_mlops.stages"],
        env={**os.environ, **variables(rank, port), STORE_VARIABLE: call.store, KEY_VARIABLE: call_key(call)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def as_node(monkeypatch):
    """``as_node(call, rank)`` runs what a node runs, in this process."""

    def as_node(call: StepCall, rank: int) -> dict[str, Any]:
        with monkeypatch.context() as node:
            for name, value in variables(rank, free_port()).items():
                node.setenv(name, value)
            return run_call(call)

    return as_node


def test_two_nodes_train_one_candidate(mlflow_connection, store, call, as_node, caplog):
    made, port = call(TorchTrainer(device="cpu", epochs=3, batch_size=64)), free_port()
    nodes = [start(made, rank, port) for rank in (0, 1)]
    first, second = (node.communicate(timeout=HANGS)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], first + second
    assert "Training in 2 processes." in first
    assert "Epoch 3 of 3" in first
    assert "Epoch" not in second
    result = read_result(store, made.key)
    assert result is not None
    client = connect(MLflowTarget(), from_environment)
    (version,) = client.search_model_versions(f"name = '{made.spec['model']}'")
    assert int(version.version) == result["candidate"]["version"]
    # A retry of each node finds the stored result.
    caplog.set_level("INFO", logger="airflow_mlops.stages")
    for rank in (0, 1):
        caplog.clear()
        assert as_node(made, rank) == result
        assert "the step does not run again" in caplog.text


def test_a_waiting_node_ends_once_the_result_is_stored(mlflow_connection, store, call):
    made, port = call(TorchTrainer(device="cpu", epochs=1, batch_size=64)), free_port()
    # The first node finds a candidate that an earlier try registered, and does not train.
    helper = start(made, 1, port)
    assert helper.stdout is not None
    while "trainers.torch.launch" not in _children(helper.pid):
        assert helper.poll() is None, helper.stdout.read()
    store.write_json(made.key, {"summary": "done"})
    assert helper.wait(60) == 0
    helper.stdout.close()


def _children(pid: int) -> str:
    return subprocess.run(["ps", "--ppid", str(pid), "-o", "args="], capture_output=True, text=True, check=False).stdout


def test_other_trainers_support_only_one_node(mlflow_connection, call, as_node):
    with pytest.raises(SpecError, match="cannot train on several nodes"):
        as_node(call({"estimator": "sklearn.linear_model.LogisticRegression"}), 1)
