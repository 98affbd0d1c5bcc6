"""A gate that requires a minimum or maximum value of a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import FiniteFloat, model_validator

from airflow_mlops.core.numbers import rounded
from airflow_mlops.gates.base import Confidence, MetricGate, percent
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Bound(MetricGate):
    """A gate that requires a metric to be at least ``min`` or at most ``max``.

    Examples: ``{"metric": "roc_auc", "min": 0.6}``, ``{"metric": "ece", "max": 0.03, "confidence": 0.95}``.

    On few rows, the expected calibration error is above 0 even for a perfectly calibrated model. A gate on ``ece`` with
    ``confidence`` therefore tends to fail on few rows.

    :param min: the smallest allowed value
    :param max: the largest allowed value
    :param confidence: confidence of a one-sided bootstrap bound of the metric. If set, this bound must meet the
        requirement, so a good value on few rows rarely passes by chance
    """

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    confidence: Confidence | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Bound:
        if self.min is None and self.max is None:
            raise ValueError("neither `min` nor `max` is set; set one of them")
        if self.min is not None and self.max is not None:
            raise ValueError("`min` and `max` are both set; write a separate gate for each of them")
        return self

    @property
    def name(self) -> str:
        return f"{self.metric} {self._requirement}"

    @property
    def _requirement(self) -> str:
        return f"at {'least' if self.min is not None else 'most'} {rounded(self._bound, 6)}"

    def _check(self, evidence: Evidence) -> GateResult:
        measured = self._measured(evidence.candidate)
        if self.confidence is not None:
            return self._with_confidence(evidence, measured, self.confidence)
        passed = self._meets(measured)
        verb = "is" if passed else "is not"
        return self._result(
            measured, self._bound, passed, f"{self.metric} {rounded(measured)} {verb} {self._requirement}."
        )

    def _with_confidence(self, evidence: Evidence, measured: float, confidence: float) -> GateResult:
        from airflow_mlops.metrics.comparison import estimate

        rows, resampling = evidence.rows(evidence.candidate)
        interval = estimate(self.metric, rows, resampling)
        low, high = interval.lower(confidence), interval.upper(confidence)
        worst = low if self.min is not None else high
        passed = self._meets(worst)
        side = "above" if self.min is not None else "below"
        return self._result(
            measured,
            self._bound,
            passed,
            f"{self.metric} {rounded(measured)} (standard error {rounded(interval.standard_error, 2)}) is {side} {rounded(worst)} with "
            f"{percent(confidence)} confidence on {len(rows):,} rows (required: {self._requirement}).",
            low=low,
            high=high,
            confidence=confidence,
            rows=len(rows),
        )

    @property
    def _bound(self) -> float:
        bound = self.min if self.min is not None else self.max
        assert bound is not None
        return bound

    def _meets(self, value: float) -> bool:
        return value >= self._bound if self.min is not None else value <= self._bound
