"""A gate that fails if a candidate is worse than the champion on a slice of the held-out rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, Field

from airflow_mlops.core.numbers import rounded
from airflow_mlops.gates.base import Confidence, Margin, MarginInput, MetricGate, percent
from airflow_mlops.registry.records.verdict import GateResult, SliceResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence, Measurement
    from airflow_mlops.gates.slice_search import Slice
    from airflow_mlops.metrics.comparison import Comparison

MIN_ROWS = 30
"""Minimum number of rows of a slice with a weight above 0. The result of a smaller slice is ``uncertain``."""


def _not_negative(margin: Margin) -> Margin:
    if margin.amount < 0:
        raise ValueError("`not_worse_than_champion_by` must not be negative")
    return margin


class NotWorseOnSlices(MetricGate):
    """A gate that requires a candidate not to be significantly worse than the champion on any slice.

    Example: ``{"metric": "log_loss", "slices": ["carrier", "distance"], "not_worse_than_champion_by": 0.01}``.

    The gate fails if the upper confidence bound of the improvement on a slice is below the negative tolerance. The
    candidate is then significantly worse on this slice, by more than the tolerance. A slice that is too small for a
    decision is uncertain and does not fail the gate. The confidence holds for all slices together: with m slices, each
    bound has the confidence ``1 - (1 - confidence) / m`` (Bonferroni's correction).

    :param slices: names of columns of the held-out data that define the slices; the columns need not be features, see
        :func:`airflow_mlops.gates.slice_search.by_column`
    :param discover: whether to search also for the worst slices by these columns and the candidate's features, see
        :func:`airflow_mlops.gates.slice_search.discover`
    :param not_worse_than_champion_by: the tolerance: a difference of the metric, or a percentage of the champion's
        value on the slice (``"2%"``)
    :param confidence: confidence of the decision for all slices together
    """

    against_champion: ClassVar[bool] = True

    slices: list[str] = Field(min_length=1)
    not_worse_than_champion_by: Annotated[MarginInput, AfterValidator(_not_negative)]
    confidence: Confidence = 0.95
    discover: bool = False

    @property
    def name(self) -> str:
        tolerance = self.not_worse_than_champion_by
        more = " and discovered slices" if self.discover else ""
        return (
            f"{self.metric} {f'at most {tolerance}' if tolerance.amount else 'not'} worse than the champion "
            f"on slices by {', '.join(self.slices)}{more}"
        )

    def _check(self, evidence: Evidence) -> GateResult:
        self._measured(evidence.candidate)
        if evidence.champion is None:
            return self._without_champion(evidence)
        from airflow_mlops.metrics.comparison import compare

        (mine, resampling), (theirs, _) = evidence.rows(evidence.candidate), evidence.rows(evidence.champion)
        compared: list[tuple[str, int, Comparison | None]] = []
        # Slices are compared column by column, so that only the row positions of one column's slices are in memory.
        for slices in self._slices(evidence, evidence.champion):
            # Rows with a weight of 0 do not count.
            measured = [
                part.index if mine.weight is None else part.index[mine.weight[part.index] > 0] for part in slices
            ]
            large = [index for index in measured if len(index) >= MIN_ROWS]
            found = iter(compare(self._metric, mine, theirs, resampling, large) if large else [])
            compared += [
                (part.name, len(index), next(found) if len(index) >= MIN_ROWS else None)
                for part, index in zip(slices, measured, strict=True)
            ]
        each = 1 - (1 - self.confidence) / max(1, sum(comparison is not None for *_, comparison in compared))
        results = [self._judge(name, rows, comparison, each) for name, rows, comparison in compared]
        return self._combine(results, evidence.champion, each)

    def _slices(self, evidence: Evidence, champion: Measurement) -> Iterator[list[Slice]]:
        """Yield the slices by each column, followed by the discovered slices."""
        from airflow_mlops.gates.slice_search import Slice, by_column, discover
        from airflow_mlops.metrics.formulas import row_losses

        data = self._data(evidence)
        for column in self.slices:
            yield list(by_column(column, data.column(column)))
        if self.discover:
            columns = list(
                dict.fromkeys([*self.slices, *(item.name for item in self._model(evidence).contract.features)])
            )
            excess = row_losses(evidence.rows(evidence.candidate)[0]) - row_losses(evidence.rows(champion)[0])
            discovered = discover(excess, columns, data.batches, evidence.rows(champion)[0].weight)
            yield [Slice(f"{part.name} (discovered)", part.index) for part in discovered]

    def _judge(self, name: str, rows: int, comparison: Comparison | None, confidence: float) -> SliceResult:
        if comparison is None or not math.isfinite(comparison.improvement.standard_error):
            return SliceResult(name=name, rows=rows, state="uncertain")
        low, high = comparison.improvement.lower(confidence), comparison.improvement.upper(confidence)
        least = -self.not_worse_than_champion_by.step(comparison.champion)
        return SliceResult(
            name=name,
            rows=comparison.rows,
            candidate=comparison.candidate,
            champion=comparison.champion,
            improvement=comparison.improvement.value,
            low=low,
            high=high,
            state="worse" if high < least else "fine" if low >= least else "uncertain",
        )

    def _combine(self, results: list[SliceResult], champion: Measurement, confidence: float) -> GateResult:
        worse = [item for item in results if item.state == "worse"]
        uncertain = sum(item.state == "uncertain" for item in results)
        tolerance = self.not_worse_than_champion_by
        least = min((item.improvement for item in results if item.improvement is not None), default=None)
        by = f" by more than {tolerance}" if tolerance.amount else ""
        where = "; ".join(
            f"{item.name} ({rounded(item.candidate)}, champion {rounded(item.champion)}, on {item.rows:,} rows)"
            for item in worse
            if item.candidate is not None and item.champion is not None
        )
        undecided = f"; {uncertain} {'slice is' if uncertain == 1 else 'slices are'} uncertain" if uncertain else ""
        return self._result(
            least,
            None if tolerance.relative else -tolerance.amount,
            not worse,
            f"{self.metric} is worse than {champion.name}'s{by} on {len(worse)} of {len(results)} slices, with "
            f"{percent(self.confidence)} confidence{f': {where}' if worse else ''}{undecided}.",
            confidence=confidence,
            slices=results,
        )
