"""Measures candidates and the present champion on the same held-out data, and judges them by gates."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.artifacts.datasets import Dataset, open_dataset
from airflow_mlops.exceptions import (
    EvaluationError,
    ModelFormatError,
    RegistryError,
    RegistryUnavailableError,
    SchemaError,
    SpecError,
)
from airflow_mlops.gates.evidence import Evidence, Measurement
from airflow_mlops.gates.metrics import baseline, compute
from airflow_mlops.gates.rules import Gate, default_gates, parse_gates
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.models import champion, download
from airflow_mlops.registry.onnx_model import OnnxModel, Predictions
from airflow_mlops.specs.base import DatasetRef, ModelVersionRef
from airflow_mlops.specs.evaluate import EvaluateResult, EvaluateSpec
from airflow_mlops.specs.metrics import MAIN_METRIC, METRICS
from airflow_mlops.specs.model import ModelContract, Task
from airflow_mlops.specs.verdict import CandidateVerdict, GateResult, Verdict
from airflow_mlops.steps.context import StepContext

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from numpy.typing import NDArray

ARTIFACTS = "evaluation"
IMPORTANCE_ROWS, IMPORTANCE_SEED = 5_000, 0


@dataclass(frozen=True)
class HeldOut:
    """The data that all models are measured on."""

    dataset: Dataset
    part: str
    label: str
    task: Task
    truth: NDArray[Any]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return self.dataset.batches(self.part, columns)


@dataclass(frozen=True)
class Candidate:
    """A model version, loaded."""

    ref: ModelVersionRef
    model: OnnxModel

    @property
    def contract(self) -> ModelContract:
        return self.model.contract


def run(spec: EvaluateSpec, context: StepContext) -> EvaluateResult:
    """Measure, judge, and log what was found to each candidate's MLflow run.

    :raises EvaluationError: the held-out data is empty, holds one class only, or a model's predictions are no numbers
    :raises SchemaError: the held-out data lacks a feature of a candidate
    """
    # A gate that is wrong should not wait for a download.
    gates = parse_gates(spec.gates) if spec.gates is not None else None
    model = _one_model(spec)
    client = connect(spec.mlflow, context.connection)
    candidates = [Candidate(ref, OnnxModel.load(download(client, ref))) for ref in _distinct(spec.candidates)]
    data = _held_out(spec, candidates, context)
    metric = spec.metric or MAIN_METRIC[data.task]
    gates = gates or default_gates(data.task, metric)
    _check_metrics(gates, metric, data.task)
    for candidate in candidates:
        _check_contract(candidate, data)
        if candidate.contract.dataset_id != data.dataset.manifest.id:
            context.progress(
                f"{candidate.ref} was trained on dataset {candidate.contract.dataset_id[:12]}, not on this one: "
                "if it has seen rows of the held-out part, its numbers flatter it."
            )

    measured = []
    for candidate in candidates:
        measurement = _measure(candidate, data)
        measured.append(measurement)
        context.progress(f"{measurement.name}: {_numbers(measurement.metrics)}")
    first = candidates[0].contract
    dummy = Measurement("baseline", baseline(data.task, data.truth, first.classes, positive=first.positive))
    ref = champion(client, model)
    rival, problem = _measure_champion(client, ref, data) if ref is not None else (None, None)
    if rival is not None:
        context.progress(f"Champion {rival.name}: {_numbers(rival.metrics)}")
    elif problem is not None:
        context.progress(problem)

    found = [
        _judge(candidate.ref, gates, Evidence(data.task, data.truth, measurement, dummy, rival, problem))
        for candidate, measurement in zip(candidates, measured, strict=True)
    ]
    best = _best([item for item in found if item.passed] or found, metric)
    winner = best.candidate if best.passed else None
    verdict = Verdict(
        model=model,
        dataset_name=data.dataset.manifest.name,
        dataset_id=data.dataset.manifest.id,
        part=data.part,
        metric=metric,
        winner=winner,
        champion=ref,
        champion_metrics=dict(rival.metrics) if rival else {},
        baseline_metrics=dict(dummy.metrics),
        candidates=found,
        reason=_reason(found, best, metric, ref, rival),
    )
    for candidate, measurement in zip(candidates, measured, strict=True):
        _log(client, candidate, measurement, rival, verdict, data, metric)
    rows = f"{data.truth.size:,} held-out rows of {verdict.dataset_name}"
    models = f"{len(found)} candidate{'s' if len(found) > 1 else ''}"
    return EvaluateResult(
        verdict=verdict,
        run_id=best.candidate.run_id,
        reports=[f"runs:/{item.candidate.run_id}/{ARTIFACTS}" for item in found],
        summary=f"Measured {models} on {rows}: {verdict.reason}",
    )


def _one_model(spec: EvaluateSpec) -> str:
    names = {ref.model for ref in spec.candidates} | ({spec.model} if spec.model else set())
    if len(names) > 1:
        raise SpecError(f"All candidates must be versions of one registered model, not of {', '.join(sorted(names))}.")
    return names.pop()


def _distinct(refs: Sequence[ModelVersionRef]) -> list[ModelVersionRef]:
    return sorted({ref.version: ref for ref in refs}.values(), key=lambda ref: ref.version)


def _held_out(spec: EvaluateSpec, candidates: Sequence[Candidate], context: StepContext) -> HeldOut:
    ref = spec.dataset
    if ref is None:
        trained_on = {(item.contract.dataset_name, item.contract.dataset_id) for item in candidates}
        if len(trained_on) > 1:
            raise SpecError("The candidates were trained on different datasets: say with `dataset` which one to use.")
        name, dataset_id = trained_on.pop()
        ref = DatasetRef(name=name, id=dataset_id, rows=0)
    dataset = open_dataset(context.store, ref)
    details = dataset.manifest.details
    if not details.get("label"):
        raise SpecError(f"Dataset {ref.name} has no label, so nothing can be measured on it: build it with one.")
    label = str(details["label"])
    column = dataset.table(spec.part, [label]).column(label)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if len(column) == 0:
        raise EvaluationError(f"Part {spec.part!r} of dataset {ref.name} has no rows: there is nothing to measure on.")
    return HeldOut(dataset, spec.part, label, details["task"], column.to_numpy())


def _check_metrics(gates: Sequence[Gate], metric: str, task: Task) -> None:
    for name in [metric, *(getattr(gate, "metric", metric) for gate in gates)]:
        if name not in METRICS or task not in METRICS[name].tasks:
            known = ", ".join(key for key, value in METRICS.items() if task in value.tasks)
            raise SpecError(f"{name!r} is no metric for a {task} task: choose one of {known}.")


def _check_contract(candidate: Candidate, data: HeldOut) -> None:
    """:raises SchemaError: the data cannot be used to measure this model"""
    contract, name = candidate.contract, data.dataset.manifest.name
    if (contract.task, contract.label) != (data.task, data.label):
        raise SchemaError(
            f"{candidate.ref} predicts {contract.label!r} ({contract.task}), "
            f"dataset {name} has the label {data.label!r} ({data.task})."
        )
    present = {column.name for column in data.dataset.manifest.columns}
    if missing := [feature.name for feature in contract.features if feature.name not in present]:
        raise SchemaError(
            f"{candidate.ref} needs the feature {', '.join(map(repr, missing))}, which dataset {name} does not have."
        )


def _measure(candidate: Candidate, data: HeldOut) -> Measurement:
    contract = candidate.contract
    parts = [candidate.model.predict(batch) for batch in data.batches([item.name for item in contract.features])]
    predictions = Predictions(
        np.concatenate([part.prediction for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.probabilities for part in parts]) if parts[0].probabilities is not None else None,
    )
    try:
        return Measurement(str(candidate.ref), _metrics(data.truth, predictions, contract), predictions)
    except EvaluationError as error:
        raise EvaluationError(
            f"{candidate.ref} on part {data.part!r} of {data.dataset.manifest.name}: {error}"
        ) from None


def _metrics(truth: NDArray[Any], predictions: Predictions, contract: ModelContract) -> dict[str, float]:
    return compute(
        contract.task,
        truth,
        predictions.prediction,
        predictions.score,
        predictions.probabilities,
        contract.classes,
        positive=contract.positive,
    )


def _measure_champion(
    client: MlflowClient, ref: ModelVersionRef, data: HeldOut
) -> tuple[Measurement | None, str | None]:
    """The champion's measurement, or one sentence that says why there is none."""
    try:
        present = Candidate(ref, OnnxModel.load(download(client, ref)))
        _check_contract(present, data)
        return _measure(present, data), None
    except RegistryUnavailableError:
        raise
    except (EvaluationError, ModelFormatError, RegistryError, SchemaError) as error:
        problem = str(error).rstrip(".")
        return None, f"The champion {ref} could not be measured, so nothing can be compared with it ({problem})."


def _judge(ref: ModelVersionRef, gates: Sequence[Gate], evidence: Evidence) -> CandidateVerdict:
    results = [gate.check(evidence) for gate in gates]
    return CandidateVerdict(
        candidate=ref,
        metrics=dict(evidence.candidate.metrics),
        gates=results,
        passed=all(result.passed for result in results),
    )


def _best(found: Sequence[CandidateVerdict], metric: str) -> CandidateVerdict:
    """The best by ``metric``; of equals the oldest."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    return max(found, key=lambda item: (sign * item.metrics[metric], -item.candidate.version))


def _reason(
    found: Sequence[CandidateVerdict],
    best: CandidateVerdict,
    metric: str,
    ref: ModelVersionRef | None,
    rival: Measurement | None,
) -> str:
    if best.passed:
        against = "there was no champion" if ref is None else f"the champion v{ref.version} "
        if ref is not None:
            against += f"has {rival.metrics[metric]:.4g}" if rival else "could not be measured"
        return f"{best.candidate} passed every gate with {metric} {best.metrics[metric]:.4g} ({against})."
    refused = "; ".join(f"v{item.candidate.version}: {_failures(item.gates)}" for item in found)
    return f"No candidate passed every gate: {refused}."


def _failures(results: Sequence[GateResult]) -> str:
    return ", ".join(result.explanation.rstrip(".") for result in results if not result.passed)


def _numbers(metrics: Any) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _log(
    client: MlflowClient,
    candidate: Candidate,
    measurement: Measurement,
    rival: Measurement | None,
    verdict: Verdict,
    data: HeldOut,
    metric: str,
) -> None:
    """Verdict, plots and tags into the candidate's run."""
    from airflow_mlops.steps import plots

    passed = verdict.of(candidate.ref).passed
    won = candidate.ref == verdict.winner
    with (
        tempfile.TemporaryDirectory() as temporary,
        registry_errors(f"The evaluation of {candidate.ref} cannot be logged"),
    ):
        folder = Path(temporary)
        (folder / "verdict.json").write_text(verdict.model_dump_json(indent=1))
        plots.draw(
            folder, data.truth, candidate.contract, measurement, rival, _importance(candidate, data, metric), metric
        )
        client.log_artifacts(candidate.ref.run_id, temporary, ARTIFACTS)
        client.set_tag(candidate.ref.run_id, "mlops.evaluated_on", verdict.dataset_id)
        client.set_tag(candidate.ref.run_id, "mlops.verdict", "won" if won else "passed" if passed else "failed")


def _importance(candidate: Candidate, data: HeldOut, metric: str) -> dict[str, float]:
    """How much worse ``metric`` gets when one feature is shuffled, on a sample; empty where that cannot be measured."""
    contract = candidate.contract
    random = np.random.default_rng(IMPORTANCE_SEED)
    rows = np.sort(random.permutation(data.truth.size)[:IMPORTANCE_ROWS])
    truth, sample = data.truth[rows], _take(data.batches([item.name for item in contract.features]), rows)
    sign = 1 if METRICS[metric].higher_is_better else -1
    try:
        whole = _metrics(truth, candidate.model.predict(sample), contract)[metric]
        worse = {}
        for position, feature in enumerate(contract.features):
            shuffled = sample.column(position).take(pa.array(random.permutation(len(rows))))
            predictions = candidate.model.predict(sample.set_column(position, feature.name, shuffled))
            worse[feature.name] = sign * (whole - _metrics(truth, predictions, contract)[metric])
    except EvaluationError:
        # A small sample may hold one class only.
        return {}
    return worse


def _take(batches: Iterator[pa.RecordBatch], rows: NDArray[np.int64]) -> pa.Table:
    """The given rows, counted over all batches, in order."""
    taken, start = [], 0
    for batch in batches:
        inside = rows[(rows >= start) & (rows < start + batch.num_rows)] - start
        taken.append(batch.take(pa.array(inside)))
        start += batch.num_rows
    return pa.Table.from_batches(taken).combine_chunks()
