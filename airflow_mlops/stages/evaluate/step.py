"""Measures candidates and the present champion on the same held-out data, and judges them by gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.gates.base import Gate, choices
from airflow_mlops.gates.baseline import BeatsABaseline
from airflow_mlops.gates.evidence import Evidence
from airflow_mlops.gates.rules import default_gates, parse_gates
from airflow_mlops.metrics.catalog import MAIN_METRIC, METRICS
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.versions import download, version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import record as evaluate_record
from airflow_mlops.stages.evaluate.candidates import Candidate, check_contract, held_out, load
from airflow_mlops.stages.evaluate.measurement import Compared, Measured, compare, importance
from airflow_mlops.stages.evaluate.spec import EvaluateResult, EvaluateSpec
from airflow_mlops.stages.evaluate.verdict import best, decide, judge
from airflow_mlops.stages.reproduce.spec import ReproduceResult, ReproduceSpec


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
    data = held_out(spec, folders, context.store)
    candidates = [load(folder, ref, data, allow_pyfunc=spec.allow_pyfunc) for ref, folder in folders.items()]
    metric = spec.metric or MAIN_METRIC[data.task]
    gates = gates or default_gates(data.task, metric)
    _check_gates(gates, metric, data.task)
    for candidate in candidates:
        check_contract(candidate, data)
        _warn_of_seen_rows(candidate, data.dataset.manifest.id, context)

    compared = compare(client, model, candidates, data, context, allow_pyfunc=spec.allow_pyfunc)
    gates = [*gates, BeatsABaseline(metric=metric)]
    judged = [
        judge(item.candidate.ref, gates, _evidence(item, compared, spec, context)) for item in compared.candidates
    ]
    # Models from elsewhere may be slow: they are asked once.
    worse = {
        item.candidate.ref: importance(item.candidate, data, metric) if metric in item.measurement.metrics else {}
        for item in compared.candidates
    }
    contracts = {
        item.candidate.ref: evaluate_record.keep_contract(client, context.store, item, data, worse[item.candidate.ref])
        for item in compared.candidates
    }
    verdict = decide(model, compared, judged, contracts, metric)
    for item in compared.candidates:
        evaluate_record.log(client, context, item, compared, gates, verdict, spec.card, worse[item.candidate.ref])
    rows = f"{data.truth.size:,} held-out rows of {verdict.dataset_name}"
    models = f"{len(judged)} candidate{'s' if len(judged) > 1 else ''}"
    return EvaluateResult(
        verdict=verdict,
        run_id=best(judged, metric).candidate.run_id,
        reports=[f"runs:/{ref.run_id}/{evaluate_record.ARTIFACTS}" for ref in refs if ref.run_id],
        summary=f"Measured {models} on {rows}: {verdict.reason}",
    )


def _one_model(spec: EvaluateSpec) -> str:
    names = {ref.model for ref in spec.candidates} | ({spec.model} if spec.model else set())
    if len(names) > 1:
        raise SpecError(f"All candidates must be versions of one registered model, not of {', '.join(sorted(names))}.")
    return names.pop()


def _distinct(refs: Sequence[ModelVersionRef]) -> list[ModelVersionRef]:
    return sorted({ref.version: ref for ref in refs}.values(), key=lambda ref: ref.version)


def _check_gates(gates: Sequence[Gate], metric: str, task: Task) -> None:
    known = [name for name, item in METRICS.items() if task in item.tasks]
    if metric not in known:
        raise SpecError(f"{metric!r} is no metric for a {task} task: {choices(metric, known)}.")
    for gate in gates:
        gate.suits(task)


def _warn_of_seen_rows(candidate: Candidate, dataset_id: str, context: StepContext) -> None:
    trained_on = candidate.contract.dataset_id
    if trained_on != dataset_id:
        context.progress(
            f"{candidate.ref} "
            f"{f'was trained on dataset {trained_on[:12]}, not on this one' if trained_on else 'came from elsewhere'}: "
            "if it has seen rows of the held-out part, its numbers flatter it."
        )


def _evidence(item: Measured, compared: Compared, spec: EvaluateSpec, context: StepContext) -> Evidence:
    """What the gates may ask about one candidate."""
    return Evidence(
        task=compared.data.task,
        truth=compared.data.truth,
        candidate=item.measurement,
        baseline=compared.baseline,
        champion=compared.rival,
        champion_problem=compared.problem,
        tree=compared.tree,
        model=item.candidate.model,
        data=compared.data,
        candidates=len(compared.candidates),
        resampling=compared.resampling,
        store=context.store,
        reproduce=partial(_reproduce, item.candidate.ref, spec, context),
    )


def _reproduce(ref: ModelVersionRef, spec: EvaluateSpec, context: StepContext) -> ReproduceResult:
    from airflow_mlops.stages.reproduce import step as reproduce

    # Each has checkpoints of its own.
    own = replace(context, key=f"{context.key.removesuffix('.json')}-v{ref.version}.json")
    return reproduce.run(ReproduceSpec(model=ref.model, version=ref.version, mlflow=spec.mlflow), own)
