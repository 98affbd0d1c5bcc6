"""Deviances, the metrics of regression models whose labels are counts or positive amounts.

All of them are Tweedie deviances (B. Jørgensen, "The Theory of Dispersion Models", 1997). They differ in their power:

- ``poisson_deviance``, power 1, for counts;
- ``tweedie_deviance``, a power between 1 and 2, for amounts that are often 0, such as insurance claims;
- ``gamma_deviance``, power 2, for positive amounts.

A declaration names the power of ``tweedie_deviance``: ``{"metric": "tweedie_deviance", "power": 1.5}``. Everywhere
else, the name contains the power, such as ``tweedie_deviance_p1.5``, which is valid in MLflow.

A deviance is defined for labels of at least 0 (above 0 for ``gamma_deviance``) and for predictions above 0, see
:mod:`airflow_mlops.metrics.domain`.

This module imports no heavy library, because DAG files that declare gates import this module during parsing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

POISSON, GAMMA, TWEEDIE = "poisson_deviance", "gamma_deviance", "tweedie_deviance"

SMALLEST, LARGEST = 1.01, 1.99
"""The smallest and the largest power of ``tweedie_deviance``. Closer to 1 or 2, cancellation makes values inexact."""

_POWERS = {POISSON: 1.0, GAMMA: 2.0}
_METRIC = re.compile(rf"{TWEEDIE}_p(1\.\d+)")


def power_of(metric: str) -> float | None:
    """Return the power of a deviance; ``None`` for other metrics."""
    if metric in _POWERS:
        return _POWERS[metric]
    found = _METRIC.fullmatch(metric)
    power = float(found.group(1)) if found else math.nan
    # Another spelling of a number, such as p1.50, would be a second name for the same metric.
    return power if SMALLEST <= power <= LARGEST and metric == _name(power) else None


def name_of(power: float) -> str | None:
    """Return the name of the deviance with this power; ``None`` if there is no metric with this power.

    :param power: 1 (Poisson), 2 (gamma), or a number from :data:`SMALLEST` to :data:`LARGEST` (Tweedie)
    """
    names = {known: name for name, known in _POWERS.items()}
    return names.get(power) or (_name(power) if SMALLEST <= power <= LARGEST else None)


def name_power(declared: Any) -> Any:
    """Replace ``tweedie_deviance`` and its power in a declaration with the name of the metric.

    A declaration of another metric is returned unchanged.

    :param declared: the fields of a declaration, among others ``metric``
    :raises ValueError: the power is missing, or not a number from :data:`SMALLEST` to :data:`LARGEST`
    """
    if not isinstance(declared, Mapping) or declared.get("metric") != TWEEDIE:
        return declared
    others = {key: value for key, value in declared.items() if key != "power"}
    return {**others, "metric": _name(_power(declared.get("power")))}


def _power(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not SMALLEST <= number <= LARGEST:
        raise ValueError(
            f"power is {value!r}, but the power of {TWEEDIE} must be a number from {SMALLEST} to {LARGEST}; use {POISSON} for "
            f"power 1 and {GAMMA} for power 2"
        )
    return number


def _name(power: float) -> str:
    return f"{TWEEDIE}_p{power!r}"
