"""What an evaluation finds: for each gate what was measured, what was asked, and whether it was passed."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.references import ModelVersionRef


def _finite(value: Any) -> Any:
    # An interval without an end; JSON knows no infinity.
    return None if isinstance(value, float) and not math.isfinite(value) else value


FiniteOrNone = Annotated[float | None, BeforeValidator(_finite)]


class SliceResult(Model):
    """One part of the held-out rows, as a gate found it.

    :param name: which rows, such as ``carrier = UA``
    :param candidate: the candidate's metric on them; ``None``, as what follows, where too few rows or only one class
        are there
    :param improvement: by how much the candidate is better than the champion
    :param low: the improvement is above this, with the gate's confidence
    :param high: it is below this
    :param state: ``worse`` beyond the tolerance with confidence, ``fine`` with confidence, or neither
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
    """One gate's answer about one candidate. What follows ``explanation`` is there if the gate looks at it.

    :param gate: the gate in words, such as ``roc_auc at least 0.6``
    :param measured: the candidate's number
    :param asked: the number that had to be reached; ``None`` where there was nothing to compare with
    :param explanation: one sentence that says why the gate was passed or not
    :param improvement: by how much the candidate is better than the champion, whichever way the metric points
    :param low: the improvement (of a bound: the metric) is above this, with ``confidence``
    :param high: it is below this, with ``confidence``
    :param confidence: of each of the two bounds, corrected for several candidates or slices
    :param rows: the rows it was measured on
    :param detectable: the smallest true improvement that so many rows would let pass in 80% of cases
    :param slices: the parts of the rows that were looked at
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
    """What was found about one candidate.

    :param metrics: its metrics on the held-out data
    :param gates: every gate's answer
    :param passed: whether all of them were passed
    :param reason: why it won, or why it did not; one sentence
    :param contract_sha256: names what evaluation found out about a version from elsewhere, as that is kept for scoring
        and monitoring; ``None`` for one that TrainOperator made, which brings its contract
    """

    candidate: ModelVersionRef
    metrics: dict[str, float]
    gates: list[GateResult]
    passed: bool
    reason: str = ""
    contract_sha256: str | None = None


class Verdict(Model):
    """Which candidate should be champion, and why.

    :param dataset_id: the dataset all were measured on
    :param part: the part of it that was held out
    :param metric: the metric by which one of the passing candidates wins
    :param winner: the best candidate that passed every gate; ``None`` if none did
    :param champion: the champion that was compared with; ``None`` if there was none
    :param champion_metrics: the champion's metrics on the same data; empty if it could not be measured
    :param baseline_metrics: metrics of always predicting the mean or the labels' distribution
    :param tree_metrics: metrics of a decision tree of depth 3, fitted to the training set's part ``train``; empty if it
        has none
    :param reason: one sentence that says why
    :param policy: by which rules it was judged; one sentence
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

    def of(self, candidate: ModelVersionRef) -> CandidateVerdict:
        """What was found about ``candidate``, which is one of those evaluated."""
        return next(found for found in self.candidates if found.candidate == candidate)


def _as_verdict(value: Any) -> Any:
    # The result of an EvaluateOperator stands for the verdict in it.
    if isinstance(value, dict) and "verdict" in value:
        return value["verdict"]
    return value


VerdictInput = Annotated[Verdict, BeforeValidator(_as_verdict)]
