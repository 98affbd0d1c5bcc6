"""Fixed bounds on a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import FiniteFloat, model_validator

from airflow_mlops.gates.base import Confidence, MetricGate, percent
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Bound(MetricGate):
    """``{"metric": "roc_auc", "min": 0.6}``, ``{"metric": "ece", "max": 0.03, "confidence": 0.95}``.

    With a confidence the metric's bootstrap interval must keep the bound, and not the measured value alone: so a
    calibration error below ``max`` is no luck of few rows. The expected calibration error is never below 0, and on few
    rows above it even for a calibrated model, so a gate with a confidence errs on the side of refusing.
    """

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    confidence: Confidence | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Bound:
        if (self.min is None) == (self.max is None):
            raise ValueError("give min or max, one of the two")
        return self

    @property
    def name(self) -> str:
        return f"{self.metric} {self._asked}"

    @property
    def _asked(self) -> str:
        return f"at least {self.min:g}" if self.min is not None else f"at most {self.max:g}"

    def _check(self, evidence: Evidence) -> GateResult:
        measured = self._measured(evidence.candidate)
        if self.confidence is not None:
            return self._with_confidence(evidence, measured, self.confidence)
        passed = self._keeps(measured)
        verb = "is" if passed else "is not"
        return self._answer(measured, self._bound, passed, f"{self.metric} {measured:.4g} {verb} {self._asked}.")

    def _with_confidence(self, evidence: Evidence, measured: float, confidence: float) -> GateResult:
        from airflow_mlops.metrics.comparison import estimate

        rows, resampling = evidence.rows(evidence.candidate)
        found = estimate(self.metric, rows, resampling)
        low, high = found.lower(confidence), found.upper(confidence)
        worst = low if self.min is not None else high
        passed = self._keeps(worst)
        side = "above" if self.min is not None else "below"
        return self._answer(
            measured,
            self._bound,
            passed,
            f"{self.metric} {measured:.4g} (standard error {found.standard_error:.2g}) is {side} {worst:.4g} with "
            f"{percent(confidence)} confidence on {len(rows):,} rows, {'and' if passed else 'but'} {self._asked} was "
            "asked.",
            low=low,
            high=high,
            confidence=confidence,
            rows=len(rows),
        )

    @property
    def _bound(self) -> float:
        found = self.min if self.min is not None else self.max
        assert found is not None
        return found

    def _keeps(self, value: float) -> bool:
        return value >= self._bound if self.min is not None else value <= self._bound
