"""Training by a Jupyter notebook, with the real papermill and a real kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core import secrets
from airflow_mlops.core.errors import NotCacheableError, SpecError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.trainers.known import own_code
from airflow_mlops.models.trainers.programs import notebook
from airflow_mlops.models.trainers.programs.tracking import TemporaryTracking
from airflow_mlops.models.trainers.spec import NotebookTrainerSpec
from airflow_mlops.models.training_data import read_part
from airflow_mlops.registry.names import CODE_FILE
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.cached_trainings import import_paths
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import NotebookTrainer
from tests.support import notebooks
from tests.support.online import assert_online_equals_batch
from tests.support.training import flights, training_set

NUMERIC = ["distance", "hour", "weekend"]


@pytest.fixture
def rows(store):
    return read_part(open_dataset(store, training_set(store, features=NUMERIC)), "train")


def fit(rows, file, *cells, run=None, **fields):
    spec = NotebookTrainerSpec(notebook=notebooks.write(file, *cells), **fields)
    return notebook.fit(spec, rows, 3, run)


@pytest.mark.slow
def test_a_notebook_trains_a_candidate_like_any_other(client, store, tmp_path):
    secrets.remember("hunter2hunter2")
    looks = (
        "import pyarrow.parquet as pq\n"
        "print(pq.read_metadata(train_path).num_rows, 'hunter2' * 2)\n"
        "with mlflow.start_run():\n"
        "    mlflow.log_metric('roc_auc', 0.123, step=9)\n"
        "    mlflow.log_param('seed', 'mine')\n"
        f"{notebooks.LOG}"
    )
    file = notebooks.write(tmp_path / "late.ipynb", notebooks.PARAMETERS + "C = 1.0", notebooks.TRAIN, looks)
    name = f"late_{uuid.uuid4().hex[:8]}"
    spec = TrainSpec(
        dataset=training_set(store, features=NUMERIC), model=name, trainer=NotebookTrainer(file, {"C": 0.5}), seed=3
    )
    result = train.run(spec, StepContext(store, uuid.uuid4().hex))

    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    # What the notebook logs replaces neither parameters nor metrics of the training.
    assert (run.data.params["C"], run.data.params["seed"], run.data.params["notebook"]) == ("0.5", "3", file)
    assert run.data.metrics["roc_auc"] == pytest.approx(result.metrics["roc_auc"])
    assert result.metrics["roc_auc"] > 0.6
    assert run.data.metrics["onnx_max_difference"] < 1e-5
    model = OnnxModel.load(download(client, result.candidate))
    assert_online_equals_batch(model, flights(100, seed=5))
    contract = model.contract
    assert (contract.task, contract.classes, contract.parity.rows) == ("binary", [0, 1], 300)

    folder = Path(client.download_artifacts(result.run_id, "", str(tmp_path)))
    executed = (folder / "notebook/executed.ipynb").read_text()
    assert "600 ***" in executed
    assert json.loads((folder / "notebook/logged.json").read_text())[0]["metrics"] == {"roc_auc": 0.123}
    # Running the notebook in Jupyter changes outputs and counts, but not the code.
    hashes = json.loads((folder / CODE_FILE).read_text())[file]
    content = json.loads(Path(file).read_text())
    content["cells"][1] |= {"execution_count": 7, "outputs": [{"output_type": "stream", "text": "x"}]}
    Path(file).write_text(json.dumps(content))
    assert notebook._code_hash(notebook._cells(Path(file))) == hashes
    content["cells"][1]["source"][-1] += "# changed"
    Path(file).write_text(json.dumps(content))
    assert notebook._code_hash(notebook._cells(Path(file))) != hashes


def test_an_error_names_the_cell(rows, tmp_path):
    file = tmp_path / "n.ipynb"
    with pytest.raises(TrainingError, match=r"in cell 3: KeyError: 'absent'") as caught:
        fit(rows, file, notebooks.PARAMETERS, "x = {}", "x['absent']")
    assert not caught.value.retryable


def test_the_error_about_a_dead_kernel_names_the_cell(tmp_path):
    # As papermill 2.7 leaves the files when the kernel was killed in the second cell.
    cells = [{"metadata": {"tags": ["injected-parameters"], "papermill": {"start_time": "t"}}}]
    cells += [{"metadata": {"papermill": {"start_time": start}}} for start in ("t", "t", None)]
    (tmp_path / "executed.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "output").write_text("Traceback\nnbclient.exceptions.DeadKernelError: Kernel died\n\n")
    found = notebook._failure("Notebook 'n'", tmp_path / "executed.ipynb", tmp_path / "output", 1)
    assert found.startswith("The kernel of Notebook 'n' ended in cell 2")


def test_exactly_one_model_must_be_logged(rows, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    tracking = TemporaryTracking(tmp_path)
    with pytest.raises(TrainingError, match="logged no model"):
        tracking.model("The notebook")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = tracking.environment["MLFLOW_TRACKING_URI"]
    client = MlflowClient(address, address)
    for name in ("one", "two"):
        client.create_logged_model(client.create_experiment(name), name=name)
    with pytest.raises(TrainingError, match="2 models .'one', 'two'."):
        tracking.model("The notebook")


def test_the_parameters_must_be_declared(rows, tmp_path):
    file = tmp_path / "n.ipynb"
    for cells, fields, expected in (
        (["x = 1"], {}, "does not assign 'train_path'"),
        ([notebooks.PARAMETERS], {"params": {"C": 1}}, "does not assign 'C'"),
        ([notebooks.PARAMETERS], {"validation": 0.2}, "does not assign 'validation_path'"),
        (["train_path: str = 1 +"], {}, "not valid Python"),
    ):
        with pytest.raises(SpecError, match=expected):
            fit(rows, file, *cells, **fields)
    with pytest.raises(ValueError, match="the training sets this parameter"):
        NotebookTrainerSpec(notebook="n.ipynb", params={"seed": 1})
    Path(file).write_text("{}")
    with pytest.raises(SpecError, match="not a Jupyter notebook"):
        notebook.fit(NotebookTrainerSpec(notebook=str(file)), rows, 3)
    with pytest.raises(SpecError, match="does not exist"):
        notebook.fit(NotebookTrainerSpec(notebook="absent.ipynb"), rows, 3)


def test_validation_rows_and_weights_are_written_for_the_notebook(rows, tmp_path, monkeypatch):
    from dataclasses import replace

    from airflow_mlops.models.trainers.programs import rows as written

    weights = np.linspace(1, 2, len(rows.labels))
    spec = NotebookTrainerSpec(notebook="n.ipynb", validation=0.25, params={"C": 1})
    given = written.write(spec, replace(rows, weights=weights), 3, None, tmp_path)
    train, aside = (pq.read_table(given[name]) for name in ("train_path", "validation_path"))
    assert train.num_rows + aside.num_rows == 600
    assert 100 < aside.num_rows < 200
    assert train.column_names == [*NUMERIC, "late", given["sample_weight"]]
    assert sorted(train["sample_weight"].to_pylist() + aside["sample_weight"].to_pylist()) == pytest.approx(weights)
    assert (given["C"], given["seed"]) == (1, 3)
    assert json.loads(given["contract"])["positive"] == 1


def test_a_notebook_is_code_of_the_user(tmp_path):
    spec = NotebookTrainerSpec(notebook="n.ipynb")
    assert own_code(spec) == ["n.ipynb"]
    with pytest.raises(NotCacheableError):
        list(import_paths(spec, ()))


WAITS = "import os, time; from pathlib import Path; Path({file!r}).write_text(str(os.getpid())); time.sleep(60)"

STEP = """
import signal, sys
from airflow_mlops.models.trainers.programs import process
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
from pathlib import Path
process.run(["-m", "airflow_mlops.models.trainers.programs.kernel", sys.argv[1]], {}, Path(sys.argv[2]))
"""


def test_sigterm_ends_the_kernel(tmp_path):
    started, settings = tmp_path / "pid", tmp_path / "settings.json"
    file = notebooks.write(tmp_path / "n.ipynb", "x = 1", WAITS.format(file=str(started)))
    settings.write_text(json.dumps({"notebook": file, "executed": str(tmp_path / "e.ipynb"), "parameters": {}}))
    step = subprocess.Popen([sys.executable, "-c", STEP, str(settings), str(tmp_path / "output")])
    try:
        end = time.monotonic() + 60
        while not (started.exists() and started.read_text()):
            assert step.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        kernel = int(started.read_text())
        step.send_signal(signal.SIGTERM)
        assert step.wait(30) == 143
        end = time.monotonic() + 10
        while Path(f"/proc/{kernel}").exists() and time.monotonic() < end:
            time.sleep(0.1)
        with pytest.raises(ProcessLookupError):
            os.kill(kernel, 0)
    finally:
        step.kill()
