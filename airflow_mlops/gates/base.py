"""What every gate has. Light: a DAG that declares gates imports this while it is parsed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat

from airflow_mlops.core.base import Model
from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence, HeldOut, Measurement
    from airflow_mlops.models.scorer import Scorer


def choices(name: Any, known: Iterable[str]) -> str:
    """The end of a sentence about a ``name`` that is none of ``known``: what there is, and the nearest spelling."""
    options = list(known)
    near = get_close_matches(str(name).lower(), options, n=1, cutoff=0.5)
    return f"choose one of {', '.join(options)}{f' (did you mean {near[0]!r}?)' if near else ''}"


def _known(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"{metric!r} is not a metric: {choices(metric, METRICS)}")
    return metric


MetricName = Annotated[str, AfterValidator(_known)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Confidence = Annotated[FiniteFloat, Field(gt=0.5, lt=1)]


class Margin(Model):
    """By how much: a difference of the metric, or a share of the value it is compared with (written ``"2%"``).

    A negative margin allows a candidate to be that much worse.
    """

    amount: FiniteFloat
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.amount:g}%" if self.relative else f"{self.amount:g}"

    def step(self, value: float) -> float:
        """The margin as a difference from ``value``."""
        return abs(value) * self.amount / 100 if self.relative else self.amount

    def beyond(self, value: float, higher_is_better: bool) -> float:
        """The number that is better than ``value`` by this margin."""
        return value + self.step(value) if higher_is_better else value - self.step(value)


def _as_margin(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return {"amount": value.strip()[:-1], "relative": True}
    return {"amount": value} if isinstance(value, (int, float, str)) else value


MarginInput = Annotated[Margin, BeforeValidator(_as_margin)]


class Gate(Model):
    """Something a candidate must pass. A subclass's fields are how it is declared.

    :cvar tasks: for which it has a meaning
    :cvar costly: whether only candidates that pass every other gate are asked
    """

    costly: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")

    @property
    @abstractmethod
    def name(self) -> str:
        """The gate in words."""

    @abstractmethod
    def check(self, evidence: Evidence) -> GateResult:
        """Judge the candidate."""

    def suits(self, task: Task) -> None:
        """:raises SpecError: the gate has no meaning for this task"""
        if task not in self.tasks:
            raise SpecError(f"Gate {self.name!r} is for {' and '.join(self.tasks)} tasks, and this one is {task}.")

    def _answer(
        self, measured: float | None, asked: float | None, passed: bool, explanation: str, **more: Any
    ) -> GateResult:
        return GateResult(
            gate=self.name, measured=measured, asked=asked, passed=passed, explanation=explanation, **more
        )

    def _model(self, evidence: Evidence) -> Scorer:
        """The candidate itself, for gates that ask it again."""
        if evidence.model is None:
            raise SpecError(f"Gate {self.name!r} needs the model itself, and there are only its numbers.")
        return evidence.model

    def _data(self, evidence: Evidence) -> HeldOut:
        """The held-out rows, for gates that look at their columns."""
        if evidence.data is None:
            raise SpecError(f"Gate {self.name!r} needs the held-out rows, and there are only numbers.")
        return evidence.data


class MetricGate(Gate):
    """A gate on one metric. A model that gives labels alone has no metric of probabilities, and fails it.

    :cvar against_champion: whether the champion's metric is looked at too
    """

    against_champion: ClassVar[bool] = False

    metric: MetricName

    def suits(self, task: Task) -> None:
        if task not in METRICS[self.metric].tasks:
            known = [name for name, metric in METRICS.items() if task in metric.tasks]
            raise SpecError(f"{self.metric!r} is no metric for a {task} task: {choices(self.metric, known)}.")

    def check(self, evidence: Evidence) -> GateResult:
        looked_at = [evidence.candidate, *([evidence.champion] if self.against_champion else [])]
        for model in looked_at:
            if model is not None and self.metric not in model.metrics and model.gives_labels_alone:
                return self._answer(
                    evidence.candidate.metrics.get(self.metric),
                    None,
                    False,
                    f"{model.name} gives labels and no probabilities, so it has no {self.metric}: there are "
                    f"{', '.join(model.metrics)}.",
                )
        return self._check(evidence)

    @abstractmethod
    def _check(self, evidence: Evidence) -> GateResult:
        """Judge the candidate, whose metric is known."""

    def _measured(self, of: Measurement) -> float:
        if self.metric not in of.metrics:
            raise SpecError(
                f"Gate {self.name!r} asks for {self.metric}, which was not measured for {of.name}: "
                f"there are {', '.join(of.metrics)}."
            )
        return of.metrics[self.metric]

    def _compare(self, evidence: Evidence, other: Measurement, margin: Margin, *, strictly: bool) -> GateResult:
        """Compare two values as they stand."""
        measured, reference = self._measured(evidence.candidate), self._measured(other)
        metric = METRICS[self.metric]
        asked = margin.beyond(reference, metric.higher_is_better)
        passed = metric.better(measured, asked) if strictly else not metric.better(asked, measured)
        sides = ("above", "below") if strictly else ("at least", "at most")
        margins = f", margin {margin}" if margin.amount else ""
        than = f"{sides[0 if metric.higher_is_better else 1]} {asked:.4g} ({other.name} {reference:.4g}{margins})"
        verb = "is" if passed else "is not"
        return self._answer(measured, asked, passed, f"{self.metric} {measured:.4g} {verb} {than}.")

    def _without_champion(self, evidence: Evidence) -> GateResult:
        """The answer of a gate that compares with the champion where there is none, or none that can be measured."""
        problem = evidence.champion_problem
        return self._answer(
            self._measured(evidence.candidate), None, problem is None, problem or "There is no champion yet."
        )


def percent(share: float) -> str:
    """A share in words, with as many digits as it takes to tell it from 1."""
    return f"{100 * share:.4g}%"
