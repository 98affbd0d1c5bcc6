"""The verdict of an evaluation: the metrics and gate results of each candidate, and the winner."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.references import ModelVersionRef


def _finite(value: Any) -> Any:
    # An unbounded end of an interval: JSON has no infinity.
    return None if isinstance(value, float) and not math.isfinite(value) else value


FiniteOrNone = Annotated[float | None, BeforeValidator(_finite)]


class SliceResult(Model):
    """A gate's result on one slice of the held-out rows.

    :param name: the slice, such as ``carrier = UA``
    :param rows: the number of its rows
    :param candidate: the candidate's metric on the slice; ``None``, as the following fields, if the slice has too few
        rows or one class only
    :param improvement: how much better the candidate is than the champion; negative if it is worse
    :param low: the lower confidence bound of the improvement
    :param high: the upper confidence bound of the improvement
    :param state: ``worse``: significantly worse than the tolerance allows; ``fine``: significantly within the tolerance;
        ``uncertain``: neither
    """

    name: str
    rows: int
    candidate: float | None = None
    champion: float | None = None
    improvement: float | None = None
    low: float | None = None
    high: float | None = None
    state: Literal["fine", "worse", "uncertain"]


class GateResult(Model):
    """The result of one gate for one candidate. The fields after ``explanation`` are set by some gates only.

    :param gate: the requirement, such as ``roc_auc at least 0.6``
    :param measured: the candidate's value
    :param asked: the required value; ``None`` if there was nothing to compare with
    :param explanation: one sentence that says why the gate was passed or failed
    :param improvement: how much better the candidate is than the champion, whatever the metric's direction
    :param low: the lower confidence bound of the improvement (of the metric, for a gate with ``min`` or ``max``)
    :param high: the upper confidence bound of the same
    :param confidence: the confidence of each bound, corrected for several candidates or slices
    :param rows: the number of rows that were used
    :param detectable: the smallest true improvement that passes with a probability of 80% on so many rows
    :param slices: the result on each slice
    """

    gate: str
    measured: float | None
    asked: float | None
    passed: bool
    explanation: str
    improvement: float | None = None
    low: FiniteOrNone = None
    high: FiniteOrNone = None
    confidence: float | None = None
    rows: int | None = None
    detectable: FiniteOrNone = None
    slices: list[SliceResult] = Field(default_factory=list)


class CandidateVerdict(Model):
    """The verdict on one candidate.

    :param metrics: its metrics on the held-out data
    :param gates: the result of each gate
    :param passed: whether every gate was passed
    :param reason: one sentence that says why the candidate won or did not
    :param contract_sha256: names the contract that evaluation wrote for a version that was not made by TrainOperator;
        ``None`` for one that was, as it has its own contract
    """

    candidate: ModelVersionRef
    metrics: dict[str, float]
    gates: list[GateResult]
    passed: bool
    reason: str = ""
    contract_sha256: str | None = None


class Verdict(Model):
    """The verdict on all candidates, with the winner.

    :param dataset_id: the dataset that all models were measured on
    :param part: the held-out part of it
    :param metric: the metric that ranks the candidates that pass
    :param winner: the best candidate that passed every gate; ``None`` if none did
    :param champion: the champion at the time; ``None`` if there was none
    :param champion_metrics: the champion's metrics on the same rows; empty if it could not be measured
    :param baseline_metrics: the metrics of a model that always predicts the mean or the class frequencies
    :param tree_metrics: the metrics of a decision tree of depth 3, fitted to the part ``train``; empty if there is none
    :param reason: one sentence that says why the winner won, or why there is none
    :param policy: one sentence on how the champion was taken into account
    :param metric_code: the SHA-256 of the source file of each of the user's own metrics, by import path
    """

    model: str
    dataset_name: str
    dataset_id: str
    part: str
    metric: str
    winner: ModelVersionRef | None
    champion: ModelVersionRef | None
    champion_metrics: dict[str, float] = Field(default_factory=dict)
    baseline_metrics: dict[str, float] = Field(default_factory=dict)
    tree_metrics: dict[str, float] = Field(default_factory=dict)
    candidates: list[CandidateVerdict]
    reason: str
    policy: str = ""
    metric_code: dict[str, str] = Field(default_factory=dict)

    def for_candidate(self, candidate: ModelVersionRef) -> CandidateVerdict:
        """The verdict on ``candidate``, which must be one of those evaluated."""
        return next(item for item in self.candidates if item.candidate == candidate)


def _as_verdict(value: Any) -> Any:
    # The result of an EvaluateOperator contains the verdict.
    if isinstance(value, dict) and "verdict" in value:
        return value["verdict"]
    return value


VerdictInput = Annotated[Verdict, BeforeValidator(_as_verdict)]
