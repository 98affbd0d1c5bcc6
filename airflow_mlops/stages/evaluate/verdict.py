"""Decide which gates each candidate passes and which candidate wins, and explain the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.gates.base import Gate
from airflow_mlops.gates.evidence import Evidence, Measurement
from airflow_mlops.metrics.catalog import Metric
from airflow_mlops.registry.verdict import CandidateVerdict, GateResult, Verdict
from airflow_mlops.stages.evaluate.measurement import Compared


def judge(ref: ModelVersionRef, gates: Sequence[Gate], evidence: Evidence) -> CandidateVerdict:
    """Check the gates for one candidate, and return the candidate's metrics and gate results.

    Costly gates are checked only if the candidate passes all other gates.
    """
    results = [None if gate.costly else gate.check(evidence) for gate in gates]
    if all(result is None or result.passed for result in results):
        results = [result or gate.check(evidence) for gate, result in zip(gates, results, strict=True)]
    checked = [result for result in results if result is not None]
    return CandidateVerdict(
        candidate=ref,
        metrics=dict(evidence.candidate.metrics),
        gates=checked,
        passed=all(result.passed for result in checked),
    )


def best(judged: Sequence[CandidateVerdict], metric: Metric) -> CandidateVerdict:
    """Return the best candidate by ``metric`` among the candidates that passed, or among all candidates if none passed.

    Candidates without the metric rank last. If several candidates have the best value, the oldest version is returned.
    """
    name, sign = metric.name, metric.sign
    return max(
        [item for item in judged if item.passed] or judged,
        key=lambda item: (name in item.metrics, sign * item.metrics.get(name, 0), -item.candidate.version),
    )


def decide(
    model: str,
    compared: Compared,
    judged: Sequence[CandidateVerdict],
    contracts: Mapping[ModelVersionRef, str | None],
    files: Mapping[ModelVersionRef, dict[str, str]],
    metric: Metric,
    metric_code: Mapping[str, str],
    *,
    ignored: bool = False,
) -> Verdict:
    """Choose the winner, and return the verdict on all candidates.

    :param model: name of the registered model
    :param judged: metrics and gate results of each candidate
    :param contracts: SHA-256 of the model contract that the evaluation wrote for each candidate; ``None`` for a
        candidate that TrainOperator trained
    :param files: SHA-256 of each file of each candidate, by path
    :param metric: the metric that ranks the candidates
    :param metric_code: SHA-256 of the source file of each custom metric, by import path
    :param ignored: whether the gates ignore the champion
    """
    data, first = compared.data, best(judged, metric)
    candidates = [
        item.model_copy(
            update={
                "reason": _why(item, first, metric.name),
                "contract_sha256": contracts[item.candidate],
                "files": files[item.candidate],
            },
        )
        for item in judged
    ]
    return Verdict(
        model=model,
        dataset_name=data.dataset.manifest.name,
        dataset_id=data.dataset.manifest.id,
        part=data.part,
        metric=metric.name,
        winner=first.candidate if first.passed else None,
        champion=compared.champion,
        champion_metrics=dict(compared.measured_champion.metrics) if compared.measured_champion else {},
        baseline_metrics=dict(compared.baseline.metrics),
        tree_metrics=dict(compared.tree.metrics) if compared.tree else {},
        candidates=candidates,
        reason=_reason(candidates, first, metric.name, compared.champion, compared.measured_champion),
        policy=_policy(compared.champion, compared.problem, ignored, compared.stand_in),
        metric_code=dict(metric_code),
    )


def _policy(ref: ModelVersionRef | None, problem: str | None, ignored: bool, stand_in: ModelVersionRef | None) -> str:
    if ref is None:
        return (
            "The model has no champion yet. Gates that compare with the champion are passed, and the other gates and the "
            "baselines decide."
        )
    if ignored:
        return (
            f"The gates ignore the champion v{ref.version}: a candidate that passes every gate replaces the champion, "
            "even if the candidate is worse."
        )
    if problem is not None:
        return "The champion could not be measured, so no candidate passes a gate that compares with the champion."
    policy = f"The champion v{ref.version} is replaced only by a candidate that passes every gate on the same rows."
    if stand_in is None:
        return policy
    return (
        f"{policy} The champion was fitted again on all rows of its training set, which contains held-out rows, so "
        f"v{stand_in.version}, from which it was fitted again, was measured in its place."
    )


def _why(item: CandidateVerdict, best: CandidateVerdict, metric: str) -> str:
    if not item.passed:
        return f"Failed: {_failures(item.gates)}."
    value = f"{metric} {item.metrics[metric]:.4g}"
    if item.candidate == best.candidate:
        return f"Passed every gate with {value}."
    equal = item.metrics[metric] == best.metrics[metric]
    other = f"is equal and older ({best.metrics[metric]:.4g})" if equal else f"is better ({best.metrics[metric]:.4g})"
    return f"Passed every gate with {value}, but {best.candidate} {other}."


def _reason(
    judged: Sequence[CandidateVerdict],
    best: CandidateVerdict,
    metric: str,
    ref: ModelVersionRef | None,
    measured_champion: Measurement | None,
) -> str:
    if best.passed:
        if ref is None:
            champion = "no champion yet"
        elif measured_champion is None:
            champion = f"champion v{ref.version} could not be measured"
        else:
            metrics = measured_champion.metrics
            value = f"{metrics[metric]:.4g}" if metric in metrics else "unknown"
            champion = f"champion v{ref.version}: {value}"
        return f"{best.candidate} passed every gate with {metric} {best.metrics[metric]:.4g} ({champion})."
    refused = "; ".join(f"v{item.candidate.version}: {_failures(item.gates)}" for item in judged)
    return f"No candidate passed every gate: {refused}."


def _failures(results: Sequence[GateResult]) -> str:
    return ", ".join(result.explanation.rstrip(".") for result in results if not result.passed)
