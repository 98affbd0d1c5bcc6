"""Log a candidate to an MLflow run, and read the logged metrics."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops import __version__
from airflow_mlops.core import imports
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, Manifest
from airflow_mlops.metrics import custom
from airflow_mlops.models import parity
from airflow_mlops.models.explanation import FOLDER
from airflow_mlops.models.trainers.base import FittedModel, TrainingData
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.machine_tags import usage_tags
from airflow_mlops.registry.names import CODE_FILE, ENVIRONMENT_FILE, TRAINING_FILE
from airflow_mlops.registry.origins import CODE_VERSION
from airflow_mlops.registry.run_places import place
from airflow_mlops.stages.train.candidate import Fitted, in_order
from airflow_mlops.stages.train.package import package_versions
from airflow_mlops.stages.train.spec import TrainSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model

# Maximum number of parameters that MLflow accepts in one request.
_BATCH = 100
# Seconds between attempts to log, while another try of the task logs the same data.
_PAUSES = (0.1, 0.5)


def code(model: FittedModel, own_metrics: Iterable[str] = ()) -> dict[str, str]:
    """Return the SHA-256 of the source file of each class and function that trained or measured the model.

    :param model: the fitted model
    :param own_metrics: names of metrics, including the import paths of custom metrics
    :return: the SHA-256 of the source file, by import path of the class or function
    """
    sources = {path: imports.source_hash(source) for path, source in model.sources.items()}
    return {**sources, **custom.source_hashes(own_metrics)}


def environment(model: FittedModel) -> dict[str, str]:
    """Return the versions of Python, of airflow-mlops and of each package that the stored model needs, by name."""
    return {"python": platform.python_version(), "airflow-mlops": __version__, **package_versions(model)}


def identity(spec: TrainSpec, fitted: Fitted) -> str:
    """Return the fingerprint of a candidate. Two candidates with the same fingerprint are the same model version.

    The fingerprint covers the ONNX export, the model contract (with the id of the training set and the metrics), the
    training parameters, the code and the environment. It does not depend on the MLflow run, the Airflow task or the
    machine.
    """
    return fingerprint(
        {
            "export": hashlib.sha256(fitted.exported).hexdigest(),
            "contract": fitted.contract.model_dump(mode="json"),
            "trainer": spec.trainer.model_dump(mode="json"),
            "name": fitted.model.name,
            "seed": spec.seed,
            "code": code(fitted.model, spec.metrics),
            "code_version": spec.tags.get(CODE_VERSION),
            "environment": environment(fitted.model),
            **({} if spec.class_weight is None else {"class_weight": spec.class_weight}),
        }
    )


def log_run(
    client: MlflowClient,
    run_id: str,
    spec: TrainSpec,
    dataset: Dataset,
    fitted: Fitted,
    train: TrainingData,
    test: TrainingData | None,
) -> None:
    """Log the training set, code, environment, parameters and metrics of a candidate to the MLflow run.

    :param run_id: id of the MLflow run of the training
    :param dataset: the training set
    :param fitted: the candidate
    :param train: the rows that the candidate was fitted to
    :param test: rows of the split part ``test``; ``None`` if they are not held out
    """
    from mlflow.entities import Dataset as LoggedDataset
    from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

    manifest, model = dataset.manifest, fitted.model
    metrics = {**fitted.metrics, **parity.metrics(fitted.contract), "fit_seconds": fitted.seconds}
    packages, sources = environment(model), code(model, spec.metrics)
    tags = {
        **usage_tags(),
        "mlops.trainer": model.name,
        "mlops.package": packages["airflow-mlops"],
        "mlops.code": fingerprint([sources, packages["airflow-mlops"]]),
        "mlops.environment": fingerprint(packages),
    }
    commit = next(filter(None, map(imports.git_commit, model.sources.values())), None)
    if commit:
        tags["mlflow.source.git.commit"] = commit
    if fitted.contract.calibration is not None and test is not None:
        metrics |= {f"uncalibrated_{name}": value for name, value in fitted.contract.calibration.before.items()}
    params = _parameters(spec, manifest, fitted, train, test)
    now = int(time.time() * 1000)

    def log_numbers() -> None:
        client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def log_params() -> None:
        # MLflow refuses to change a logged parameter. The text of an object may contain its memory address, which
        # differs in a retry.
        known = client.get_run(run_id).data.params
        new = [Param(name, str(value)) for name, value in params.items() if name not in known]
        for start in range(0, len(new), _BATCH):
            client.log_batch(run_id, params=new[start : start + _BATCH])

    _insist(log_numbers)
    _insist(log_params)
    client.log_dict(run_id, packages, ENVIRONMENT_FILE)
    client.log_dict(run_id, sources, CODE_FILE)
    # The stage `reproduce` trains the model again from this spec.
    client.log_dict(run_id, spec.model_dump(mode="json", exclude={"tags"}), TRAINING_FILE)
    logged = LoggedDataset(
        name=manifest.name,
        digest=manifest.id[:36],
        source_type="airflow-mlops",
        source=json.dumps({"store": dataset.store.url, "name": manifest.name, "id": manifest.id}),
        profile=json.dumps({"num_rows": manifest.rows, **dataset.ref.parts}),
    )
    _insist(lambda: client.log_inputs(run_id, [DatasetInput(logged, [InputTag("mlflow.data.context", "training")])]))


def log_metrics(client: MlflowClient, run_id: str, contract: ModelContract) -> None:
    """Log the metrics of a registered version to its MLflow run again."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = {**contract.metrics, **parity.metrics(contract)}
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])


def _parameters(
    spec: TrainSpec, manifest: Manifest, fitted: Fitted, train: TrainingData, test: TrainingData | None
) -> dict[str, Any]:
    """Return the parameters that are logged to the MLflow run."""
    params: dict[str, Any] = {
        "trainer": fitted.model.name,
        **fitted.model.params,
        "seed": spec.seed,
        "features": len(train.features),
        "train_rows": len(train.labels),
        "test_rows": len(test.labels) if test is not None else 0,
    }
    if (sample := fitted.contract.training_sample) is not None:
        params |= {"sampled_from_rows": sample.of}
    if (choice := fitted.contract.threshold_choice) is not None:
        params |= {"threshold": fitted.contract.threshold, "threshold_rule": choice.rule, "threshold_rows": choice.rows}
    if (calibration := fitted.contract.calibration) is not None:
        params |= {"calibration": calibration.method, "calibration_rows": calibration.rows}
    if (interval := fitted.contract.interval) is not None:
        params |= {
            "interval": interval.coverage,
            "interval_margin": interval.margin,
            "interval_rows": interval.rows,
        }
    if spec.class_weight is not None:
        params |= {"class_weight": json.dumps(spec.class_weight)}
    if spec.sample_weight is not None:
        params |= {"sample_weight": spec.sample_weight}
    if rule := manifest.details.get("window_rule"):
        params |= {"window_rule": rule["rule"], "window": Window.model_validate(rule["window"]).label}
    return params


def _insist(request: Callable[[], None]) -> None:
    """Send an idempotent request, and repeat it if MLflow refuses it.

    If two tries of a task add the same objects at the same time, MLflow refuses one of the requests.
    """
    from mlflow.exceptions import MlflowException

    for pause in _PAUSES:
        try:
            return request()
        except MlflowException as error:
            # MLflow's client has repeated requests that failed for other reasons.
            if error.get_http_status_code() not in (400, 409, 500):
                raise
        time.sleep(pause)
    return request()


def log_explanation(client: MlflowClient, run_id: str, model: FittedModel, train: TrainingData) -> None:
    """Log the explanation of a glass-box model (EBM) to the MLflow run: feature importances and shape functions.

    The explanation is logged as JSON and as plots. Nothing is logged for other models.

    :param train: rows of the split part ``train``
    """
    found = model.explain(train)
    if found is None:
        return
    # Imported here, because this module imports Matplotlib.
    from airflow_mlops.models import explanation_plots

    with temporary_folder("plots") as folder:
        explanation_plots.write(folder, found)
        client.log_artifacts(run_id, str(folder), FOLDER)


def log_model(
    client: MlflowClient, run_id: str, spec: TrainSpec, description: Model, folder: Path, metrics: dict[str, float]
) -> str:
    """Upload a model directory as a logged model of the MLflow run, and return the id of the logged model.

    :param description: MLflow description of the model, which is completed and saved as ``MLmodel``
    :param folder: the model directory
    :param metrics: metrics on the split part ``test``, by name
    """
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.exceptions import MlflowException

    experiment_id = place(client, run_id).experiment_id
    logged = client.create_logged_model(experiment_id, name=spec.model.replace(".", "_"), source_run_id=run_id)
    description.artifact_path = logged.artifact_location
    description.run_id = run_id
    description.model_id = description.model_uuid = logged.model_id
    description.save(str(folder / "MLmodel"))
    client.log_model_artifacts(logged.model_id, str(folder))
    try:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    except MlflowException:
        # If the response of the server was lost, MLflow's client repeats the request, and the server refuses the
        # repeated request.
        outputs = client.get_run(run_id).outputs
        if outputs is None or all(output.model_id != logged.model_id for output in outputs.model_outputs):
            raise
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[
            Metric(name, value, now, 0, model_id=logged.model_id, run_id=run_id) for name, value in metrics.items()
        ],
    )
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def logged_metrics(client: MlflowClient, run_id: str, prefix: str = "") -> dict[str, float]:
    """Read the metrics on the split part ``test`` from the MLflow run of a training, by name.

    :param prefix: prefix of the names of the metrics to read. The returned names have this prefix as well
    """
    with registry_errors(f"The metrics of run {run_id} cannot be read"):
        logged = client.get_run(run_id).data.metrics
    found = {name.removeprefix(prefix): value for name, value in logged.items() if name.startswith(prefix)}
    return {f"{prefix}{name}": value for name, value in in_order(found).items()}
