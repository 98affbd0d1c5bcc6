"""The base classes of all gates. Light: a DAG file that declares gates imports this while it is parsed."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, FiniteFloat, StrictBool, model_validator

from airflow_mlops.core.base import Model, choices
from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.metrics.catalog import Metric, find_metric, is_custom, metrics_for
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence, HeldOut, Measurement
    from airflow_mlops.models.scorer import Scorer


Positive = Annotated[FiniteFloat, Field(gt=0)]
Confidence = Annotated[FiniteFloat, Field(gt=0.5, lt=1)]


class Margin(Model):
    """A difference of the metric, or a share of the value it is compared with (written ``"2%"``).

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
        """The number that is better than ``value`` by the margin."""
        return value + self.step(value) if higher_is_better else value - self.step(value)


def _as_margin(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return {"amount": value.strip()[:-1], "relative": True}
    return {"amount": value} if isinstance(value, (int, float, str)) else value


MarginInput = Annotated[Margin, BeforeValidator(_as_margin)]


class Gate(Model):
    """A requirement that a candidate must meet. The fields of a subclass are the keys of its declaration.

    :cvar tasks: the tasks that the gate applies to
    :cvar costly: whether the gate is checked only for candidates that pass every other gate
    """

    costly: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")

    @property
    @abstractmethod
    def name(self) -> str:
        """The requirement in a few words."""

    @abstractmethod
    def check(self, evidence: Evidence) -> GateResult:
        """Check the candidate."""

    def suits(self, task: Task) -> None:
        """:raises SpecError: the gate does not apply to this task"""
        if task not in self.tasks:
            raise SpecError(f"Gate {self.name!r} is for {' and '.join(self.tasks)} tasks, and this one is {task}.")

    def _result(
        self, measured: float | None, required: float | None, passed: bool, explanation: str, **more: Any
    ) -> GateResult:
        return GateResult(
            gate=self.name, measured=measured, asked=required, passed=passed, explanation=explanation, **more
        )

    def _model(self, evidence: Evidence) -> Scorer:
        """The candidate's model, for gates that make predictions with it."""
        if evidence.model is None:
            raise SpecError(f"Gate {self.name!r} needs the model, and only its metrics are given.")
        return evidence.model

    def _data(self, evidence: Evidence) -> HeldOut:
        """The held-out data, for gates that read its columns."""
        if evidence.data is None:
            raise SpecError(f"Gate {self.name!r} needs the held-out data, and only metrics are given.")
        return evidence.data


class MetricGate(Gate):
    """A gate on one metric. A model without probabilities fails it if the metric is computed from probabilities.

    :cvar against_champion: whether the gate compares with the champion
    :param metric: a built-in metric, or the import path of a user's own, see :mod:`airflow_mlops.metrics.custom`
    :param greater_is_better: the direction of a user's own metric
    """

    against_champion: ClassVar[bool] = False

    metric: str
    greater_is_better: StrictBool | None = None

    @model_validator(mode="after")
    def _known_metric(self) -> MetricGate:
        find_metric(self.metric, self.greater_is_better)
        return self

    @property
    def _metric(self) -> Metric:
        return find_metric(self.metric, self.greater_is_better)

    def suits(self, task: Task) -> None:
        if task not in self._metric.tasks:
            raise SpecError(
                f"{self.metric!r} is not a metric for a {task} task: {choices(self.metric, metrics_for(task))}."
            )

    def check(self, evidence: Evidence) -> GateResult:
        compared = [evidence.candidate, *([evidence.champion] if self.against_champion else [])]
        for model in compared:
            if model is not None and self.metric not in model.metrics and model.gives_labels_only:
                return self._result(
                    evidence.candidate.metrics.get(self.metric),
                    None,
                    False,
                    f"{model.name} predicts labels without probabilities, so {self.metric} cannot be computed; "
                    f"available: {', '.join(model.metrics)}.",
                )
        return self._check(evidence)

    @abstractmethod
    def _check(self, evidence: Evidence) -> GateResult:
        """Check the candidate, which has the metric."""

    def _measured(self, model: Measurement) -> float:
        if self.metric not in model.metrics:
            undefined = " It is undefined for this model." if is_custom(self.metric) else ""
            raise SpecError(
                f"Gate {self.name!r} needs {self.metric}, which {model.name} does not have; "
                f"available: {', '.join(model.metrics)}.{undefined}"
            )
        return model.metrics[self.metric]

    def _compare(self, evidence: Evidence, other: Measurement, margin: Margin, *, strictly: bool) -> GateResult:
        """Compare two values without an interval."""
        measured, reference = self._measured(evidence.candidate), self._measured(other)
        metric = self._metric
        required = margin.beyond(reference, metric.higher_is_better)
        passed = metric.better(measured, required) if strictly else not metric.better(required, measured)
        sides = ("above", "below") if strictly else ("at least", "at most")
        margins = f", margin {margin}" if margin.amount else ""
        than = f"{sides[0 if metric.higher_is_better else 1]} {required:.4g} ({other.name} {reference:.4g}{margins})"
        verb = "is" if passed else "is not"
        return self._result(measured, required, passed, f"{self.metric} {measured:.4g} {verb} {than}.")

    def _without_champion(self, evidence: Evidence) -> GateResult:
        """The result if there is no champion (passed), or if the champion could not be measured (failed)."""
        problem = evidence.champion_problem
        return self._result(
            self._measured(evidence.candidate), None, problem is None, problem or "There is no champion yet."
        )


def percent(share: float) -> str:
    """A share as a percentage with up to four significant digits."""
    return f"{100 * share:.4g}%"
