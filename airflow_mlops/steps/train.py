"""Fits one candidate, logs everything about it to MLflow, and registers it once."""

from __future__ import annotations

import importlib
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.artifacts.datasets import Dataset, open_dataset
from airflow_mlops.artifacts.fingerprints import fingerprint
from airflow_mlops.artifacts.store import ArtifactStore
from airflow_mlops.exceptions import SpecError
from airflow_mlops.gates.metrics import compute
from airflow_mlops.monitoring.reference import model_profile
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.models import of_run, register
from airflow_mlops.registry.onnx_model import CONTRACT_FILE, MODEL_FILE, PROFILE_FILE
from airflow_mlops.registry.runs import run_for, run_url
from airflow_mlops.registry.scorer import Predictions
from airflow_mlops.specs.base import ModelVersionRef
from airflow_mlops.specs.explanation import FOLDER
from airflow_mlops.specs.metrics import METRICS
from airflow_mlops.specs.model import ModelContract
from airflow_mlops.specs.search import SearchSpec
from airflow_mlops.specs.train import SearchTrainerSpec, TorchTrainerSpec, TrainResult, TrainSpec
from airflow_mlops.steps import parity
from airflow_mlops.steps.context import StepContext
from airflow_mlops.steps.surroundings import used
from airflow_mlops.steps.training import SAMPLE_ROWS, TEST, TRAIN, check_parts, read_part, run_tags
from airflow_mlops.trainers import imports
from airflow_mlops.trainers.base import FittedModel, TrainingData, TrainingRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature

# In the MLflow run.
TRAINING_FILE, CODE_FILE, ENVIRONMENT_FILE = "training.json", "code.json", "environment.json"
EXAMPLE_ROWS = 5
_PACKAGES = ("mlflow", "numpy", "onnx", "onnxruntime", "pandas", "pyarrow")
# The most that MLflow takes in one request.
_BATCH = 100


def run(spec: TrainSpec, context: StepContext) -> TrainResult:
    """Train, measure, store and register.

    :raises TrainingError: the data cannot be learned from, or the estimator cannot learn from it
    :raises ModelFormatError: the model cannot be stored or exported in a format that runs no code when it is loaded
    :raises RegistryError: MLflow cannot be used
    """
    spec = _searched(spec, context)
    dataset, train, test = load(spec, context.store)
    client = connect(spec.mlflow, context.connection)
    name = spec.trainer.label
    experiment = spec.mlflow.experiment or spec.model
    with run_for(client, experiment, context.key, name, run_tags(spec, dataset, context)) as run_id:
        candidate = of_run(client, spec.model, run_id)
        if candidate is None:
            candidate, metrics = _train(spec, context, client, run_id, dataset, train, test)
        else:
            context.progress(f"An earlier try of this task registered {candidate}: nothing is trained again.")
            metrics = logged_metrics(client, run_id)
    numbers = ", ".join(f"{key} {value:.4g}" for key, value in list(metrics.items())[:3])
    return TrainResult(
        candidate=candidate,
        run_id=run_id,
        run_url=run_url(client, run_id),
        metrics=metrics,
        dataset=dataset.ref,
        trainer=name,
        summary=f"Trained {name} on {len(train.labels):,} rows of {dataset.manifest.name}, registered as {candidate}: "
        f"{numbers} on {len(test.labels):,} held-out rows.",
    )


def load(spec: TrainSpec, store: ArtifactStore) -> tuple[Dataset, TrainingData, TrainingData]:
    """The training set and its two parts, after a look at whether a model can learn from them.

    :raises TrainingError: naming what it cannot learn from
    """
    dataset = open_dataset(store, spec.dataset)
    # A network is fitted to a stream, and its module reads that for itself.
    streamed = isinstance(spec.trainer, TorchTrainerSpec)
    train, test = read_part(dataset, TRAIN, SAMPLE_ROWS if streamed else None), read_part(dataset, TEST)
    check_parts(dataset, {TRAIN: train, TEST: test})
    return dataset, train, test


def _searched(spec: TrainSpec, context: StepContext) -> TrainSpec:
    """The same with the trainer that a search finds, where one is asked for."""
    if not isinstance(spec.trainer, SearchTrainerSpec):
        return spec
    # Needs Optuna.
    from airflow_mlops.steps import search

    fields = {name: getattr(spec, name) for name in ("dataset", "model", "seed", "mlflow", "tags")}
    result = search.run_alone(SearchSpec(search=spec.trainer, **fields), context)
    return TrainSpec(trainer=result.model_dump(mode="json"), **fields)


def assist(spec: TrainSpec, context: StepContext) -> None:
    """Help the first of several nodes to train; that one stores what comes of it.

    :raises TrainingError: a process of this node failed
    """
    from airflow_mlops.trainers import torch

    if not isinstance(spec.trainer, TorchTrainerSpec):
        raise SpecError(f"{spec.trainer.label} trains on one node: several are for TorchTrainer.")
    dataset = open_dataset(context.store, spec.dataset)
    train = read_part(dataset, TRAIN, SAMPLE_ROWS)
    run = TrainingRun(
        dataset=dataset,
        part=TRAIN,
        checkpoint=_checkpoint(context),
        progress=context.progress,
        log=lambda epoch, metrics: None,
        log_files=lambda folder, name: None,
        finished=lambda: context.store.exists(context.key),
    )
    torch.assist(spec.trainer, train, spec.seed, run)


@dataclass(frozen=True)
class Fitted:
    """A model that was trained and measured, before it is stored.

    :param exported: its ONNX form
    :param predictions: for the held-out part
    :param metrics: of these predictions
    :param seconds: how long the fit took
    """

    model: FittedModel
    exported: bytes
    contract: ModelContract
    predictions: Predictions
    metrics: dict[str, float]
    seconds: float


def fit(
    spec: TrainSpec, context: StepContext, dataset: Dataset, train: TrainingData, test: TrainingData, run: TrainingRun
) -> Fitted:
    """Fit, export and measure one candidate.

    :raises TrainingError: the estimator cannot learn from the data
    :raises ModelFormatError: it cannot be exported
    """
    trainer: Any = importlib.import_module(f"airflow_mlops.trainers.{spec.trainer.kind}")
    with _Phase(context, "Fitted") as fitting:
        model: FittedModel = trainer.fit(spec.trainer, train, spec.seed, run)
    with _Phase(context, "Exported to ONNX and measured"):
        contract = _contract(dataset, train)
        export = parity.export(model, contract, train, test, context.progress)
        metrics = _measure(contract, test, export.predictions)
    contract = contract.model_copy(update={"metrics": metrics, "parity": export.parity})
    return Fitted(model, export.content, contract, export.predictions, metrics, fitting.seconds)


def code(model: FittedModel) -> dict[str, str]:
    """SHA-256 of the source file behind each class and function that made the model, by import path."""
    return {path: imports.source_hash(source) for path, source in model.sources.items()}


def environment(model: FittedModel) -> dict[str, str]:
    """Version of Python, of this package and of each package that the stored model needs."""
    return {"python": platform.python_version(), "airflow-mlops": version("airflow-mlops"), **_packages(model)}


def _packages(model: FittedModel) -> dict[str, str]:
    return {name: version(name) for name in sorted({*_PACKAGES, *model.packages})}


def _train(
    spec: TrainSpec,
    context: StepContext,
    client: MlflowClient,
    run_id: str,
    dataset: Dataset,
    train: TrainingData,
    test: TrainingData,
) -> tuple[ModelVersionRef, dict[str, float]]:
    """Fit, measure and store; what is in the run before a failure is overwritten by the next try."""
    fitted = fit(spec, context, dataset, train, test, _training_run(context, client, run_id, dataset))
    model, metrics = fitted.model, fitted.metrics
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        with _Phase(context, "Packaged"):
            description = _package(folder, fitted, dataset, train, test)
        with _Phase(context, "Logged"), registry_errors(f"The candidate {model.name!r} cannot be logged to MLflow"):
            facts = {**parity.metrics(fitted.contract), "fit_seconds": fitted.seconds}
            _log_run(client, run_id, spec, dataset, model, train, test, {**metrics, **facts})
            _log_explanation(client, run_id, model, train)
            model_id = _log_model(client, run_id, spec, description, folder, metrics)
    tags = {
        "mlops.dataset": dataset.manifest.id,
        "mlops.key": context.key,
        "mlops.trainer": model.name,
        "mlops.status": "candidate",
    }
    candidate = register(client, spec.model, run_id, model_id, tags)
    _drop_checkpoint(context)
    return candidate, metrics


def _checkpoint(context: StepContext) -> str:
    return f"checkpoints/{context.key.removesuffix('.json')}.pt"


def _drop_checkpoint(context: StepContext) -> None:
    with suppress(FileNotFoundError):
        context.store.delete(_checkpoint(context))


def _training_run(context: StepContext, client: MlflowClient, run_id: str, dataset: Dataset) -> TrainingRun:
    def log(epoch: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            # A retry that goes on from a checkpoint may come through an epoch again.
            if all(known.step != epoch for known in client.get_metric_history(run_id, name)):
                client.log_metric(run_id, name, value, step=epoch)

    return TrainingRun(
        dataset=dataset,
        part=TRAIN,
        checkpoint=_checkpoint(context),
        progress=context.progress,
        log=log,
        log_files=lambda folder, name: client.log_artifacts(run_id, str(folder), name),
    )


@contextmanager
def scratch_run(context: StepContext, dataset: Dataset) -> Iterator[TrainingRun]:
    """A training run that leaves nothing behind: no metrics, no files, no checkpoint."""
    try:
        yield TrainingRun(
            dataset=dataset,
            part=TRAIN,
            checkpoint=_checkpoint(context),
            progress=context.progress,
            log=lambda epoch, metrics: None,
            log_files=lambda folder, name: None,
        )
    finally:
        _drop_checkpoint(context)


class _Phase:
    """Says in the task's log how long a phase took."""

    def __init__(self, context: StepContext, done: str) -> None:
        self._context = context
        self._done = done
        self.seconds = 0.0

    def __enter__(self) -> _Phase:
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        if kind is None:
            self._context.progress(f"{self._done} in {self.seconds:.1f} s.")


def _contract(dataset: Dataset, train: TrainingData) -> ModelContract:
    return ModelContract(
        task=train.task,
        label=train.label,
        features=train.features,
        classes=train.classes,
        # scikit-learn's convention: the last in order, so 1, True or "yes".
        positive=train.classes[-1] if train.task == "binary" else None,
        dataset_name=dataset.manifest.name,
        dataset_id=dataset.manifest.id,
        timestamp=dataset.manifest.details.get("timestamp"),
    )


def _measure(contract: ModelContract, test: TrainingData, predictions: Predictions) -> dict[str, float]:
    found = compute(
        contract.task,
        test.labels,
        predictions.prediction,
        predictions.score,
        predictions.probabilities,
        contract.classes,
        positive=contract.positive,
    )
    return _in_order(found)


def _in_order(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of this package among ``metrics``, in the order that all results have."""
    return {name: metrics[name] for name in METRICS if name in metrics}


def _package(
    folder: Path,
    fitted: Fitted,
    dataset: Dataset,
    train: TrainingData,
    test: TrainingData,
) -> Model:
    """One MLflow model directory with the model's own flavour, the ONNX flavour, the contract and the profile."""
    import onnx
    from mlflow.models import Model

    model, contract = fitted.model, fitted.contract
    description = Model(signature=_signature(contract))
    requirements = [f"{name}=={found}" for name, found in _packages(model).items()]
    model.save(folder, description, requirements, train.frame.head(EXAMPLE_ROWS))
    (folder / MODEL_FILE).write_bytes(fitted.exported)
    description.add_flavor(
        "onnx",
        onnx_version=onnx.__version__,
        data=MODEL_FILE,
        providers=["CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    features = [feature.name for feature in contract.features]
    profile = model_profile(
        lambda: dataset.batches(TRAIN, features),
        lambda: dataset.batches(TEST, features),
        contract,
        test.labels,
        fitted.predictions,
    )
    for file, content in (
        (CONTRACT_FILE, contract.model_dump(mode="json")),
        (PROFILE_FILE, profile.model_dump(mode="json")),
    ):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps(content, indent=1, allow_nan=False))
    return description


def _signature(contract: ModelContract) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    kinds = {"number": "double", "integer": "long", "string": "string"}
    inputs = Schema([ColSpec(kinds[feature.kind], feature.name) for feature in contract.features])
    answer: Any = contract.classes[0] if contract.classes else 0.0
    output = {str: "string", int: "long", float: "double"}[type(answer)]
    return ModelSignature(inputs, Schema([ColSpec(output)]))


def _log_run(
    client: MlflowClient,
    run_id: str,
    spec: TrainSpec,
    dataset: Dataset,
    model: FittedModel,
    train: TrainingData,
    test: TrainingData,
    metrics: dict[str, float],
) -> None:
    from mlflow.entities import Dataset as LoggedDataset
    from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

    manifest = dataset.manifest
    surrounding, sources = environment(model), code(model)
    tags = {
        **used(),
        "mlops.trainer": model.name,
        "mlops.package": surrounding["airflow-mlops"],
        "mlops.code": fingerprint([sources, surrounding["airflow-mlops"]]),
        "mlops.environment": fingerprint(surrounding),
    }
    commit = next(filter(None, map(imports.commit, model.sources.values())), None)
    if commit:
        tags["mlflow.source.git.commit"] = commit
    params = {
        "trainer": model.name,
        **model.params,
        "seed": spec.seed,
        "features": len(train.features),
        "train_rows": len(train.labels),
        "test_rows": len(test.labels),
    }
    # MLflow refuses a parameter that changes, and a parameter may be an object whose text holds its address.
    known = client.get_run(run_id).data.params
    new = [Param(name, str(value)) for name, value in params.items() if name not in known]
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    for start in range(0, len(new), _BATCH):
        client.log_batch(run_id, params=new[start : start + _BATCH])
    client.log_dict(run_id, surrounding, ENVIRONMENT_FILE)
    client.log_dict(run_id, sources, CODE_FILE)
    # What to ask for to get the same model again.
    client.log_dict(run_id, spec.model_dump(mode="json", exclude={"tags"}), TRAINING_FILE)
    logged = LoggedDataset(
        name=manifest.name,
        digest=manifest.id[:36],
        source_type="airflow-mlops",
        source=json.dumps({"store": dataset.store.url, "name": manifest.name, "id": manifest.id}),
        profile=json.dumps({"num_rows": manifest.rows, **dataset.ref.parts}),
    )
    client.log_inputs(run_id, [DatasetInput(logged, [InputTag("mlflow.data.context", "training")])])


def _log_explanation(client: MlflowClient, run_id: str, model: FittedModel, train: TrainingData) -> None:
    found = model.explain(train)
    if found is None:
        return
    # Imports Matplotlib.
    from airflow_mlops.steps import explanation

    with tempfile.TemporaryDirectory() as folder:
        explanation.write(Path(folder), found)
        client.log_artifacts(run_id, folder, FOLDER)


def _log_model(
    client: MlflowClient, run_id: str, spec: TrainSpec, description: Model, folder: Path, metrics: dict[str, float]
) -> str:
    """Upload the folder as a logged model of the run, and return the model's id."""
    from mlflow.entities import LoggedModelOutput, Metric

    experiment_id = client.get_run(run_id).info.experiment_id
    for unfinished in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(unfinished.model_id)
    logged = client.create_logged_model(experiment_id, name=spec.model.replace(".", "_"), source_run_id=run_id)
    description.artifact_path = logged.artifact_location
    description.run_id = run_id
    description.model_id = description.model_uuid = logged.model_id
    description.save(str(folder / "MLmodel"))
    client.log_model_artifacts(logged.model_id, str(folder))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[
            Metric(name, value, now, 0, model_id=logged.model_id, run_id=run_id) for name, value in metrics.items()
        ],
    )
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def logged_metrics(client: MlflowClient, run_id: str) -> dict[str, float]:
    """The metrics on the held-out part, as the run has them."""
    with registry_errors(f"The metrics of run {run_id} cannot be read"):
        logged = client.get_run(run_id).data.metrics
    return _in_order(logged)
