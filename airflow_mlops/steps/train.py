"""Fits one candidate, logs everything about it to MLflow, and registers it once."""

from __future__ import annotations

import importlib
import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.artifacts.datasets import Dataset, open_dataset
from airflow_mlops.artifacts.fingerprints import fingerprint
from airflow_mlops.exceptions import DatasetNotFoundError, ModelFormatError, TrainingError
from airflow_mlops.gates.metrics import compute
from airflow_mlops.monitoring.profiles import ModelProfile, profile
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.inputs import feature_columns, frame
from airflow_mlops.registry.models import of_run, register
from airflow_mlops.registry.onnx_model import CONTRACT_FILE, MODEL_FILE, PROFILE_FILE, OnnxModel, Predictions
from airflow_mlops.registry.runs import run_for, run_url
from airflow_mlops.specs.base import ModelVersionRef
from airflow_mlops.specs.metrics import METRICS
from airflow_mlops.specs.model import ModelContract, Task
from airflow_mlops.specs.train import TrainResult, TrainSpec
from airflow_mlops.steps.context import StepContext
from airflow_mlops.trainers import imports
from airflow_mlops.trainers.base import FittedModel, TrainingData

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature
    from numpy.typing import NDArray

TRAIN, TEST = "train", "test"
PARITY_ROWS = 1000
# ONNX computes in single precision: by how much its answers may differ, as a share of the answers' range.
PARITY_TOLERANCE = 1e-3
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
    dataset = open_dataset(context.store, spec.dataset)
    train, test = _read(dataset, TRAIN), _read(dataset, TEST)
    _check(dataset, train, test)
    client = connect(spec.mlflow, context.connection)
    name = _name(spec)
    experiment = spec.mlflow.experiment or spec.model
    with run_for(client, experiment, context.key, name, _tags(spec, dataset, context)) as run_id:
        candidate = of_run(client, spec.model, run_id)
        if candidate is None:
            candidate, metrics = _train(spec, context, client, run_id, dataset, train, test)
        else:
            context.progress(f"An earlier try of this task registered {candidate}: nothing is trained again.")
            metrics = _logged_metrics(client, run_id)
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


def _name(spec: TrainSpec) -> str:
    """What the candidate is called: as the user says, or as the class or the function is."""
    path = str(getattr(spec.trainer, "estimator", None) or getattr(spec.trainer, "function", ""))
    return spec.trainer.name or path.replace(":", ".").rpartition(".")[2]


def _read(dataset: Dataset, part: str) -> TrainingData:
    """One part of the training set, as models take it.

    :raises TrainingError: it is no training set, or its labels cannot be learned
    """
    details, name = dataset.manifest.details, dataset.manifest.name
    label, task, names = details.get("label"), details.get("task"), list(details.get("features") or ())
    if not label or not task or not names:
        raise TrainingError(
            f"Dataset {name} is no training set: it does not say what its label and its features are. "
            "Build it with BuildTrainingSetOperator and a label."
        )
    try:
        table = dataset.table(part, [*names, label])
    except DatasetNotFoundError:
        raise TrainingError(
            f"Training set {name} has no part {part!r}: build it with a split, so that the model is measured on rows "
            "it has not seen."
        ) from None
    features = feature_columns(table.schema, names)
    labels = _labels(table.column(label), task, f"Label {label!r} in part {part!r} of {name}")
    classes = [] if task == "regression" else np.unique(labels).tolist()
    table = table.select(names).combine_chunks()
    return TrainingData(task, label, features, table, frame(table, features), labels, classes)


def _labels(column: pa.ChunkedArray, task: Task, where: str) -> NDArray[Any]:
    """The labels: float64 for a regression, int64 or text for classes.

    :raises TrainingError: some are missing, infinite or fractions
    """
    values = column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if missing := values.null_count:
        raise TrainingError(
            f"{where} is missing in {missing:,} of {len(values):,} rows: leave them out before training."
        )
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int64())
    text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if text and task != "regression":
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=object)
    try:
        numbers = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        raise TrainingError(f"{where} is of type {values.type}, which is no label for a {task} task.") from None
    if bad := int((~np.isfinite(numbers)).sum()):
        raise TrainingError(
            f"{where} is NaN or infinite in {bad:,} of {len(numbers):,} rows: leave them out before training."
        )
    if task == "regression":
        return np.asarray(numbers)
    whole = numbers.astype(np.int64)
    if (whole != numbers).any():
        raise TrainingError(
            f"{where} holds fractions, and the task is {task}: make it a regression, or classes of them."
        )
    return whole


def _check(dataset: Dataset, train: TrainingData, test: TrainingData) -> None:
    """Find what no model could learn from, before anything is started.

    :raises TrainingError: naming the column or the part
    """
    name = dataset.manifest.name
    for part, data in ((TRAIN, train), (TEST, test)):
        if not len(data.labels):
            raise TrainingError(f"Part {part!r} of {name} has no rows.")
        infinite = {
            feature.name: rows
            for feature in data.features
            if feature.kind != "string" and (rows := int(np.isinf(data.frame[feature.name].to_numpy()).sum()))
        }
        if infinite:
            raise TrainingError(
                f"Part {part!r} of {name} holds infinite values, or such beyond single precision, in "
                f"{_counts(infinite)}: replace them by nulls, which stand for missing values, or leave the rows out."
            )
    empty = [name for name in train.table.column_names if _all_missing(train, name)]
    if empty:
        raise TrainingError(
            f"Feature {', '.join(map(repr, empty))} of {name} has no value in any row of part {TRAIN!r}: "
            "leave it out of the training set, or find out why it is empty."
        )
    if train.task == "regression":
        return
    if len(train.classes) < 2:
        raise TrainingError(
            f"All {len(train.labels):,} rows of part {TRAIN!r} of {name} have the label {train.classes[0]!r}: "
            "there is nothing to tell apart. Take a longer window."
        )
    if train.task == "binary" and len(train.classes) > 2:
        raise TrainingError(
            f"Label {train.label!r} of {name} has {len(train.classes)} classes, and the task is binary."
        )
    if unknown := [value for value in test.classes if value not in train.classes]:
        raise TrainingError(
            f"Part {TEST!r} of {name} has the label {unknown[0]!r}, which is not in part {TRAIN!r}: "
            "take a longer window, or another split."
        )


def _counts(rows: dict[str, int]) -> str:
    return ", ".join(f"{name!r} ({count:,} row{'s' if count > 1 else ''})" for name, count in rows.items())


def _all_missing(data: TrainingData, name: str) -> bool:
    column = data.table.column(name)
    kind = next(feature.kind for feature in data.features if feature.name == name)
    return column.null_count == len(column) or (kind != "string" and bool(data.frame[name].isna().all()))


def _tags(spec: TrainSpec, dataset: Dataset, context: StepContext) -> dict[str, str]:
    manifest, provenance = dataset.manifest, context.provenance
    tags = {
        "mlops.model": spec.model,
        "mlops.dataset": manifest.id,
        "mlops.dataset_name": manifest.name,
        "mlops.window": manifest.window.label if manifest.window else "",
        "mlops.parents": ",".join(manifest.parents),
        "mlops.seed": str(spec.seed),
        "mlops.dag_id": provenance.dag_id,
        "mlops.dag_run_id": provenance.run_id,
        "mlops.task_id": provenance.task_id,
        "mlops.map_index": str(provenance.map_index) if provenance.map_index >= 0 else "",
    }
    return {**{tag: value for tag, value in tags.items() if value}, **spec.tags}


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
    trainer: Any = importlib.import_module(f"airflow_mlops.trainers.{spec.trainer.kind}")
    with _Phase(context, "Fitted") as fitting:
        model: FittedModel = trainer.fit(spec.trainer, train, spec.seed)
    with _Phase(context, "Exported to ONNX and measured"):
        exported = model.to_onnx(train)
        contract = _contract(dataset, train)
        onnx_model = OnnxModel(exported, contract)
        difference = _parity(model, onnx_model, test)
        predictions = onnx_model.predict(test.table)
        metrics = _measure(contract, test, predictions)
        contract = contract.model_copy(update={"metrics": metrics})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        with _Phase(context, "Packaged"):
            packages = {name: version(name) for name in sorted({*_PACKAGES, *model.packages})}
            description = _package(folder, model, exported, contract, train, predictions, packages)
        with _Phase(context, "Logged"), registry_errors(f"The candidate {model.name!r} cannot be logged to MLflow"):
            facts = {"onnx_max_difference": difference, "fit_seconds": fitting.seconds}
            _log_run(client, run_id, spec, dataset, model, train, test, {**metrics, **facts}, packages)
            model_id = _log_model(client, run_id, spec, description, folder, metrics)
    tags = {
        "mlops.dataset": dataset.manifest.id,
        "mlops.key": context.key,
        "mlops.trainer": model.name,
        "mlops.status": "candidate",
    }
    return register(client, spec.model, run_id, model_id, tags), metrics


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


def _parity(model: FittedModel, onnx_model: OnnxModel, test: TrainingData) -> float:
    """The largest difference between the model's answers and its export's, on some rows.

    :raises ModelFormatError: they differ by more than rounding
    """
    expected = model.predict(test.frame.head(PARITY_ROWS))
    found = onnx_model.predict(test.table.slice(0, PARITY_ROWS))
    answers = found.score.reshape(-1, 1) if found.probabilities is None else found.probabilities
    difference = float(np.abs(answers - expected).max())
    scale = max(1.0, float(np.ptp(expected))) if test.task == "regression" else 1.0
    if not difference <= PARITY_TOLERANCE * scale:
        raise ModelFormatError(
            f"The ONNX export of {model.name} answers differently from the model itself, by up to {difference:.3g} "
            f"on {len(expected):,} rows: take other parameters or preprocessing, or report it to skl2onnx."
        )
    return difference


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
    model: FittedModel,
    exported: bytes,
    contract: ModelContract,
    train: TrainingData,
    predictions: Predictions,
    packages: dict[str, str],
) -> Model:
    """One MLflow model directory with the model's own flavour, the ONNX flavour, the contract and the profile."""
    import onnx
    from mlflow.models import Model

    description = Model(signature=_signature(contract))
    requirements = [f"{name}=={found}" for name, found in packages.items()]
    model.save(folder, description, requirements, train.frame.head(EXAMPLE_ROWS))
    (folder / MODEL_FILE).write_bytes(exported)
    description.add_flavor(
        "onnx",
        onnx_version=onnx.__version__,
        data=MODEL_FILE,
        providers=["CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    for file, content in (
        (CONTRACT_FILE, contract.model_dump(mode="json")),
        (PROFILE_FILE, _profiles(contract, train, predictions)),
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


def _profiles(contract: ModelContract, train: TrainingData, predictions: Predictions) -> dict[str, Any]:
    """What the features looked like in training and what was predicted on the held-out part, for monitoring."""
    scores = pa.RecordBatch.from_pydict({"score": pa.array(predictions.score)})
    known = ModelProfile(
        features=profile(train.table.to_batches(), [feature.name for feature in contract.features]),
        scores=profile([scores]),
    )
    return known.model_dump(mode="json")


def _log_run(
    client: MlflowClient,
    run_id: str,
    spec: TrainSpec,
    dataset: Dataset,
    model: FittedModel,
    train: TrainingData,
    test: TrainingData,
    metrics: dict[str, float],
    packages: dict[str, str],
) -> None:
    from mlflow.entities import Dataset as LoggedDataset
    from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

    manifest = dataset.manifest
    environment = {"python": platform.python_version(), "airflow-mlops": version("airflow-mlops"), **packages}
    code = {path: imports.source_hash(source) for path, source in model.sources.items()}
    tags = {
        "mlops.trainer": model.name,
        "mlops.code": fingerprint([code, environment["airflow-mlops"]]),
        "mlops.environment": fingerprint(environment),
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
    client.log_dict(run_id, environment, "environment.json")
    client.log_dict(run_id, code, "code.json")
    logged = LoggedDataset(
        name=manifest.name,
        digest=manifest.id[:36],
        source_type="airflow-mlops",
        source=json.dumps({"store": dataset.store.url, "name": manifest.name, "id": manifest.id}),
        profile=json.dumps({"num_rows": manifest.rows, **dataset.ref.parts}),
    )
    client.log_inputs(run_id, [DatasetInput(logged, [InputTag("mlflow.data.context", "training")])])


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


def _logged_metrics(client: MlflowClient, run_id: str) -> dict[str, float]:
    with registry_errors(f"The metrics of run {run_id} cannot be read"):
        logged = client.get_run(run_id).data.metrics
    return _in_order(logged)
