"""Measures candidates and the present champion on the same held-out data, and judges them by gates."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from airflow_mlops.artifacts.datasets import Manifest, open_dataset
from airflow_mlops.exceptions import (
    DatasetNotFoundError,
    EvaluationError,
    ModelFormatError,
    RegistryError,
    RegistryUnavailableError,
    SchemaError,
    SpecError,
)
from airflow_mlops.gates.base import Gate, choices
from airflow_mlops.gates.baseline import BeatsABaseline
from airflow_mlops.gates.evidence import Evidence, HeldOut, Measurement
from airflow_mlops.gates.metrics import baseline, measure
from airflow_mlops.gates.resampling import Resampling
from airflow_mlops.gates.rows import Rows, prepare
from airflow_mlops.gates.rules import default_gates, parse_gates
from airflow_mlops.gates.statistics import statistic
from airflow_mlops.monitoring.reference import model_profile
from airflow_mlops.registry import contracts, pyfunc_model
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.models import champion, download, version
from airflow_mlops.registry.onnx_model import OnnxModel, has_contract, read_contract
from airflow_mlops.registry.scorer import Predictions, Scorer
from airflow_mlops.specs.base import DatasetRef, ModelVersionRef
from airflow_mlops.specs.evaluate import EvaluateResult, EvaluateSpec
from airflow_mlops.specs.explanation import FILE, FOLDER, Explanation
from airflow_mlops.specs.metrics import MAIN_METRIC, METRICS
from airflow_mlops.specs.model import ModelContract, Task
from airflow_mlops.specs.reproduce import ReproduceResult, ReproduceSpec
from airflow_mlops.specs.verdict import CandidateVerdict, GateResult, Verdict
from airflow_mlops.steps import model_card
from airflow_mlops.steps.baselines import small_tree
from airflow_mlops.steps.context import StepContext
from airflow_mlops.steps.train import TRAINING_FILE
from airflow_mlops.steps.training import TRAIN

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from numpy.typing import NDArray

ARTIFACTS = "evaluation"
IMPORTANCE_ROWS, IMPORTANCE_SEED = 5_000, 0
# What MLflow keeps of a version's description.
_DESCRIPTION = 5_000


@dataclass(frozen=True)
class Candidate:
    """A model version, loaded."""

    ref: ModelVersionRef
    model: Scorer

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
    refs = [ref if ref.run_id else version(client, model, ref.version) for ref in _distinct(spec.candidates)]
    folders = {ref: download(client, ref) for ref in refs}
    data = _held_out(spec, folders, context)
    candidates = [Candidate(ref, _load(folder, ref, data, spec.allow_pyfunc)) for ref, folder in folders.items()]
    metric = spec.metric or MAIN_METRIC[data.task]
    gates = gates or default_gates(data.task, metric)
    _check_gates(gates, metric, data.task)
    for candidate in candidates:
        _check_contract(candidate, data)
        if candidate.contract.dataset_id != data.dataset.manifest.id:
            trained_on = candidate.contract.dataset_id[:12]
            context.progress(
                f"{candidate.ref} "
                f"{f'was trained on dataset {trained_on}, not on this one' if trained_on else 'came from elsewhere'}: "
                "if it has seen rows of the held-out part, its numbers flatter it."
            )

    measured = []
    for candidate in candidates:
        measurement = _measure(candidate, data)
        measured.append(measurement)
        context.progress(f"{measurement.name}: {_numbers(measurement.metrics)}")
    first = candidates[0].contract
    dummy = Measurement("baseline", baseline(data.task, data.truth, first.classes, positive=first.positive))
    tree = _measure_tree(data, first)
    context.progress(
        f"{tree.name.capitalize()}: {_numbers(tree.metrics)}"
        if tree is not None
        else f"Dataset {data.dataset.manifest.name} has no other rows to fit a simple model to."
    )
    ref = champion(client, model)
    rival, problem = _measure_champion(client, ref, data, first, spec.allow_pyfunc) if ref else (None, None)
    if rival is not None:
        context.progress(f"Champion {rival.name}: {_numbers(rival.metrics)}")
    elif problem is not None:
        context.progress(problem)

    resampling = Resampling(len(data.truth))
    gates = [*gates, BeatsABaseline(metric=metric)]
    found = [
        _judge(
            candidate.ref,
            gates,
            Evidence(
                task=data.task,
                truth=data.truth,
                candidate=measurement,
                baseline=dummy,
                champion=rival,
                champion_problem=problem,
                tree=tree,
                model=candidate.model,
                data=data,
                candidates=len(candidates),
                resampling=resampling,
                store=context.store,
                reproduce=partial(_reproduce, candidate.ref, spec, context),
            ),
        )
        for candidate, measurement in zip(candidates, measured, strict=True)
    ]
    best = _best([item for item in found if item.passed] or found, metric)
    winner = best.candidate if best.passed else None
    kept = {
        candidate.ref: _keep_contract(client, context, candidate, measurement, data)
        for candidate, measurement in zip(candidates, measured, strict=True)
    }
    found = [
        item.model_copy(update={"reason": _why(item, best, metric), "contract_sha256": kept[item.candidate]})
        for item in found
    ]
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
        tree_metrics=dict(tree.metrics) if tree else {},
        candidates=found,
        reason=_reason(found, best, metric, ref, rival),
        policy=_policy(ref, problem),
    )
    for candidate, measurement in zip(candidates, measured, strict=True):
        if not candidate.ref.run_id:
            context.progress(f"{candidate.ref} has no MLflow run, so the verdict and the plots are not logged to one.")
            continue
        facts = _facts(client, context, spec, candidate, measurement, resampling, verdict, gates, data)
        _log(client, candidate, measurement, rival, verdict, data, facts)
    rows = f"{data.truth.size:,} held-out rows of {verdict.dataset_name}"
    models = f"{len(found)} candidate{'s' if len(found) > 1 else ''}"
    return EvaluateResult(
        verdict=verdict,
        run_id=best.candidate.run_id,
        reports=[f"runs:/{item.candidate.run_id}/{ARTIFACTS}" for item in found if item.candidate.run_id],
        summary=f"Measured {models} on {rows}: {verdict.reason}",
    )


def _one_model(spec: EvaluateSpec) -> str:
    names = {ref.model for ref in spec.candidates} | ({spec.model} if spec.model else set())
    if len(names) > 1:
        raise SpecError(f"All candidates must be versions of one registered model, not of {', '.join(sorted(names))}.")
    return names.pop()


def _distinct(refs: Sequence[ModelVersionRef]) -> list[ModelVersionRef]:
    return sorted({ref.version: ref for ref in refs}.values(), key=lambda ref: ref.version)


def _held_out(spec: EvaluateSpec, folders: Mapping[ModelVersionRef, Path], context: StepContext) -> HeldOut:
    ref = spec.dataset
    if ref is None:
        if foreign := [str(item) for item, folder in folders.items() if not has_contract(folder)]:
            raise SpecError(
                f"{foreign[0]} was not made by TrainOperator and does not say what it was trained on: name the training "
                "set to measure it on by `dataset`."
            )
        contracts = [read_contract(folder) for folder in folders.values()]
        trained_on = {(item.dataset_name, item.dataset_id) for item in contracts}
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


def _load(folder: Path, ref: ModelVersionRef, data: HeldOut, allow_pyfunc: bool) -> Scorer:
    """:raises ModelFormatError: it cannot be loaded, or would run code that nobody allowed"""
    if has_contract(folder):
        return OnnxModel.load(folder)
    target = pyfunc_model.Target(
        dataset=data.dataset.manifest.name,
        schema=data.dataset.schema,
        label=data.label,
        task=data.task,
        classes=[] if data.task == "regression" else data.classes(),
    )
    return pyfunc_model.load(folder, str(ref), target, allow_pyfunc=allow_pyfunc)


def _check_gates(gates: Sequence[Gate], metric: str, task: Task) -> None:
    known = [name for name, item in METRICS.items() if task in item.tasks]
    if metric not in known:
        raise SpecError(f"{metric!r} is no metric for a {task} task: {choices(metric, known)}.")
    for gate in gates:
        gate.suits(task)


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
        rows = _rows(data.truth, predictions, contract)
        return Measurement(str(candidate.ref), measure(rows), predictions, rows)
    except EvaluationError as error:
        raise EvaluationError(
            f"{candidate.ref} on part {data.part!r} of {data.dataset.manifest.name}: {error}"
        ) from None


def _keep_contract(
    client: MlflowClient, context: StepContext, candidate: Candidate, measurement: Measurement, data: HeldOut
) -> str | None:
    """Keep what is known now of a version that does not say it itself, for scoring and monitoring.

    :return: the SHA-256 that names it; ``None`` for a version that TrainOperator made
    """
    if not isinstance(candidate.model, pyfunc_model.PyfuncModel):
        return None
    dataset = data.dataset
    contract = candidate.contract.model_copy(
        update={
            "metrics": dict(measurement.metrics),
            "dataset_name": dataset.manifest.name,
            "dataset_id": dataset.manifest.id,
            "timestamp": dataset.manifest.details.get("timestamp"),
        }
    )
    assert measurement.predictions is not None
    names = [feature.name for feature in contract.features]
    part = TRAIN if TRAIN in dataset.ref.parts else data.part
    held_out = None if part == data.part else lambda: dataset.batches(data.part, names)
    profile = model_profile(
        lambda: dataset.batches(part, names), held_out, contract, data.truth, measurement.predictions
    )
    return contracts.keep(client, context.store, candidate.ref, contract, profile.model_dump(mode="json"))


def _measure_tree(data: HeldOut, contract: ModelContract) -> Measurement | None:
    predictions = small_tree(data, contract)
    if predictions is None:
        return None
    rows = _rows(data.truth, predictions, contract)
    return Measurement("a decision tree of depth 3", measure(rows), predictions, rows)


def _rows(truth: NDArray[Any], predictions: Predictions, contract: ModelContract) -> Rows:
    labels_alone = contract.task != "regression" and predictions.probabilities is None
    return prepare(
        contract.task,
        truth,
        predictions.prediction,
        None if labels_alone else predictions.score,
        predictions.probabilities,
        contract.classes,
        positive=contract.positive,
    )


def _measure_champion(
    client: MlflowClient, ref: ModelVersionRef, data: HeldOut, contract: ModelContract, allow_pyfunc: bool
) -> tuple[Measurement | None, str | None]:
    """The champion's measurement, or one sentence that says why there is none."""
    try:
        present = Candidate(ref, _load(download(client, ref), ref, data, allow_pyfunc))
        _check_contract(present, data)
        if present.contract.positive != contract.positive:
            raise SchemaError(
                f"its positive class is {present.contract.positive!r}, that of the candidates {contract.positive!r}"
            )
        return _measure(present, data), None
    except RegistryUnavailableError:
        raise
    except (EvaluationError, ModelFormatError, RegistryError, SchemaError) as error:
        problem = str(error).rstrip(".")
        return None, f"The champion {ref} could not be measured, so nothing can be compared with it ({problem})."


def _judge(ref: ModelVersionRef, gates: Sequence[Gate], evidence: Evidence) -> CandidateVerdict:
    results = [None if gate.costly else gate.check(evidence) for gate in gates]
    if all(result is None or result.passed for result in results):
        results = [result or gate.check(evidence) for gate, result in zip(gates, results, strict=True)]
    answered = [result for result in results if result is not None]
    return CandidateVerdict(
        candidate=ref,
        metrics=dict(evidence.candidate.metrics),
        gates=answered,
        passed=all(result.passed for result in answered),
    )


def _reproduce(ref: ModelVersionRef, spec: EvaluateSpec, context: StepContext) -> ReproduceResult:
    from airflow_mlops.steps import reproduce

    # Each has checkpoints of its own.
    own = replace(context, key=f"{context.key.removesuffix('.json')}-v{ref.version}.json")
    return reproduce.run(ReproduceSpec(model=ref.model, version=ref.version, mlflow=spec.mlflow), own)


def _policy(ref: ModelVersionRef | None, problem: str | None) -> str:
    if ref is None:
        return (
            "There is no champion yet, so the first model is judged by absolute gates and by the baselines alone: "
            "gates that compare with a champion let it pass."
        )
    if problem is not None:
        return "The champion could not be measured, so no candidate passes a gate that compares with it."
    return f"The champion v{ref.version} stays unless a candidate passes every gate on the same rows."


def _why(found: CandidateVerdict, best: CandidateVerdict, metric: str) -> str:
    if not found.passed:
        return f"It failed: {_failures(found.gates)}."
    value = f"{metric} {found.metrics[metric]:.4g}"
    if found.candidate == best.candidate:
        return f"It passed every gate, with {value}."
    return (
        f"It passed every gate with {value}, but {best.candidate} is "
        f"{'no worse and older' if found.metrics[metric] == best.metrics[metric] else 'better'} "
        f"({best.metrics[metric]:.4g})."
    )


def _best(found: Sequence[CandidateVerdict], metric: str) -> CandidateVerdict:
    """The best by ``metric``, and those without it last; of equals the oldest."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    return max(
        found, key=lambda item: (metric in item.metrics, sign * item.metrics.get(metric, 0), -item.candidate.version)
    )


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
            known = f"{rival.metrics[metric]:.4g}" if rival and metric in rival.metrics else f"no {metric}"
            against += f"has {known}" if rival else "could not be measured"
        return f"{best.candidate} passed every gate with {metric} {best.metrics[metric]:.4g} ({against})."
    refused = "; ".join(f"v{item.candidate.version}: {_failures(item.gates)}" for item in found)
    return f"No candidate passed every gate: {refused}."


def _failures(results: Sequence[GateResult]) -> str:
    return ", ".join(result.explanation.rstrip(".") for result in results if not result.passed)


def _numbers(metrics: Any) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _facts(
    client: MlflowClient,
    context: StepContext,
    spec: EvaluateSpec,
    candidate: Candidate,
    measurement: Measurement,
    resampling: Resampling,
    verdict: Verdict,
    gates: Sequence[Gate],
    data: HeldOut,
) -> model_card.Facts:
    """What the candidate's card says."""
    ref = candidate.ref
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        run = client.get_run(ref.run_id).data
        files = {item.path for item in client.list_artifacts(ref.run_id)}
    return model_card.Facts(
        ref=ref,
        said=spec.card,
        contract=candidate.contract,
        verdict=verdict,
        gates=gates,
        rows=data.truth.size,
        intervals=model_card.intervals(measurement, resampling),
        importance=_importance(candidate, data, verdict.metric) if verdict.metric in measurement.metrics else {},
        importance_rows=min(data.truth.size, IMPORTANCE_ROWS),
        measured_on=data.dataset.manifest,
        trained_on=_trained_on(candidate.contract, data, context),
        tags=run.tags,
        params=run.params,
        reproducible=TRAINING_FILE in files,
        explanation=_explanation(client, context, ref) if {TRAINING_FILE, FOLDER} <= files else None,
    )


def _explanation(client: MlflowClient, context: StepContext, ref: ModelVersionRef) -> Explanation | None:
    with registry_errors(f"The MLflow run of {ref} cannot be read"), tempfile.TemporaryDirectory() as folder:
        content = Path(client.download_artifacts(ref.run_id, f"{FOLDER}/{FILE}", folder)).read_bytes()
    try:
        return Explanation.model_validate_json(content)
    except ValidationError:
        context.progress(f"What {ref} says of itself was written by another version of airflow-mlops: it is left out.")
        return None


def _trained_on(contract: ModelContract, data: HeldOut, context: StepContext) -> Manifest | None:
    if contract.dataset_id == data.dataset.manifest.id:
        return data.dataset.manifest
    if not contract.dataset_id:
        return None
    try:
        ref = DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0)
        return open_dataset(context.store, ref).manifest
    except DatasetNotFoundError:
        return None


def _log(
    client: MlflowClient,
    candidate: Candidate,
    measurement: Measurement,
    rival: Measurement | None,
    verdict: Verdict,
    data: HeldOut,
    facts: model_card.Facts,
) -> None:
    """Verdict, plots, model card and tags into the candidate's run, and a description into the registry."""
    from airflow_mlops.steps import explanation, plots

    ref = candidate.ref
    with tempfile.TemporaryDirectory() as temporary, registry_errors(f"The evaluation of {ref} cannot be logged"):
        folder = Path(temporary)
        (folder / "verdict.json").write_text(verdict.model_dump_json(indent=1))
        drawn = plots.draw(folder, data.truth, candidate.contract, measurement, rival, facts.importance, verdict.metric)
        explained = explanation.draw(folder, facts.explanation) if facts.explanation else []
        about = model_card.write(folder, facts, drawn, explained)
        client.log_artifacts(ref.run_id, temporary, ARTIFACTS)
        client.set_tag(ref.run_id, "mlops.evaluated_on", verdict.dataset_id)
        client.set_tag(ref.run_id, "mlops.verdict", facts.outcome)
        # A person's words stay.
        if not client.get_model_version(ref.model, str(ref.version)).description:
            description = textwrap.shorten(about, _DESCRIPTION, placeholder=" …")
            client.update_model_version(ref.model, str(ref.version), description)


def _importance(candidate: Candidate, data: HeldOut, metric: str) -> dict[str, float]:
    """How much worse ``metric`` gets when one feature is shuffled, on a sample; empty where that cannot be measured."""
    contract = candidate.contract
    random = np.random.default_rng(IMPORTANCE_SEED)
    rows = np.sort(random.permutation(data.truth.size)[:IMPORTANCE_ROWS])
    truth, sample = data.truth[rows], data.take([item.name for item in contract.features], rows)
    sign = 1 if METRICS[metric].higher_is_better else -1
    try:
        whole = statistic(metric, known := _rows(truth, candidate.model.predict(sample), contract)).of(known)
        worse = {}
        for position, feature in enumerate(contract.features):
            shuffled = sample.column(position).take(pa.array(random.permutation(len(rows))))
            predictions = candidate.model.predict(sample.set_column(position, feature.name, shuffled))
            known = _rows(truth, predictions, contract)
            worse[feature.name] = sign * (whole - statistic(metric, known).of(known))
    except EvaluationError:
        # A small sample may hold one class only.
        return {}
    return worse
