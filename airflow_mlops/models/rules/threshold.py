"""The rule by which the decision threshold of a binary model is set, as ``TrainOperator(threshold=...)`` declares it.

This module imports no heavy library, because DAG files import it while they are parsed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from airflow_mlops.core.base import Model, choices, parse
from airflow_mlops.metrics.costs import parse_costs

NEVER = math.nextafter(1, math.inf)
"""The threshold that no probability reaches."""


class ThresholdRule(Model):
    """A rule for the decision threshold. Exactly one of its fields is set.

    :param maximise: the metric that the threshold maximises
    :param precision: the smallest accepted precision. Of the thresholds that reach it, the smallest threshold is
        chosen, which has the greatest recall
    :param recall: the smallest accepted recall. Of the thresholds that reach it, the threshold with the greatest
        precision is chosen
    :param cost: costs of a ``false_positive`` and of a ``false_negative``, each a number or the name of the column with
        the cost of each row. The threshold minimises the mean cost of a row
    :param value: the threshold itself. In a declaration, it is a plain number
    """

    maximise: Literal["f1", "accuracy", "balanced_accuracy"] | None = None
    precision: float | None = Field(default=None, gt=0, le=1)
    recall: float | None = Field(default=None, gt=0, le=1)
    cost: Annotated[dict[str, float | str], BeforeValidator(lambda value: parse_costs(value)._asdict())] | None = None
    value: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, declared: Any) -> Any:
        if isinstance(declared, Mapping):
            if unknown := [key for key in declared if key not in cls.model_fields]:
                raise ValueError(f"unknown key {unknown[0]!r}: {choices(unknown[0], cls.model_fields)}")
            # A stored rule has all fields, of which all but one are null.
            return {key: value for key, value in declared.items() if value is not None}
        return declared

    @model_validator(mode="after")
    def _one(self) -> ThresholdRule:
        if len(self.model_fields_set) != 1:
            raise ValueError(
                f"{len(self.model_fields_set)} rules are set; set one of {', '.join(type(self).model_fields)}"
            )
        if self.value is not None and not 0 <= self.value <= NEVER:
            raise ValueError(f"the threshold is {self.value:g}, but must be a number from 0 to 1")
        return self

    @property
    def cost_columns(self) -> list[str]:
        """Return the names of the columns with the costs of the rows, each once."""
        return [] if self.cost is None else parse_costs(self.cost).columns

    def __str__(self) -> str:
        if self.maximise:
            return f"greatest {self.maximise}"
        if self.precision is not None:
            return f"precision at least {self.precision:g}"
        if self.recall is not None:
            return f"recall at least {self.recall:g}"
        if self.cost is not None:
            positive, negative = (
                f"column {cost!r}" if isinstance(cost, str) else f"{cost:g}"
                for cost in (self.cost["false_positive"], self.cost["false_negative"])
            )
            return f"least cost (false positive {positive}, false negative {negative})"
        return "given as a number"


def _as_rule(declared: Any) -> Any:
    if declared is None or isinstance(declared, (Mapping, ThresholdRule)):
        return declared
    try:
        # A template renders to text, which may contain a number.
        return {"value": float("nan" if isinstance(declared, bool) else declared)}
    except (TypeError, ValueError):
        raise ValueError(
            f"{declared!r} is not a threshold; use a number from 0 to 1, or a rule such as {{'maximise': 'f1'}}, "
            "{'precision': 0.9}, {'recall': 0.9} or {'cost': {'false_positive': 1, 'false_negative': 20}}"
        ) from None


ThresholdInput = Annotated[ThresholdRule | None, BeforeValidator(_as_rule)]
"""Reads a rule, a number from 0 to 1, or ``None``."""


class _Declared(Model):
    threshold: ThresholdInput


def check_threshold(declared: Any, where: str) -> None:
    """Validate a threshold in a DAG file.

    :param declared: the declared threshold
    :param where: start of the error message, such as ``The threshold of task 'train'``
    :raises SpecError: the threshold is neither a valid rule nor a number from 0 to 1
    """
    parse(_Declared, {"threshold": declared}, where)
