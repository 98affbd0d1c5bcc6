"""Judges what was measured: which gates each candidate passes, which one wins, and why, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.gates.base import Gate
from airflow_mlops.gates.evidence import Evidence, Measurement
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.registry.verdict import CandidateVerdict, GateResult, Verdict
from airflow_mlops.stages.evaluate.measurement import Compared


def judge(ref: ModelVersionRef, gates: Sequence[Gate], evidence: Evidence) -> CandidateVerdict:
    """What the gates say of one candidate; those that are costly are asked only if it passes all others."""
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


def best(judged: Sequence[CandidateVerdict], metric: str) -> CandidateVerdict:
    """The best by ``metric`` of those that passed, or of all if none did.

    Those without the metric come last; of equals it is the oldest.
    """
    sign = 1 if METRICS[metric].higher_is_better else -1
    return max(
        [item for item in judged if item.passed] or judged,
        key=lambda item: (metric in item.metrics, sign * item.metrics.get(metric, 0), -item.candidate.version),
    )


def decide(
    model: str,
    compared: Compared,
    judged: Sequence[CandidateVerdict],
    contracts: Mapping[ModelVersionRef, str | None],
    metric: str,
) -> Verdict:
    """The verdict on all candidates.

    :param contracts: the SHA-256 of the contract that is kept for a candidate, where it does not bring its own
    """
    data, first = compared.data, best(judged, metric)
    candidates = [
        item.model_copy(
            update={"reason": _why(item, first, metric), "contract_sha256": contracts[item.candidate]},
        )
        for item in judged
    ]
    return Verdict(
        model=model,
        dataset_name=data.dataset.manifest.name,
        dataset_id=data.dataset.manifest.id,
        part=data.part,
        metric=metric,
        winner=first.candidate if first.passed else None,
        champion=compared.champion,
        champion_metrics=dict(compared.rival.metrics) if compared.rival else {},
        baseline_metrics=dict(compared.baseline.metrics),
        tree_metrics=dict(compared.tree.metrics) if compared.tree else {},
        candidates=candidates,
        reason=_reason(candidates, first, metric, compared.champion, compared.rival),
        policy=_policy(compared.champion, compared.problem),
    )


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
