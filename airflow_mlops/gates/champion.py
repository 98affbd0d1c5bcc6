"""Gates about the champion: a candidate must be better, or the champion is ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from airflow_mlops.gates.base import Confidence, Gate, MarginInput, MetricGate
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class BetterThanChampion(MetricGate):
    """A gate that requires a candidate to be better than the champion by a margin, with a given confidence.

    Example: ``{"metric": "roc_auc", "better_than_champion_by": 0.01, "confidence": 0.95}``.

    A candidate passes if the one-sided lower confidence bound of the improvement exceeds the margin. Both models are
    measured on the same rows. The bound comes from DeLong's paired test for the area under the ROC curve, and from a
    paired bootstrap for every other metric (:mod:`airflow_mlops.metrics.comparison`).

    Selecting the best of several candidates is a multiple comparison. Bonferroni's correction divides the error
    probability among the candidates, so with n candidates each bound has the confidence ``1 - (1 - confidence) / n``.
    Holm's refinement would select the same winner, because Holm's first step is identical. Bonferroni's bounds hold for
    all candidates simultaneously, so the verdict can report all bounds.

    :param better_than_champion_by: the margin: a difference of the metric, or a percentage of the champion's value
        (``"2%"``). With a negative margin, the gate is a non-inferiority test: the candidate may be worse by less than
        this amount
    :param confidence: confidence of the lower bound. With ``null``, no confidence interval is used: the candidate's
        value must be at least the champion's value plus the margin
    """

    against_champion: ClassVar[bool] = True

    better_than_champion_by: MarginInput
    confidence: Confidence | None = 0.95

    @property
    def name(self) -> str:
        margin = self.better_than_champion_by
        if margin.amount < 0 and self.confidence is not None:
            return f"{self.metric} at most {str(margin).removeprefix('-')} worse than the champion"
        if margin.amount:
            return f"{self.metric} better than the champion by {margin}"
        return f"{self.metric} {'not worse' if self.confidence is None else 'better'} than the champion"

    def _check(self, evidence: Evidence) -> GateResult:
        if evidence.champion is None:
            return self._without_champion(evidence)
        if self.confidence is None:
            return self._compare(evidence, evidence.champion, self.better_than_champion_by, strictly=False)
        return self._improvement(evidence, evidence.champion, self.better_than_champion_by, self.confidence)


class IgnoreChampion(Gate):
    """A declaration that a candidate may be worse than the champion, for example after a new definition of the labels.

    Example: ``{"champion": "ignore"}``. Every candidate passes this gate. If a list of gates contains neither this gate
    nor a comparison with the champion, :func:`airflow_mlops.gates.rules.with_champion` adds a comparison.

    :param champion: the word ``ignore``
    """

    champion: Literal["ignore"]

    @property
    def name(self) -> str:
        return "champion ignored"

    def check(self, evidence: Evidence) -> GateResult:
        return self._result(None, None, True, 'The gates ignore the champion: {"champion": "ignore"}.')
