"""The base classes of all gates.

This module imports no heavy library, because DAG files that declare gates import this module during parsing.
"""

from __future__ import annotations

from abc import abstractmethod
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from airflow_mlops.core.base import Model, choices
from airflow_mlops.core.contract import Task
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.numbers import rounded
from airflow_mlops.metrics.catalog import INTERVAL_METRICS, Metric, find_metric, is_on_request, metrics_for
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence, HeldOut, Measurement
    from airflow_mlops.metrics.rows import Rows
    from airflow_mlops.models.scorer import Scorer


Positive = Annotated[FiniteFloat, Field(gt=0)]
Confidence = Annotated[FiniteFloat, Field(gt=0.5, lt=1)]


class Margin(Model):
    """The amount by which a candidate's metric must be better than a reference value.

    A negative margin allows the candidate to be worse by up to this amount.

    :param amount: difference in the unit of the metric, or percentage of the reference value
    :param relative: whether ``amount`` is a percentage, written as ``"2%"`` in the declaration of a gate
    """

    amount: FiniteFloat
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.amount:g}%" if self.relative else f"{self.amount:g}"

    def step(self, value: float) -> float:
        """Return the margin in the unit of the metric, for the reference ``value``."""
        return abs(value) * self.amount / 100 if self.relative else self.amount

    def beyond(self, value: float, higher_is_better: bool) -> float:
        """Return the metric value that is better than ``value`` by exactly the margin."""
        return value + self.step(value) if higher_is_better else value - self.step(value)


def _as_margin(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return {"amount": value.strip()[:-1], "relative": True}
    return {"amount": value} if isinstance(value, (int, float, str)) else value


MarginInput = Annotated[Margin, BeforeValidator(_as_margin)]


class Gate(Model):
    """A requirement that a candidate must meet.

    The fields of a subclass are the keys of the gate's declaration.

    :cvar tasks: the ML tasks (binary, multiclass, regression) that the gate applies to
    :cvar costly: whether the gate is checked only for candidates that pass every other gate
    """

    costly: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the requirement in a few words, such as ``roc_auc at least 0.6``."""

    @abstractmethod
    def check(self, evidence: Evidence) -> GateResult:
        """Return whether the candidate meets the requirement, with the measured value and an explanation."""

    def suits(self, task: Task) -> None:
        """Check that the gate applies to an ML task.

        :raises SpecError: the gate does not apply to ``task``
        """
        if task not in self.tasks:
            raise SpecError(
                f"Gate {self.name!r} applies to {' and '.join(self.tasks)} tasks, but the ML task is {task}. Remove the gate."
            )

    def _result(
        self, measured: float | None, required: float | None, passed: bool, explanation: str, **more: Any
    ) -> GateResult:
        return GateResult(
            gate=self.name, measured=measured, asked=required, passed=passed, explanation=explanation, **more
        )

    def _model(self, evidence: Evidence) -> Scorer:
        """Return the candidate's model.

        :raises SpecError: only metrics are available
        """
        if evidence.model is None:
            raise SpecError(
                f"Gate {self.name!r} needs the candidate's model, but only metrics are available. Set `Evidence.model`."
            )
        return evidence.model

    def _data(self, evidence: Evidence) -> HeldOut:
        """Return the held-out data.

        :raises SpecError: only metrics are available
        """
        if evidence.data is None:
            raise SpecError(
                f"Gate {self.name!r} needs the held-out data, but only metrics are available. Set `Evidence.data`."
            )
        return evidence.data


class MetricGate(Gate):
    """A gate on one metric.

    A candidate fails if the metric cannot be computed for a compared model. For example, the model has no probabilities
    or prediction intervals, or a deviance is undefined for one of its predictions.

    :cvar against_champion: whether the gate compares the candidate with the champion
    :param metric: name of a metric, see :func:`airflow_mlops.metrics.catalog.find_metric`
    :param greater_is_better: whether greater values of a custom metric are better; ``None`` for other metrics
    """

    against_champion: ClassVar[bool] = False

    metric: str
    greater_is_better: bool | None = None

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
                f"{self.metric!r} is not a metric for {task} tasks: {choices(self.metric, metrics_for(task))}."
            )

    def check(self, evidence: Evidence) -> GateResult:
        compared = [evidence.candidate, *([evidence.champion] if self.against_champion else [])]
        for model in compared:
            if model is None or self.metric in model.metrics or (reason := self._undefined(model)) is None:
                continue
            return self._result(
                evidence.candidate.metrics.get(self.metric),
                None,
                False,
                f"{self.metric} cannot be computed, because {reason}. Available metrics: {', '.join(model.metrics)}.",
            )
        return self._check(evidence)

    def _undefined(self, model: Measurement) -> str | None:
        """Return a clause that explains why a model has no value of the metric; ``None`` if the reason is unknown."""
        if self.metric in INTERVAL_METRICS:
            return f"{model.name} has no prediction intervals (interval of TrainOperator)"
        if model.gives_labels_only:
            return f"{model.name} predicts labels without probabilities"
        if model.rows is None:
            return None
        from airflow_mlops.metrics.values import undefined

        return undefined(self.metric, model.rows, model.name)

    @abstractmethod
    def _check(self, evidence: Evidence) -> GateResult:
        """Check the gate. :meth:`check` does not call this method if it knows why a model lacks the metric."""

    def _measured(self, model: Measurement) -> float:
        if self.metric not in model.metrics:
            reason = " is undefined" if is_on_request(self.metric) else " was not computed"
            raise SpecError(
                f"Gate {self.name!r} needs the metric {self.metric!r}, which{reason} for {model.name}. "
                f"Available metrics: {', '.join(model.metrics)}."
            )
        return model.metrics[self.metric]

    def _compare(self, evidence: Evidence, other: Measurement, margin: Margin, *, strictly: bool) -> GateResult:
        """Compare the candidate's metric with the metric of ``other``, without a confidence interval.

        :param margin: how much better the candidate must be
        :param strictly: whether the candidate fails if its metric equals the required value
        """
        measured, reference = self._measured(evidence.candidate), self._measured(other)
        metric = self._metric
        required = margin.beyond(reference, metric.higher_is_better)
        passed = metric.better(measured, required) if strictly else not metric.better(required, measured)
        sides = ("above", "below") if strictly else ("at least", "at most")
        margins = f", margin {margin}" if margin.amount else ""
        than = f"{sides[0 if metric.higher_is_better else 1]} {rounded(required)} ({other.name} {rounded(reference)}{margins})"
        verb = "is" if passed else "is not"
        return self._result(measured, required, passed, f"{self.metric} {rounded(measured)} {verb} {than}.")

    def _improvement(
        self, evidence: Evidence, other: Measurement, margin: Margin, confidence: float, rows: Rows | None = None
    ) -> GateResult:
        """Compare the candidate's metric with the metric of ``other``, with a confidence bound.

        The candidate passes if the one-sided lower bound of its improvement exceeds the margin.

        :param margin: how much better the candidate must be
        :param confidence: confidence of the one-sided bounds of all candidates together (Bonferroni's correction)
        :param rows: labels and predictions of ``other``; by default the rows of its measurement
        """
        from airflow_mlops.metrics.comparison import POWER, compare

        measured, reference = self._measured(evidence.candidate), self._measured(other)
        mine, resampling = evidence.rows(evidence.candidate)
        theirs = rows if rows is not None else evidence.rows(other)[0]
        (comparison,) = compare(self._metric, mine, theirs, resampling)
        improvement, step = comparison.improvement, margin.step(reference)
        each = 1 - (1 - confidence) / evidence.candidates
        low, detectable = improvement.lower(each), step + improvement.detectable(each)
        shared = f" over {evidence.candidates} candidates" if evidence.candidates > 1 else ""
        compared = f"{rounded(abs(improvement.value), 3)} {'better' if improvement.value > 0 else 'worse'} than"
        found = (
            f"{self.metric} {rounded(measured)} is {compared if improvement.value else 'equal to that of'} {other.name} "
            f"({rounded(reference)})"
        )
        asked = f"required: above {rounded(step, 3)} with {percent(confidence)} confidence{shared}"
        if not isfinite(low):
            found = f"{found}, but {counted(comparison.rows, 'row')} are too few for a confidence bound ({asked})."
        elif not improvement.standard_error:
            found = f"{found}. The standard error of the improvement is 0 ({asked})."
        else:
            found = (
                f"{found}. The improvement is above {rounded(low, 3)} with {percent(confidence)} confidence{shared} (required: above {rounded(step, 3)}). "
                f"{comparison.rows:,} rows detect an improvement of {rounded(detectable, 2)} with {percent(POWER)} power."
            )
        return self._result(
            measured,
            margin.beyond(reference, self._metric.higher_is_better),
            low > step,
            found,
            improvement=improvement.value,
            low=low,
            high=improvement.upper(each),
            confidence=each,
            rows=comparison.rows,
            detectable=detectable,
        )

    def _without_champion(self, evidence: Evidence) -> GateResult:
        """Return the result of a comparison without a measured champion.

        The candidate passes if there is no champion, and fails if the champion could not be measured.
        """
        problem = evidence.champion_problem
        return self._result(
            self._measured(evidence.candidate), None, problem is None, problem or "There is no champion yet."
        )


def percent(share: float) -> str:
    """Format a share as a percentage with up to four significant digits."""
    return f"{100 * share:.4g}%"
