"""Costs of the two errors of a binary classifier, and the metric ``expected_cost``, the mean cost of a row.

A declaration names the metric and its costs:
``{"metric": "expected_cost", "false_positive": 1, "false_negative": 20}``. If a cost differs between rows, the name of
a column replaces the number: with ``"false_negative": "amount"``, a false negative costs the row's ``amount``.
Everywhere else, one name contains both costs, such as ``expected_cost_fp1_fn20`` or, with a column,
``expected_cost_fp1_fn-amount``. Equal costs give equal names, and different costs give different names. The names are
valid in MLflow.

This module imports no heavy library, because DAG files that declare gates import this module during parsing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from airflow_mlops.core.numbers import LARGEST_COST, SMALLEST_COST

NAME = "expected_cost"
"""The name of the metric in a declaration with its costs."""

SMALLEST, LARGEST = SMALLEST_COST, LARGEST_COST

_FIELDS = ("false_positive", "false_negative")
_NUMBER = r"\d[\d.]*(?:e-?\d+)?"
# A hyphen marks the name of a column. Costs are not negative, so no number begins with a hyphen.
_COLUMN = r"[^\W\d]\w*"
_METRIC = re.compile(f"{NAME}_fp({_NUMBER}|-{_COLUMN})_fn({_NUMBER}|-{_COLUMN})")


class Costs(NamedTuple):
    """The costs of a false positive and of a false negative, in the same unit. A correct prediction costs nothing.

    A cost is a number, or the name of the column with the cost of each row.
    """

    false_positive: float | str
    false_negative: float | str

    @property
    def metric(self) -> str:
        """Return the name of the metric with these costs, such as ``expected_cost_fp1_fn20``."""
        return f"{NAME}_fp{_text(self.false_positive)}_fn{_text(self.false_negative)}"

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns with the costs of the rows, each once."""
        return list(dict.fromkeys(cost for cost in self if isinstance(cost, str)))

    @property
    def most(self) -> float:
        """Return the largest cost that a row can have; infinity if it depends on a column."""
        return max(math.inf if isinstance(cost, str) else cost for cost in self)


def parse_costs(declared: Any) -> Costs:
    """Read the costs from a mapping with the keys ``false_positive`` and ``false_negative``.

    :raises ValueError: a key is missing or unknown, a cost is neither 0, a number from :data:`SMALLEST` to
        :data:`LARGEST` nor the name of a column, or both costs are 0
    """
    if not isinstance(declared, Mapping) or set(declared) != {*_FIELDS}:
        raise ValueError(
            f"costs are {declared!r}, but must name both errors, such as {{'false_positive': 1, 'false_negative': 20}}"
        )
    costs = Costs(*(_cost(name, declared[name]) for name in _FIELDS))
    if not any(costs):
        raise ValueError(
            "`false_positive` and `false_negative` are both 0, so every model costs nothing; set one above 0"
        )
    return costs


def costs_of(metric: str) -> Costs | None:
    """Return the costs that the name of a metric contains; ``None`` for other metrics."""
    found = _METRIC.fullmatch(metric)
    try:
        given = [cost.removeprefix("-") for cost in found.groups()] if found else []
        costs = parse_costs(dict(zip(_FIELDS, given, strict=True))) if given else None
    except ValueError:
        return None
    # Another spelling of a number, such as fp1.0, would be a second name for the same metric.
    return costs if costs is not None and costs.metric == metric else None


def name_costs(declared: Any) -> Any:
    """Replace ``expected_cost`` and its costs in a declaration with the name of the metric.

    A declaration of another metric is returned unchanged.

    :param declared: the fields of a declaration, among others ``metric``
    :raises ValueError: the costs are missing or invalid, see :func:`parse_costs`
    """
    if not isinstance(declared, Mapping) or declared.get("metric") != NAME:
        return declared
    others = {key: value for key, value in declared.items() if key not in _FIELDS}
    costs = parse_costs({key: declared[key] for key in _FIELDS if key in declared})
    return {**others, "metric": costs.metric}


def cost_columns(metrics: Iterable[str]) -> list[str]:
    """Return the names of the columns that the expected costs among ``metrics`` use, each once."""
    found = (costs_of(metric) for metric in metrics)
    return list(dict.fromkeys(column for costs in found if costs is not None for column in costs.columns))


def _cost(name: str, value: Any) -> float | str:
    if isinstance(value, str) and not _is_number(value):
        if not re.fullmatch(_COLUMN, value):
            raise ValueError(
                f"{name} is {value!r}, but the name of a column of costs consists of letters, digits and underscores and does not "
                "begin with a digit; rename the column in BuildTrainingSetOperator, or set a number"
            )
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number != 0 and not SMALLEST <= number <= LARGEST:
        raise ValueError(f"{name} is {value!r}, but a cost must be 0, or a number from {SMALLEST:g} to {LARGEST:g}")
    # Adding 0.0 turns -0.0 into 0.0.
    return number + 0.0


def _is_number(text: str) -> bool:
    # A template renders to text, which may contain a number.
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(cost: float | str) -> str:
    if isinstance(cost, str):
        return f"-{cost}"
    # MLflow allows no plus sign in a name.
    return repr(cost).removesuffix(".0").replace("+", "")
