"""The prediction intervals of a regression, as ``TrainOperator(interval=...)`` declares them.

This module imports no heavy library, because DAG files import it while they are parsed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from airflow_mlops.core.base import Model, choices, parse
from airflow_mlops.core.errors import SpecError

_KEYS = ("coverage",)


class IntervalRule(Model):
    """The rule for the prediction intervals of a model.

    :param coverage: nominal coverage: share of the labels that should lie in their interval, between 0 and 1
    :param margin: half the width of an interval, from an earlier training, which a refit keeps; ``None`` if the
        training computes it
    """

    coverage: float
    margin: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _share(self) -> IntervalRule:
        if not 0 < self.coverage < 1:
            raise ValueError(f"the coverage is {self.coverage:g}, but must be above 0 and below 1, such as 0.9")
        return self


def rank(rows: int, coverage: float) -> int:
    """Return the rank, from 1, of the residual that is used as the margin: ``ceil((rows + 1) * coverage)``.

    The product is computed from the decimal digits of ``coverage``, because rounding of floats could push it above an
    integer.

    :param rows: number of residuals
    :param coverage: nominal coverage, between 0 and 1
    """
    return math.ceil((rows + 1) * Fraction(str(coverage)))


def fewest_rows(coverage: float) -> int:
    """Return the smallest number of residuals for which :func:`rank` is at most this number.

    For a coverage of 0.9, it is 9.
    """
    share = Fraction(str(coverage))
    return math.ceil(share / (1 - share))


def _as_rule(declared: Any) -> Any:
    if declared is None or isinstance(declared, (Mapping, IntervalRule)):
        return declared
    try:
        # A template renders to text, which may contain a number.
        return {"coverage": float("nan" if isinstance(declared, bool) else declared)}
    except (TypeError, ValueError):
        raise ValueError(
            f"{declared!r} is not a coverage; use a number above 0 and below 1, such as 0.9, or {{'coverage': 0.9}}"
        ) from None


IntervalInput = Annotated[IntervalRule | None, BeforeValidator(_as_rule)]
"""Reads a coverage, a rule, or ``None``."""


class _Declared(Model):
    interval: IntervalInput


def refusal(*, threshold: bool, calibration: bool, class_weight: bool) -> str | None:
    """Return why a training with prediction intervals is refused, and what to do; ``None`` if it is not refused.

    :param threshold: whether the training sets a decision threshold
    :param calibration: whether the training calibrates probabilities
    :param class_weight: whether the training weights classes
    """
    given = {"threshold": threshold, "calibration": calibration, "class_weight": class_weight}
    other = next((name for name, is_set in given.items() if is_set), None)
    if other is None:
        return None
    return f"`interval` is set, which is for regression models, and `{other}`, which is for classifiers; remove one of the two"


def check_interval(declared: Any, where: str, *, threshold: Any, calibration: Any, class_weight: Any) -> None:
    """Validate prediction intervals in a DAG file, together with the parameters that they exclude.

    :param declared: the declared prediction intervals
    :param where: start of the error message, such as ``The interval of task 'train'``
    :param threshold: the declared threshold; ``None`` for a template
    :param calibration: the declared calibration; ``None`` for a template
    :param class_weight: the declared class weights; ``None`` for a template
    :raises SpecError: the declaration is neither a coverage nor a mapping with a coverage, or is combined with a
        parameter that it excludes
    """
    if isinstance(declared, Mapping) and (unknown := [key for key in declared if key not in _KEYS]):
        raise SpecError(f"{where} has the unknown key {unknown[0]!r}: {choices(str(unknown[0]), _KEYS)}.")
    parse(_Declared, {"interval": declared}, where)
    given = {"threshold": threshold, "calibration": calibration, "class_weight": class_weight}
    problem = refusal(**{name: value is not None for name, value in given.items()})
    if problem is not None:
        raise SpecError(f"{where} cannot be used: {problem}.")
