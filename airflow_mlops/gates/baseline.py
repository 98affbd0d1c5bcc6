"""Better than models that need no learning worth the name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.gates.base import MarginInput, MetricGate
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class BetterThanBaseline(MetricGate):
    """``{"metric": "roc_auc", "better_than_baseline_by": 0.02}``: better than predicting without features."""

    better_than_baseline_by: MarginInput

    @property
    def name(self) -> str:
        margin = self.better_than_baseline_by
        return f"{self.metric} better than the baseline{f' by {margin}' if margin.amount else ''}"

    def _check(self, evidence: Evidence) -> GateResult:
        return self._compare(evidence, evidence.baseline, self.better_than_baseline_by, strictly=True)


class BeatsABaseline(MetricGate):
    """Asked of every candidate, whatever is declared: who beats neither baseline is not worth serving."""

    @property
    def name(self) -> str:
        return f"{self.metric} better than a simple model"

    def _check(self, evidence: Evidence) -> GateResult:
        measured, metric = self._measured(evidence.candidate), METRICS[self.metric]
        simple = [evidence.baseline, *([evidence.tree] if evidence.tree else [])]
        values = {model.name: self._measured(model) for model in simple}
        beaten = [name for name, value in values.items() if metric.better(measured, value)]
        listed = [f"{name} ({value:.4g})" for name, value in values.items()]
        weakest = max(values.values()) if not metric.higher_is_better else min(values.values())
        found = (
            f"better than {' and '.join(item for item, name in zip(listed, values, strict=True) if name in beaten)}"
            if beaten
            else f"not better than {' and not better than '.join(listed)}"
        )
        return self._answer(measured, weakest, bool(beaten), f"{self.metric} {measured:.4g} is {found}.")
