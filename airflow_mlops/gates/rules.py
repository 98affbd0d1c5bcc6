"""The gates, and how they are declared. Light: a DAG that declares gates imports this while it is parsed.

A gate is a small class with the fields it is declared with and ``check(evidence) -> GateResult``. Which class a
declaration means is told by its keys, see :data:`GATES`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, FiniteFloat, model_validator

from airflow_mlops.exceptions import SpecError
from airflow_mlops.specs.base import Model, parse
from airflow_mlops.specs.metrics import MAIN_METRIC, METRICS
from airflow_mlops.specs.model import Task
from airflow_mlops.specs.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence, Measurement


def _known(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"{metric!r} is not a metric: choose one of {', '.join(METRICS)}")
    return metric


MetricName = Annotated[str, AfterValidator(_known)]


class Margin(Model):
    """By how much: a difference of the metric, or a share of the value it is compared with (written ``"2%"``).

    A negative margin allows a candidate to be that much worse.
    """

    amount: FiniteFloat
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.amount:g}%" if self.relative else f"{self.amount:g}"

    def beyond(self, value: float, higher_is_better: bool) -> float:
        """The number that is better than ``value`` by this margin."""
        step = abs(value) * self.amount / 100 if self.relative else self.amount
        return value + step if higher_is_better else value - step


def _as_margin(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return {"amount": value.strip()[:-1], "relative": True}
    return {"amount": value} if isinstance(value, (int, float, str)) else value


MarginInput = Annotated[Margin, BeforeValidator(_as_margin)]


class Gate(Model):
    """Something a candidate must pass. A subclass's fields are how it is declared."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The gate in words."""

    @abstractmethod
    def check(self, evidence: Evidence) -> GateResult:
        """Judge the candidate."""


class MetricGate(Gate):
    """A gate on one metric."""

    metric: MetricName

    def _measured(self, of: Measurement) -> float:
        if self.metric not in of.metrics:
            raise SpecError(
                f"Gate {self.name!r} asks for {self.metric}, which was not measured for {of.name}: "
                f"there are {', '.join(of.metrics)}."
            )
        return of.metrics[self.metric]

    def _answer(self, measured: float, asked: float, passed: bool, than: str) -> GateResult:
        verb = "is" if passed else "is not"
        return GateResult(
            gate=self.name,
            measured=measured,
            asked=asked,
            passed=passed,
            explanation=f"{self.metric} {measured:.4g} {verb} {than}.",
        )

    def _compare(self, evidence: Evidence, other: Measurement, margin: Margin, *, strictly: bool) -> GateResult:
        measured, reference = self._measured(evidence.candidate), self._measured(other)
        metric = METRICS[self.metric]
        asked = margin.beyond(reference, metric.higher_is_better)
        passed = metric.better(measured, asked) if strictly else not metric.better(asked, measured)
        sides = ("above", "below") if strictly else ("at least", "at most")
        margins = f", margin {margin}" if margin.amount else ""
        than = f"{sides[0 if metric.higher_is_better else 1]} {asked:.4g} ({other.name} {reference:.4g}{margins})"
        return self._answer(measured, asked, passed, than)


class Bound(MetricGate):
    """``{"metric": "roc_auc", "min": 0.6}``, ``{"metric": "log_loss", "max": 0.5}``: a fixed bound on a metric."""

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Bound:
        if (self.min is None) == (self.max is None):
            raise ValueError("give min or max, one of the two")
        return self

    @property
    def name(self) -> str:
        return f"{self.metric} at least {self.min:g}" if self.min is not None else f"{self.metric} at most {self.max:g}"

    def check(self, evidence: Evidence) -> GateResult:
        measured = self._measured(evidence.candidate)
        if self.min is not None:
            return self._answer(measured, self.min, measured >= self.min, f"at least {self.min:g}")
        assert self.max is not None
        return self._answer(measured, self.max, measured <= self.max, f"at most {self.max:g}")


class BetterThanChampion(MetricGate):
    """``{"metric": "roc_auc", "better_than_champion_by": 0.0}``: at least as good as the champion, plus a margin."""

    better_than_champion_by: MarginInput

    @property
    def name(self) -> str:
        margin = self.better_than_champion_by
        return (
            f"{self.metric} better than the champion by {margin}"
            if margin.amount
            else f"{self.metric} not worse than the champion"
        )

    def check(self, evidence: Evidence) -> GateResult:
        measured = self._measured(evidence.candidate)
        if evidence.champion is not None:
            return self._compare(evidence, evidence.champion, self.better_than_champion_by, strictly=False)
        problem = evidence.champion_problem
        return GateResult(
            gate=self.name,
            measured=measured,
            asked=None,
            passed=problem is None,
            explanation=problem or "There is no champion yet.",
        )


class BetterThanBaseline(MetricGate):
    """``{"metric": "roc_auc", "better_than_baseline_by": 0.02}``: better than predicting without features."""

    better_than_baseline_by: MarginInput

    @property
    def name(self) -> str:
        margin = self.better_than_baseline_by
        return f"{self.metric} better than the baseline{f' by {margin}' if margin.amount else ''}"

    def check(self, evidence: Evidence) -> GateResult:
        return self._compare(evidence, evidence.baseline, self.better_than_baseline_by, strictly=True)


GATES: dict[str, type[Gate]] = {
    "min": Bound,
    "max": Bound,
    "better_than_champion_by": BetterThanChampion,
    "better_than_baseline_by": BetterThanBaseline,
}
"""Which gate a declaration means: the key that only that gate has."""


def parse_gates(declared: Any) -> list[Gate]:
    """Turn a list of declarations into gates.

    :raises SpecError: naming the declaration that is wrong and what it may say
    """
    if not isinstance(declared, (list, tuple)) or not declared:
        raise SpecError('Gates are a list with at least one entry, such as [{"metric": "roc_auc", "min": 0.6}].')
    return [_parse_gate(item, f"Gate {number}") for number, item in enumerate(declared, start=1)]


def _parse_gate(item: Any, where: str) -> Gate:
    kinds = {GATES[key] for key in item if key in GATES} if isinstance(item, dict) else set()
    if len(kinds) != 1:
        raise SpecError(f"{where} is {item!r}: it must have a metric and one of {', '.join(GATES)}.")
    gate: Gate = parse(kinds.pop(), item, f"{where} {item!r}")
    return gate


def default_gates(task: Task, metric: str | None = None) -> list[Gate]:
    """What is asked where nothing was declared: better than the baseline, and not worse than the champion.

    :param metric: the metric that decides; the task's main metric unless given
    """
    metric = metric or MAIN_METRIC[task]
    return parse_gates(
        [{"metric": metric, "better_than_baseline_by": 0.0}, {"metric": metric, "better_than_champion_by": 0.0}]
    )
