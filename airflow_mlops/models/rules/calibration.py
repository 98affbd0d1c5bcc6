"""The calibration of a classifier, as ``TrainOperator(calibration=...)`` declares it.

This module imports no heavy library, because DAG files import it while they are parsed.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model, choices, parse
from airflow_mlops.core.contract import CalibrationMap, CalibrationMethod

METHODS: tuple[str, ...] = get_args(CalibrationMethod)


class CalibrationRule(Model):
    """How the probabilities of a classifier are calibrated. A declaration is the name of the method alone.

    :param method: the calibration method
    :param maps: calibration functions from an earlier training, which a refit keeps; empty if the training fits them
    """

    method: CalibrationMethod
    maps: list[CalibrationMap] = Field(default_factory=list)


def _as_rule(declared: Any) -> Any:
    if not isinstance(declared, str):
        return declared
    if declared not in METHODS:
        raise ValueError(f"{declared!r} is not a calibration method: {choices(declared, METHODS)}")
    return {"method": declared}


CalibrationInput = Annotated[CalibrationRule | None, BeforeValidator(_as_rule)]
"""Reads the name of a calibration method, a rule, or ``None``."""


class _Declared(Model):
    calibration: Annotated[CalibrationRule, BeforeValidator(_as_rule)]


def check_calibration(declared: Any, where: str) -> None:
    """Validate a calibration in a DAG file.

    :param declared: the declared calibration
    :param where: start of the error message, such as ``The calibration of task 'train'``
    :raises SpecError: the calibration is not the name of a method
    """
    parse(_Declared, {"calibration": declared if isinstance(declared, str) else str(declared)}, where)
