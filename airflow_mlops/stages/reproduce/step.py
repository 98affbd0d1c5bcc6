"""Trains a registered version again from what its MLflow run refers to, registers nothing, and compares."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.environment import surroundings
from airflow_mlops.registry.versions import version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.reproduce.spec import Comparison, ReproduceResult, ReproduceSpec
from airflow_mlops.stages.train import record as train_record
from airflow_mlops.stages.train.fit import fit, load
from airflow_mlops.stages.train.runs import scratch_run
from airflow_mlops.stages.train.spec import TrainSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

# A processor adds in an order that depends on how many threads it has, so that the last digits of a network's
# weights depend on the machine. GPUs, half precision and processes that exchange gradients keep fewer digits.
# Relative to the larger of the two numbers; everything else repeats to the last digit.
_NETWORK_TOLERANCE, _LOOSE_TOLERANCE = 1e-6, 0.02
_GPU = "mlops.gpu"


def run(spec: ReproduceSpec, context: StepContext) -> ReproduceResult:
    """Train again with the data, trainer and seed of a registered version.

    :raises RegistryError: there is no such version, or its run does not hold what is needed
    :raises DatasetNotFoundError: its training set is not in the artifact store
    :raises DatasetCorruptError: its training set was changed
    :raises TrainingError: what was learned once can no longer be learned
    """
    client = connect(spec.mlflow, context.connection)
    ref = version(client, spec.model, spec.version)
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        tags = client.get_run(ref.run_id).data.tags
    recorded = _recorded(client, ref)
    code, environment = (_read(client, ref, file) for file in (train_record.CODE_FILE, train_record.ENVIRONMENT_FILE))
    dataset, training, test = load(recorded, context.store)
    context.progress(f"Training {ref} again on {dataset.manifest.name} ({dataset.manifest.id[:12]}).")
    with scratch_run(context, dataset) as scratch:
        fitted = fit(recorded, context, dataset, training, test, scratch)
    gpus = tags.get(_GPU, ""), surroundings().get(_GPU, "")
    comparisons = [
        _same("data", tags.get("mlops.dataset", ""), dataset.manifest.id),
        _same("seed", tags.get("mlops.seed", ""), str(recorded.seed)),
        *_all("code", code, train_record.code(fitted.model), "differs"),
        *_all("package", environment, train_record.environment(fitted.model), "noted"),
        *([_same("GPU", *gpus, otherwise="noted")] if any(gpus) else []),
        *_metrics(train_record.logged_metrics(client, ref.run_id), fitted.metrics, _tolerance(recorded, any(gpus))),
    ]
    return _result(ref, comparisons)


def _recorded(client: MlflowClient, ref: ModelVersionRef) -> TrainSpec:
    found: TrainSpec = parse(TrainSpec, _read(client, ref, train_record.TRAINING_FILE), f"The training of {ref}")
    return found


def _read(client: MlflowClient, ref: ModelVersionRef, file: str) -> dict[str, Any]:
    """A JSON file of the version's run.

    :raises RegistryError: the run has no such file
    """
    with registry_errors(f"The MLflow run of {ref} cannot be read"), tempfile.TemporaryDirectory() as folder:
        if all(item.path != file for item in client.list_artifacts(ref.run_id)):
            raise RegistryError(
                f"{ref} cannot be reproduced: its MLflow run {ref.run_id} has no {file}, as it was not made by "
                "TrainOperator or by an older one. Train it again."
            )
        content: dict[str, Any] = json.loads(Path(client.download_artifacts(ref.run_id, file, folder)).read_bytes())
    return content


def _same(what: str, then: str, now: str, otherwise: str = "differs") -> Comparison:
    return Comparison(what=what, then=then, now=now, verdict="equal" if then == now else otherwise)


def _all(kind: str, then: Mapping[str, str], now: Mapping[str, str], otherwise: str) -> Iterator[Comparison]:
    for name in dict.fromkeys([*then, *now]):
        what = "Python" if name == "python" else f"{kind} {name}"
        yield _same(what, str(then.get(name, "")), str(now.get(name, "")), otherwise)


def _tolerance(spec: TrainSpec, on_gpu: bool) -> float:
    trainer = spec.trainer
    if not isinstance(trainer, TorchTrainerSpec):
        return 0.0
    alone = (trainer.processes or 1) == 1 and trainer.precision == "32" and not on_gpu
    return _NETWORK_TOLERANCE if alone else _LOOSE_TOLERANCE


def _metrics(then: Mapping[str, float], now: Mapping[str, float], tolerance: float) -> Iterator[Comparison]:
    for name in dict.fromkeys([*then, *now]):
        first, second = then.get(name, math.nan), now.get(name, math.nan)
        verdict = "differs"
        if first == second:
            verdict = "equal"
        elif math.isclose(first, second, rel_tol=tolerance):
            verdict = "within tolerance"
        yield Comparison(what=f"metric {name}", then=repr(first), now=repr(second), verdict=verdict)


def _result(ref: ModelVersionRef, comparisons: list[Comparison]) -> ReproduceResult:
    differing = [item.what for item in comparisons if item.verdict == "differs"]
    noted = [item.what for item in comparisons if item.verdict == "noted"]
    elsewhere = f", in another environment ({', '.join(noted)})" if noted else ""
    said = f"is not reproduced: {', '.join(differing)} differ" if differing else "is reproduced"
    return ReproduceResult(reproduced=not differing, comparisons=comparisons, summary=f"{ref} {said}{elsewhere}.")
