"""Gates that require a candidate to be better than simple models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.numbers import rounded
from airflow_mlops.gates.base import MarginInput, MetricGate
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class BetterThanBaseline(MetricGate):
    """A gate that requires a candidate to be better than the baseline, which predicts without features.

    Example: ``{"metric": "roc_auc", "better_than_baseline_by": 0.02}``.

    :param better_than_baseline_by: the required improvement: a difference of the metric, or a percentage of the
        baseline's value (``"2%"``)
    """

    better_than_baseline_by: MarginInput

    @property
    def name(self) -> str:
        margin = self.better_than_baseline_by
        return f"{self.metric} better than the baseline{f' by {margin}' if margin.amount else ''}"

    def _check(self, evidence: Evidence) -> GateResult:
        return self._compare(evidence, evidence.baseline, self.better_than_baseline_by, strictly=True)


class BeatsABaseline(MetricGate):
    """A gate that requires a candidate to be better than the baseline or better than a small decision tree.

    This gate is checked for every candidate, in addition to the declared gates. If a custom metric is undefined for one
    of the two simple models, the candidate is compared only with the other simple model. If it is undefined for both,
    the candidate passes.
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
            else f"not better than {' and not better than '.join(listed)}"
        )
        return self._result(measured, weakest, bool(beaten), f"{self.metric} {rounded(measured)} is {outcome}.")
