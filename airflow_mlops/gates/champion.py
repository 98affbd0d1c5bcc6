"""Better than the champion, by more than chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from airflow_mlops.gates.base import Confidence, MarginInput, MetricGate, percent
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence, Measurement


class BetterThanChampion(MetricGate):
    """``{"metric": "roc_auc", "better_than_champion_by": 0.01, "confidence": 0.95}``.

    Passed where the lower bound of the improvement's one-sided interval is above the margin. The interval is paired:
    both models are measured on the same rows, by DeLong's test for the area under the ROC curve and by a bootstrap for
    every other metric (:mod:`airflow_mlops.metrics.comparison`). A negative margin asks for non-inferiority: the
    candidate may be that much worse, and no more. A margin in percent is one of the champion's measured value.

    Of several candidates the best is chosen after all were seen, so chance has several tries. Bonferroni's correction
    divides the risk among them: with n candidates each bound has the confidence ``1 - (1 - confidence) / n``. Holm's
    refinement would pass no other winner, since it asks the same of the candidate with the strongest case, and
    Bonferroni's bounds hold for all candidates at once, so that the verdict can print them.

    ``"confidence": null`` compares the two values as they stand: at least as good as the champion, plus the margin.
    """

    against_champion: ClassVar[bool] = True

    better_than_champion_by: MarginInput
    confidence: Confidence | None = 0.95

    @property
    def name(self) -> str:
        margin = self.better_than_champion_by
        if margin.amount < 0 and self.confidence is not None:
            return f"{self.metric} not worse than the champion by {str(margin).removeprefix('-')}"
        if margin.amount:
            return f"{self.metric} better than the champion by {margin}"
        return f"{self.metric} {'not worse' if self.confidence is None else 'better'} than the champion"

    def _check(self, evidence: Evidence) -> GateResult:
        if evidence.champion is None:
            return self._without_champion(evidence)
        if self.confidence is None:
            return self._compare(evidence, evidence.champion, self.better_than_champion_by, strictly=False)
        return self._improvement(evidence, evidence.champion, self.confidence)

    def _improvement(self, evidence: Evidence, champion: Measurement, confidence: float) -> GateResult:
        from airflow_mlops.metrics.comparison import POWER, compare

        measured, reference = self._measured(evidence.candidate), self._measured(champion)
        (mine, resampling), (theirs, _) = evidence.rows(evidence.candidate), evidence.rows(champion)
        (found,) = compare(self.metric, mine, theirs, resampling)
        improvement, step = found.improvement, self.better_than_champion_by.step(reference)
        each = 1 - (1 - confidence) / evidence.candidates
        low, detectable = improvement.lower(each), step + improvement.detectable(each)
        passed = low > step
        shared = f" shared by {evidence.candidates} candidates" if evidence.candidates > 1 else ""
        return self._answer(
            measured,
            self.better_than_champion_by.beyond(reference, METRICS[self.metric].higher_is_better),
            passed,
            f"{self.metric} {measured:.4g} against {champion.name}'s {reference:.4g} is an improvement of "
            f"{improvement.value:.3g}, above {low:.3g} with {percent(confidence)} confidence{shared}, "
            f"{'and' if passed else 'but'} above {step:.3g} was asked; {found.rows:,} rows find an improvement of "
            f"{detectable:.2g} with {percent(POWER)} power.",
            improvement=improvement.value,
            low=low,
            high=improvement.upper(each),
            confidence=each,
            rows=found.rows,
            detectable=detectable,
        )
