"""Train a registered version again from the spec in the version's MLflow run, and compare the results.

No model version is registered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.models.trainers.spec import BoostingTrainerSpec, TorchTrainerSpec
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.machine_tags import machine_tags
from airflow_mlops.registry.names import CODE_FILE, ENVIRONMENT_FILE, GPU_TAG, IN_SAMPLE, REFIT_OF_TAG
from airflow_mlops.registry.versions import version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.reproduce.spec import Comparison, ReproduceResult, ReproduceSpec
from airflow_mlops.stages.train import record, warm_start
from airflow_mlops.stages.train.candidate import fit_candidate, load_all, load_data
from airflow_mlops.stages.train.recorded import run_file, training_spec
from airflow_mlops.stages.train.runs import scratch_run
from airflow_mlops.stages.train.spec import TrainSpec

# Relative tolerances for the metrics of networks. The order of additions depends on the number of threads, so the last
# digits of the weights depend on the machine. GPUs, half precision and several processes need the larger tolerance.
# Other models are reproduced exactly.
_NETWORK_TOLERANCE, _LOOSE_TOLERANCE = 1e-6, 0.02


def run(spec: ReproduceSpec, context: StepContext) -> ReproduceResult:
    """Train again with the data, trainer and seed of a registered version, and compare the results.

    :raises RegistryError: the version does not exist, has no MLflow run, or a required file is absent from this run
    :raises DatasetNotFoundError: the training set of the version is not in the artifact store
    :raises DatasetCorruptError: a file of the training set was changed
    :raises SpecError: the MLflow run names user code, and ``allow_code`` is not set
    :raises TrainingError: the training fails
    """
    context = context.for_call()
    client = connect(spec.mlflow, context.connection)
    ref = version(client, spec.model, spec.version)
    recorded = training_spec(client, ref, allow_code=spec.allow_code)
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        tags = client.get_run(ref.run_id).data.tags
    code, environment = (run_file(client, ref, file) for file in (CODE_FILE, ENVIRONMENT_FILE))
    # A refit was fitted to all rows, so its run contains only metrics on rows to which it was fitted.
    refit = REFIT_OF_TAG in tags
    dataset, training, test = (load_all if refit else load_data)(recorded, context.store)
    dataset.verify()
    context.progress(f"Training {ref} again on {dataset.manifest.name} ({dataset.manifest.id[:12]}).")
    with scratch_run(context, dataset) as scratch:
        scratch = replace(scratch, part=None) if refit else scratch
        scratch = warm_start.started(scratch, recorded, client, context)
        fitted = fit_candidate(recorded, context, dataset, training, test, scratch)
    then, now = record.logged_metrics(client, ref.run_id, IN_SAMPLE if refit else ""), fitted.metrics
    if refit:
        now = {f"{IN_SAMPLE}{name}": value for name, value in now.items()}
    gpus = tags.get(GPU_TAG, ""), machine_tags().get(GPU_TAG, "")
    comparisons = [
        _same("data", tags.get("mlops.dataset", ""), dataset.manifest.id),
        _same("seed", tags.get("mlops.seed", ""), str(recorded.seed)),
        *_all("code", code, record.code(fitted.model, recorded.metrics), "differs"),
        *_all("package", environment, record.environment(fitted.model), "noted"),
        *([_same("GPU", *gpus, otherwise="noted")] if any(gpus) else []),
        *_metrics(then, now, _tolerance(recorded, any(gpus))),
    ]
    return _result(ref, comparisons)


def _same(what: str, then: str, now: str, otherwise: str = "differs") -> Comparison:
    return Comparison(what=what, then=then, now=now, verdict="equal" if then == now else otherwise)


def _all(kind: str, then: Mapping[str, str], now: Mapping[str, str], otherwise: str) -> Iterator[Comparison]:
    for name in dict.fromkeys([*then, *now]):
        what = "Python" if name == "python" else f"{kind} {name}"
        yield _same(what, str(then.get(name, "")), str(now.get(name, "")), otherwise)


def _tolerance(spec: TrainSpec, on_gpu: bool) -> float:
    trainer = spec.trainer
    if isinstance(trainer, BoostingTrainerSpec) and on_gpu and trainer.device != "cpu":
        return _LOOSE_TOLERANCE
    if not isinstance(trainer, TorchTrainerSpec):
        return 0.0
    exact = (trainer.processes or 1) == 1 and trainer.precision == "32" and not on_gpu
    return _NETWORK_TOLERANCE if exact else _LOOSE_TOLERANCE


def _metrics(then: Mapping[str, float], now: Mapping[str, float], tolerance: float) -> Iterator[Comparison]:
    for name in dict.fromkeys([*then, *now]):
        first, second = then.get(name, math.nan), now.get(name, math.nan)
        verdict = "differs"
        if first == second:
            verdict = "equal"
        elif math.isclose(first, second, rel_tol=tolerance):
            verdict = "within tolerance"
        elif name not in then:
            # The version of this package that trained the model did not have this metric yet.
            verdict = "noted"
        yield Comparison(what=f"metric {name}", then=repr(first), now=repr(second), verdict=verdict)


def _result(ref: ModelVersionRef, comparisons: list[Comparison]) -> ReproduceResult:
    differing = [item.what for item in comparisons if item.verdict == "differs"]
    noted = [item.what for item in comparisons if item.verdict == "noted"]
    environment = f"; the environment differs ({', '.join(noted)})" if noted else ""
    verdict = f"is not reproduced. These differ: {', '.join(differing)}" if differing else "is reproduced"
    return ReproduceResult(reproduced=not differing, comparisons=comparisons, summary=f"{ref} {verdict}{environment}.")
