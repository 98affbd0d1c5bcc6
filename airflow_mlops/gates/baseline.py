"""Gates that require a candidate to be better than simple models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import model_validator

from airflow_mlops.core.base import choices
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.numbers import rounded
from airflow_mlops.gates.base import Confidence, MarginInput, MetricGate
from airflow_mlops.metrics.catalog import is_coverage_gap, is_quantile
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence, Measurement


class BetterThanBaseline(MetricGate):
    """A gate that requires a candidate to be better than the baseline, which predicts without features, or than a
    statistical model of forecast rows.

    Examples: ``{"metric": "roc_auc", "better_than_baseline_by": 0.02}``,
    ``{"metric": "rmse", "better_than_baseline_by": 0, "confidence": 0.95}``,
    ``{"metric": "mase", "better_than_baseline_by": "5%", "baseline": "AutoETS"}``.

    :param better_than_baseline_by: the required improvement: a difference of the metric, or a percentage of the
        baseline's value (``"2%"``)
    :param confidence: confidence of the one-sided lower bound of the improvement, as in
        :class:`airflow_mlops.gates.champion.BetterThanChampion`. If set, this bound must exceed the required
        improvement, so a model without skill rarely passes by chance
    :param baseline: column with the forecasts of a statistical model (``models`` of BuildForecastRowsOperator); by default
        the baseline without features, which for forecast rows is the seasonal-naive forecast
    """

    better_than_baseline_by: MarginInput
    baseline: str | None = None
    confidence: Confidence | None = None

    @model_validator(mode="after")
    def _informative_baseline(self) -> BetterThanBaseline:
        if self.baseline is not None and (is_quantile(self.metric) or is_coverage_gap(self.metric)):
            raise ValueError(
                f"statistical models forecast the mean, so {self.metric!r} cannot be compared; remove `baseline`"
            )
        if is_coverage_gap(self.metric):
            raise ValueError(
                f"the baseline of {self.metric!r} is the quantile of the labels, which has almost no gap; set `max` instead of "
                "`better_than_baseline_by`"
            )
        return self

    @property
    def name(self) -> str:
        margin = self.better_than_baseline_by
        return f"{self.metric} better than {self.baseline or 'the baseline'}{f' by {margin}' if margin.amount else ''}"

    def _check(self, evidence: Evidence) -> GateResult:
        margin, baseline = self.better_than_baseline_by, self._baseline(evidence)
        if self.confidence is None:
            return self._compare(evidence, baseline, margin, strictly=True)
        if self.baseline is not None:
            return self._improvement(evidence, baseline, margin, self.confidence)
        from airflow_mlops.metrics.values import without_features

        rows, _ = evidence.rows(evidence.candidate)
        return self._improvement(evidence, baseline, margin, self.confidence, without_features(rows, self.metric))

    def _baseline(self, evidence: Evidence) -> Measurement:
        """Return the metrics of the baseline.

        :raises SpecError: the held-out rows have no forecasts of the statistical model
        """
        if self.baseline is None:
            return evidence.baseline
        found = {model.name: model for model in evidence.statistical}
        if self.baseline not in found:
            known = choices(self.baseline, found) if found else "they have no forecasts of statistical models"
            raise SpecError(
                f"Gate {self.name!r} compares with {self.baseline!r}, but the held-out rows have no such forecasts: {known}. Correct "
                "`baseline`, or add the model to `models` of BuildForecastRowsOperator."
            )
        return found[self.baseline]


class BeatsABaseline(MetricGate):
    """A gate that requires a candidate to be better than the baseline or better than a small decision tree.

    This gate is checked for every candidate, in addition to the declared gates. If the metric is undefined for one of
    the two simple models, the candidate is compared only with the other simple model. If the metric is undefined for
    both, the candidate passes.
    """

    @property
    def name(self) -> str:
        return f"{self.metric} better than a simple model"

    def _check(self, evidence: Evidence) -> GateResult:
        measured, metric = self._measured(evidence.candidate), self._metric
        simple = [evidence.baseline, *([evidence.tree] if evidence.tree else [])]
        values = {model.name: model.metrics[self.metric] for model in simple if self.metric in model.metrics}
        if not values:
            return self._result(measured, None, True, f"{self.metric} is undefined for the simple models.")
        beaten = [name for name, value in values.items() if metric.better(measured, value)]
        listed = [f"{name} ({rounded(value)})" for name, value in values.items()]
        weakest = max(values.values()) if not metric.higher_is_better else min(values.values())
        outcome = (
            f"better than {' and '.join(item for item, name in zip(listed, values, strict=True) if name in beaten)}"
            if beaten
            else f"not better than {' or '.join(listed)}"
        )
        return self._result(measured, weakest, bool(beaten), f"{self.metric} {rounded(measured)} is {outcome}.")
