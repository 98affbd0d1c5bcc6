"""What a process that trains imports, and in which order."""

from __future__ import annotations

import subprocess
import sys

# Runs the step until it would connect to MLflow, and prints which modules are imported then.
PROGRAM = """
import sys
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train import step
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import SklearnTrainer
from tests.support.training import training_set

def connect(*args):
    sys.exit("".join(str(int(name in sys.modules)) for name in ("scipy.special", "mlflow", "skops")))

step.connect = connect
store = ArtifactStore(sys.argv[1])
trainer = SklearnTrainer("sklearn.linear_model.LogisticRegression")
step.run(TrainSpec(dataset=training_set(store), model="late", trainer=trainer), StepContext(store, "results/one.json"))
"""


def test_scipy_is_imported_before_mlflow_if_skops_stores_the_model(tmp_path):
    program = [sys.executable, "-c", PROGRAM, f"file://{tmp_path}/store"]
    assert subprocess.run(program, capture_output=True, text=True, timeout=300).stderr.split() == ["100"]
