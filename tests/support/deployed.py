"""A linear champion with a contract and a profile, as TrainOperator stores them."""

from __future__ import annotations

import json
import pickle
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.intervals import proportion
from airflow_mlops.metrics.realised import Outcomes
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.profiles import segments
from airflow_mlops.profiles.calibration import calibrate
from airflow_mlops.profiles.profile import ModelProfile, profile
from airflow_mlops.profiles.training import POSITIVES
from tests.support.candidates import linear

FEATURES = ("distance", "wind")
WEIGHTS = (1.0, 0.0)


def flights(rows: int = 2_000, seed: int = 0, *, shift: float = 0.0, noise: float = 1.0) -> pa.Table:
    """Flights with an ``arr_delay`` that depends on ``distance`` and on noise."""
    random = np.random.default_rng(seed)
    distance = random.normal(shift, 1, rows)
    return pa.table(
        {
            "flight": np.arange(rows),
            "time_hour": pa.array(np.full(rows, 1_365_000_000_000_000), pa.timestamp("us", "UTC")),
            "distance": distance,
            "wind": random.normal(size=rows),
            "arr_delay": 15 + 10 * (distance - shift + noise * random.logistic(size=rows) / 2),
        }
    )


def write(
    store: ArtifactStore, name: str, data: pa.Table, window: str | None = None, details: dict[str, Any] | None = None
) -> DatasetRef:
    with DatasetWriter(store, name) as writer:
        writer.write(data)
        return writer.commit(window=Window.model_validate(window) if window else None, details=details)[0].ref


def scoring_set(store: ArtifactStore, data: pa.Table, window: str, name: str = "scoring", **others: Any) -> DatasetRef:
    """A dataset to score, as BuildTrainingSetOperator writes it."""
    details = {"keys": ["flight"], "timestamp": "time_hour", "features": list(FEATURES), "label": None, **others}
    return write(store, name, data, window, details)


def promote(
    client: Any, folder: Path, store: ArtifactStore, model: str, roc_auc: float = 0.86, calibrated: bool = True
) -> ModelVersionRef:
    """Register a version of ``model`` that was trained on the first quarter, and make it champion."""
    from mlflow.exceptions import MlflowException

    training = flights(seed=1)
    trained_on = write(store, "delays_training", training, "2013-01..2013-03")
    contract = ModelContract(
        task="binary",
        label="late",
        features=[FeatureColumn(name=name, kind="number") for name in FEATURES],
        classes=[False, True],
        positive=True,
        metrics={"roc_auc": roc_auc},
        dataset_name=trained_on.name,
        dataset_id=trained_on.id,
        timestamp="time_hour",
    )
    exported = linear("binary", FEATURES, WEIGHTS)
    scores = OnnxModel(exported, contract).predict(training).score
    late = training["arr_delay"].to_numpy() > 15
    features, outcomes = profile(training.to_batches(), FEATURES), Outcomes(late, scores, (scores >= 0.5) == late)
    cuts = segments.cut(features.columns)
    known = ModelProfile(
        features=features,
        scores=profile(pa.table({"score": scores}).to_batches()),
        calibration=calibrate("binary", outcomes) if calibrated else None,
        segments=segments.held_out(cuts, contract, training.to_batches(), outcomes) if calibrated else None,
        importance={"distance": 1.0, "wind": 0.0} if calibrated else {},
        intervals={POSITIVES: proportion(float((scores >= 0.5).mean()), len(scores), 1.96)} if calibrated else {},
    )
    folder = folder / uuid.uuid4().hex
    (folder / "mlops").mkdir(parents=True)
    (folder / "mlops" / "contract.json").write_text(contract.model_dump_json())
    (folder / "mlops" / "profile.json").write_text(known.model_dump_json())
    (folder / "model.onnx").write_bytes(exported)
    (folder / "MLmodel").write_text(json.dumps({"flavors": {"onnx": {"data": "model.onnx"}}, "artifact_path": "model"}))
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(folder), "model")
    client.set_terminated(run.info.run_id)
    with suppress(MlflowException):  # it exists already
        client.create_registered_model(model)
    made = client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(model, "champion", made.version)
    return ModelVersionRef(model=model, version=int(made.version), run_id=run.info.run_id)


class Champions:
    """Versions of a registered model. All have the files of the first version, some with changes.

    :param url: URL of the MLflow server
    :param folder: folder for the files of the versions
    :param store: the artifact store
    """

    def __init__(self, url: str, folder: Path, store: ArtifactStore) -> None:
        from mlflow import MlflowClient

        self.client, self.folder = MlflowClient(url, url), folder
        self.model = f"faults_{uuid.uuid4().hex[:8]}"
        self.first = promote(self.client, folder, store, self.model)
        self._source = self.client.get_model_version(self.model, "1").source

    def move(self, version: int | str) -> int:
        """Make a version champion, and return its number."""
        self.client.set_registered_model_alias(self.model, "champion", str(version))
        return int(version)

    def add(self, change: Callable[[Path], object] | None = None) -> int:
        """Make a new version champion, and return its number.

        :param change: function that changes the files in a folder; by default the version has the files of the first
        """
        source, run_id = self._source, self.first.run_id
        if change is not None:
            files = Path(self.client.download_artifacts(run_id, "model", str(self.folder)))
            change(files)
            run = self.client.create_run("0")
            run_id, source = run.info.run_id, f"{run.info.artifact_uri}/model"
            self.client.log_artifacts(run_id, str(files), "model")
            shutil.rmtree(files)
        return self.move(self.client.create_model_version(self.model, source, run_id).version)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self._file,)


def pickled(files: Path, name: str = "model.pkl") -> None:
    """Replace the ONNX model with a pickle, as MLflow stores models of scikit-learn."""
    (files / "model.onnx").unlink()
    (files / name).write_bytes(pickle.dumps(Payload(files.parent / "unpickled")))
    flavors = {
        "python_function": {"loader_module": "mlflow.sklearn", "model_path": name},
        "sklearn": {"pickled_model": name, "serialization_format": "cloudpickle"},
    }
    (files / "MLmodel").write_text(json.dumps({"flavors": flavors, "artifact_path": "model"}))


def without_contract(files: Path) -> None:
    """Remove the model contract, as if TrainOperator had not trained the version."""
    (files / "mlops" / "contract.json").unlink()
