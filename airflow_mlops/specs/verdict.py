"""What an evaluation finds: for each gate what was measured, what was asked, and whether it was passed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from airflow_mlops.specs.base import Model, ModelVersionRef


class GateResult(Model):
    """One gate's answer about one candidate.

    :param gate: the gate in words, such as ``roc_auc at least 0.6``
    :param measured: the candidate's number
    :param asked: the number that had to be reached; ``None`` where there was nothing to compare with
    :param explanation: one sentence that says why the gate was passed or not
    """

    gate: str
    measured: float | None
    asked: float | None
    passed: bool
    explanation: str


class CandidateVerdict(Model):
    """What was found about one candidate.

    :param metrics: its metrics on the held-out data
    :param gates: every gate's answer
    :param passed: whether all of them were passed
    """

    candidate: ModelVersionRef
    metrics: dict[str, float]
    gates: list[GateResult]
    passed: bool


class Verdict(Model):
    """Which candidate should be champion, and why.

    :param dataset_id: the dataset all were measured on
    :param part: the part of it that was held out
    :param metric: the metric by which one of the passing candidates wins
    :param winner: the best candidate that passed every gate; ``None`` if none did
    :param champion: the champion that was compared with; ``None`` if there was none
    :param champion_metrics: the champion's metrics on the same data; empty if it could not be measured
    :param baseline_metrics: metrics of always predicting the mean or the labels' distribution
    :param reason: one sentence that says why
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
    candidates: list[CandidateVerdict]
    reason: str

    def of(self, candidate: ModelVersionRef) -> CandidateVerdict:
        """What was found about ``candidate``, which is one of those evaluated."""
        return next(found for found in self.candidates if found.candidate == candidate)


def _as_verdict(value: Any) -> Any:
    # The result of an EvaluateOperator stands for the verdict in it.
    if isinstance(value, dict) and "verdict" in value:
        return value["verdict"]
    return value


VerdictInput = Annotated[Verdict, BeforeValidator(_as_verdict)]
