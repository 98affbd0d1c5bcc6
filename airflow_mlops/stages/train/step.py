"""Train one candidate, log the training to MLflow, and register the candidate as a model version."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import ModelContract, Task, TrainingSample
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import RegistryError, SpecError
from airflow_mlops.core.numbers import rounded
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.selection import select_one
from airflow_mlops.metrics import custom
from airflow_mlops.metrics.catalog import is_coverage_gap, is_custom, predicted_quantile
from airflow_mlops.metrics.judged import headline_metrics
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.trainers.spec import (
    FunctionTrainerSpec,
    SearchTrainerSpec,
    SklearnTrainerSpec,
    TorchTrainerSpec,
)
from airflow_mlops.models.trainers.validation import SHARE
from airflow_mlops.models.training_data import SAMPLE_ROWS, TRAIN, read_part, unseen_classes
from airflow_mlops.overview import candidates
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.names import SEARCH_TAG
from airflow_mlops.registry.runs import run_for, run_url
from airflow_mlops.registry.tags import run_tags
from airflow_mlops.registry.versions import IDENTITY, download, identical, model_id_of, of_run, register
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.search.spec import SearchSpec
from airflow_mlops.stages.train import record, warm_start
from airflow_mlops.stages.train.aside import divided, uses
from airflow_mlops.stages.train.candidate import Phase, fit_candidate, load_data
from airflow_mlops.stages.train.package import write_package
from airflow_mlops.stages.train.runs import drop_checkpoint, logged_run, unlogged_run
from airflow_mlops.stages.train.spec import TrainResult, TrainSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


def run(spec: TrainSpec, context: StepContext) -> TrainResult:
    """Train a candidate and register the candidate as a model version.

    If the trainer is a search, the search runs first. The candidate is registered only once: a retry of the task
    returns the version that an earlier try registered.

    :raises TrainingError: no model can be trained on the data, or the training fails
    :raises ModelFormatError: the model cannot be exported to ONNX, or cannot be stored in a format that loads without
        running code
    :raises RegistryError: MLflow cannot be used
    """
    context = context.for_call()
    _import_early(spec)
    # Load custom metrics now, so that an invalid import path fails before the training.
    for path in filter(is_custom, spec.metrics):
        metric = custom.load(path)
        if spec.sample_weight is not None:
            metric.require_weights()
    if spec.sample_weight is not None and SEARCH_TAG in spec.tags:
        context.progress(
            f"The parameters were found by a search, whose trials were fitted and measured without the weights in column "
            f"{spec.sample_weight!r}."
        )
    # The recorded spec refers to the dataset by its id, because a later dataset may have the same name.
    spec = spec.model_copy(update={"dataset": select_one(context.store, spec.dataset, context.kept).ref})
    spec = _search_parameters(spec, context)
    dataset, train, test = load_data(spec, context.store)
    client = connect(spec.mlflow, context.connection)
    spec = warm_start.resolved(spec, client, context)
    name = spec.trainer.label
    experiment = spec.mlflow.experiment or spec.model
    # Otherwise, MLflow would show a finished run as running again.
    context.require_unfinished()
    with run_for(
        client,
        context.store,
        experiment,
        context.key,
        name,
        run_tags(spec.model, spec.seed, dataset.manifest, context.provenance, spec.tags),
    ) as run_id:
        candidate = of_run(client, spec.model, run_id)
        if candidate is None:
            candidate, metrics, sample = _train_and_register(spec, context, client, run_id, dataset, train, test)
        else:
            context.progress(
                f"An earlier try of this task has already registered {candidate}. The model is not trained again."
            )
            contract = _contract(client, candidate)
            metrics, sample = dict(contract.metrics), contract.training_sample
    candidates.trained(context.store, candidate, context.provenance.dag_id)
    unseen = unseen_classes(train, test)
    only = f" {_count(unseen, test)} have a class that {TRAIN!r} lacks and count as errors." if unseen else ""
    outcome = (
        f" and registered it as {candidate}"
        if candidate.run_id == run_id
        else f". The model is identical to {candidate}, so no new version was registered"
    )
    numbers = ", ".join(f"{name} {rounded(metrics[name])}" for name in _shown(train.task, metrics))
    context.processed(len(train.labels))
    rows = counted(len(train.labels), "row") if sample is None else str(sample)
    return TrainResult(
        candidate=candidate,
        run_id=run_id,
        run_url=run_url(client, run_id),
        metrics=metrics,
        dataset=dataset.ref,
        trainer=name,
        training_sample=sample,
        summary=f"Trained {name} on {rows} of {dataset.manifest.name}{_set_aside(spec, sample)}{outcome}. "
        f"Metrics on {counted(len(test.labels), 'held-out row')}: {numbers}.{only}",
    )


def _import_early(spec: TrainSpec) -> None:
    """Import SciPy before MLflow if the model will be stored by skops, which saves a second.

    When skops is imported, it searches all imported modules for each function of SciPy, in the order of their import.
    """
    trainer = spec.trainer.trainer if isinstance(spec.trainer, SearchTrainerSpec) else spec.trainer
    if isinstance(trainer, (SklearnTrainerSpec, FunctionTrainerSpec)) and trainer.serialization == "skops":
        # A function may train a model without SciPy.
        with suppress(ImportError):
            importlib.import_module("scipy.special")


def _contract(client: MlflowClient, candidate: ModelVersionRef) -> ModelContract:
    """Read the contract of a version, with its metrics and its training sample.

    The run is not read, because another try may have logged other metrics to it in the meantime.
    """
    return OnnxModel.load(download(client, candidate)).contract


def _shown(task: Task, metrics: Mapping[str, float]) -> list[str]:
    """Return the names of at most three metrics for the summary, the most important first."""
    if task != "regression":
        return list(metrics)[:3]
    first = [name for name in headline_metrics(task, metrics) if name in metrics]
    # For a model that predicts a quantile, the other metrics are meant for predictions of the mean.
    others = filter(is_coverage_gap, metrics) if predicted_quantile(task, metrics) is not None else metrics
    return list(dict.fromkeys([*first, *others]))[:3]


def _count(classes: Sequence[Any], test: TrainingData) -> str:
    rows = int(np.isin(test.labels, classes).sum())
    return f"{rows:,} of these rows ({', '.join(map(repr, classes[:5]))}{', …' if len(classes) > 5 else ''})"


def _set_aside(spec: TrainSpec, sample: TrainingSample | None) -> str:
    found = " and ".join(f"the {use}" for use in uses(spec))
    if not found:
        return ""
    return (
        f" (about {SHARE:.0%} of all training rows were set aside for {found})"
        if sample
        else f" (about {SHARE:.0%} of them for {found})"
    )


def _search_parameters(spec: TrainSpec, context: StepContext) -> TrainSpec:
    """Run the search if the trainer is a search, and return the spec with the best parameters as trainer.

    If the trainer is not a search, return ``spec`` unchanged.
    """
    if not isinstance(spec.trainer, SearchTrainerSpec):
        return spec
    # Imported here, because only a search needs it.
    from airflow_mlops.stages.search import step as search

    fields = {name: getattr(spec, name) for name in ("dataset", "model", "seed", "mlflow", "tags")}
    result = search.run_in_one_task(SearchSpec(search=spec.trainer, **fields), context)
    fields |= {name: getattr(spec, name) for name in ("metrics", "threshold", "calibration", "interval")}
    return TrainSpec(trainer=result.model_dump(mode="json"), **fields)


def assist(spec: TrainSpec, context: StepContext) -> None:
    """Run the part of a multi-node training that belongs to this node. Only the first node stores the model.

    :raises SpecError: the trainer is not a TorchTrainer
    :raises TrainingError: a process of this node failed
    """
    from airflow_mlops.models.trainers.torch import trainer as torch

    if not isinstance(spec.trainer, TorchTrainerSpec):
        raise SpecError(
            f"The trainer {spec.trainer.label!r} cannot train on several nodes, because only TorchTrainer supports them. Use "
            "one node."
        )
    dataset = select_one(context.store, spec.dataset, context.kept).weighted(spec.sample_weight)
    train = read_part(dataset, TRAIN, SAMPLE_ROWS)
    if uses(spec):
        dataset = divided(spec, dataset, TRAIN, train.labels).fitted
        train = read_part(dataset, TRAIN, SAMPLE_ROWS)
    run = replace(unlogged_run(context, dataset), finished=lambda: context.store.exists(context.key))
    torch.assist(spec.trainer, train, spec.seed, run)


def _train_and_register(
    spec: TrainSpec,
    context: StepContext,
    client: MlflowClient,
    run_id: str,
    dataset: Dataset,
    train: TrainingData,
    test: TrainingData,
) -> tuple[ModelVersionRef, dict[str, float], TrainingSample | None]:
    """Fit, log and register the candidate. A retry overwrites the metrics and files that a failed try has logged.

    If an earlier training made an identical model version, that version is returned, and no new version is registered.

    :return: the model version of the candidate, the metrics on the split part ``test``, and the training sample
    """
    training = warm_start.started(logged_run(context, dataset, client, run_id), spec, client, context)
    fitted = fit_candidate(spec, context, dataset, train, test, training)
    train = fitted.train
    context.require_unfinished()
    name, identity = fitted.model.name, record.identity(spec, fitted)
    existing = identical(client, spec.model, identity)
    if existing is not None:
        with registry_errors(f"The training {name!r} cannot be logged to MLflow"):
            record.log_run(client, run_id, spec, dataset, fitted, train, test)
            if existing.run_id != run_id:
                client.set_tag(run_id, "mlops.identical_to", str(existing.version))
        drop_checkpoint(context)
        return existing, fitted.metrics, fitted.contract.training_sample
    tags = {
        "mlops.dataset": dataset.manifest.id,
        "mlops.key": context.key,
        "mlops.trainer": name,
        "mlops.status": "candidate",
        IDENTITY: identity,
    }
    with temporary_folder("model") as temporary:
        folder = temporary / "model"
        with Phase(context, "Packaged"):
            description = write_package(folder, fitted, dataset, train, test)
        model_id = None
        try:
            with Phase(context, "Logged"), registry_errors(f"The candidate {name!r} cannot be logged to MLflow"):
                record.log_run(client, run_id, spec, dataset, fitted, train, test)
                record.log_explanation(client, run_id, fitted.model, train)
                model_id = record.log_model(client, run_id, spec, description, folder, fitted.metrics)
            candidate = register(client, spec.model, run_id, model_id, tags)
        except RegistryError:
            # In the meantime, another try of this task may have registered its model and deleted the model of this try.
            other = of_run(client, spec.model, run_id)
            if other is None:
                raise
            candidate = other
    drop_checkpoint(context)
    if model_id_of(client, candidate) == model_id:
        return candidate, fitted.metrics, fitted.contract.training_sample
    context.progress(f"Another try of this task has registered {candidate} in the meantime.")
    contract = _contract(client, candidate)
    with registry_errors(f"The metrics of {candidate} cannot be logged to MLflow"):
        # This try may have overwritten the metrics of the other try.
        record.log_metrics(client, run_id, contract)
    return candidate, dict(contract.metrics), contract.training_sample
