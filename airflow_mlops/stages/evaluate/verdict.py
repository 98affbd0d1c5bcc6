"""Decide which gates each candidate passes and which candidate wins, and explain the decision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airflow_mlops.core.numbers import rounded
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.gates.base import Gate
from airflow_mlops.gates.evidence import Evidence, Measurement
from airflow_mlops.metrics.catalog import Metric
from airflow_mlops.metrics.comparison import compare
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.registry.records.verdict import CandidateVerdict, GateResult, LiveRows, Verdict
from airflow_mlops.stages.evaluate.card import Intervals
from airflow_mlops.stages.evaluate.measurement import Compared
from airflow_mlops.stages.evaluate.windows import by_window


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


@dataclass(frozen=True)
class Choice:
    """The candidate that wins, or the best candidate if none passed every gate.

    :param best: the chosen candidate
    :param better: the candidate with the best value of the metric, if it is not the chosen candidate
    :param standard_error: standard error of the difference between ``better`` and ``best``; ``None`` if they are the
        same
    """

    best: CandidateVerdict
    better: CandidateVerdict | None = None
    standard_error: float | None = None


def choose(
    judged: Sequence[CandidateVerdict],
    metric: Metric,
    rows: Mapping[ModelVersionRef, Rows | None],
    resampling: Resampling,
) -> Choice:
    """Choose a candidate among the candidates that passed every gate, by the one-standard-error rule.

    Among the candidates that are at most one standard error worse than the best one, the first candidate is chosen. The
    standard error refers to the difference on the same rows. A smaller difference may be due to chance. The order in
    which the user lists the candidates then decides. The candidate with the best value is chosen if a standard error is
    unknown, and if no candidate passed. Candidates without the metric rank last.

    Source: L. Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3, in the paired form of T.
    Hastie, R. Tibshirani and J. Friedman, "The Elements of Statistical Learning", 2009, section 7.10.

    :param judged: the candidates in the order in which the user lists them
    :param metric: the metric that ranks the candidates
    :param rows: predictions and labels of each candidate; ``None`` if only the metrics are known
    :param resampling: bootstrap weights of the rows
    """
    name, sign = metric.name, metric.sign
    passed = [item for item in judged if item.passed]
    best = max(passed or judged, key=lambda item: (name in item.metrics, sign * item.metrics.get(name, 0)))
    if not passed or name not in best.metrics:
        return Choice(best)
    # The user prefers only the candidates that are listed before the best one.
    for item in passed[: passed.index(best)]:
        one, other = rows[best.candidate], rows[item.candidate]
        if name not in item.metrics or one is None or other is None:
            continue
        (found,) = compare(metric, one, other, resampling)
        error = found.improvement.standard_error
        if math.isfinite(error) and found.improvement.value <= error:
            return Choice(item, best, error)
    return Choice(best)


def decide(
    model: str,
    compared: Compared,
    judged: Sequence[CandidateVerdict],
    choice: Choice,
    contracts: Mapping[ModelVersionRef, str | None],
    files: Mapping[ModelVersionRef, dict[str, str]],
    intervals: Mapping[ModelVersionRef, Intervals],
    metric: Metric,
    metric_code: Mapping[str, str],
    *,
    ignored: bool = False,
    live: LiveRows | None = None,
) -> Verdict:
    """Return the verdict on all candidates.

    :param model: name of the registered model
    :param compared: metrics of the candidates, the baselines and the champion
    :param judged: metrics and gate results of each candidate
    :param choice: the chosen candidate
    :param contracts: SHA-256 of the model contract that the evaluation wrote for each candidate; ``None`` for a
        candidate that TrainOperator trained
    :param files: SHA-256 of each file of each candidate, by path
    :param intervals: 95% confidence interval of each metric of each candidate
    :param metric: the metric that ranks the candidates
    :param metric_code: SHA-256 of the source file of each custom metric, by import path
    :param ignored: whether the gates ignore the champion
    :param live: numbers of rows of live evidence; ``None`` for held-out rows
    """
    data, first = compared.data, choice.best
    candidates = [
        item.model_copy(
            update={
                "reason": _why(item, choice, metric.name),
                "contract_sha256": contracts[item.candidate],
                "files": files[item.candidate],
                "intervals": {name: found for name, found in intervals[item.candidate].items() if found is not None},
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
        statistical_metrics={each.name: dict(each.metrics) for each in compared.statistical},
        candidates=candidates,
        reason=_reason(candidates, choice, metric.name, compared.champion, compared.measured_champion),
        policy=" ".join(
            [
                _policy(compared.champion, compared.problem, ignored, compared.stand_in),
                *_weights(compared),
                *([f"The versions were compared by their predictions in production. {live.sentence}"] if live else []),
            ]
        ),
        metric_code=dict(metric_code),
        sample_weight=data.weight_column,
        live=live,
        windows=by_window(compared, metric.name),
    )


def _weights(compared: Compared) -> list[str]:
    """Return a list with a sentence about row weights; empty if no candidate was trained with row weights."""
    column = compared.data.weight_column
    if column is not None:
        return [f"All models were measured with the weights in column {column!r} of these rows."]
    columns = (item.candidate.contract.sample_weight for item in compared.candidates)
    if (column := next(filter(None, columns), None)) is None:
        return []
    return [
        f"Candidates were trained with the weights in column {column!r}. The rows lack this column, so each row counted once."
    ]


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
        f"{policy} The champion is a refit of v{stand_in.version} on all rows of the training set. These include held-out rows, "
        f"so v{stand_in.version} was measured instead."
    )


def _why(item: CandidateVerdict, choice: Choice, metric: str) -> str:
    if not item.passed:
        return f"Failed: {_failures(item.gates)}."
    best = choice.best
    value = f"{metric} {rounded(item.metrics[metric])}"
    if item.candidate == best.candidate:
        return f"Passed every gate with {value}. {_tie(choice, metric)}".rstrip()
    if choice.better is not None and item.candidate == choice.better.candidate:
        return (
            f"Passed every gate with {value}, but the difference from v{best.candidate.version} ({rounded(best.metrics[metric])}) "
            f"is at most {_one_error(choice)}"
        )
    equal = item.metrics[metric] == best.metrics[metric]
    other = "is equal and listed first" if equal else "is better"
    if choice.better is not None and item.metrics[metric] != best.metrics[metric]:
        other = "was chosen"
    return f"Passed every gate with {value}, but {best.candidate} {other} ({rounded(best.metrics[metric])})."


def _tie(choice: Choice, metric: str) -> str:
    """Return a sentence that explains why the candidate with the best value was not chosen; empty if it was chosen."""
    better = choice.better
    if better is None or choice.standard_error is None:
        return ""
    return f"The difference from v{better.candidate.version} ({rounded(better.metrics[metric])}) is at most {_one_error(choice)}"


def _one_error(choice: Choice) -> str:
    """Return the end of a sentence that explains the one-standard-error rule."""
    assert choice.better is not None
    assert choice.standard_error is not None
    chosen, better = choice.best.candidate.version, choice.better.candidate.version
    return f"one standard error ({rounded(choice.standard_error, 2)}), so v{chosen}, which is listed before v{better}, is chosen."


def _reason(
    judged: Sequence[CandidateVerdict],
    choice: Choice,
    metric: str,
    ref: ModelVersionRef | None,
    measured_champion: Measurement | None,
) -> str:
    best = choice.best
    if best.passed:
        if ref is None:
            champion = "no champion yet"
        elif measured_champion is None:
            champion = f"champion v{ref.version} could not be measured"
        else:
            metrics = measured_champion.metrics
            value = rounded(metrics[metric]) if metric in metrics else "unknown"
            champion = f"champion v{ref.version}: {value}"
        decided = f"{best.candidate} passed every gate with {metric} {rounded(best.metrics[metric])} ({champion})."
        return f"{decided} {_tie(choice, metric)}".rstrip()
    refused = "; ".join(f"v{item.candidate.version}: {_failures(item.gates)}" for item in judged)
    return f"No candidate passed every gate: {refused}."


def _failures(results: Sequence[GateResult]) -> str:
    return ", ".join(result.explanation.rstrip(".") for result in results if not result.passed)
