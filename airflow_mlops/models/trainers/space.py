"""The search space, which defines the range or the choices of each searched parameter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from airflow_mlops.core.base import Model

Number = Annotated[float, Field(allow_inf_nan=False)]
Scalar = str | int | float | bool | None


class FloatSpec(Model):
    """The range of a floating-point parameter, with ``low`` and ``high`` included.

    :param log: whether to sample on a logarithmic scale
    :param step: restricts the values to ``low``, ``low + step``, ...
    """

    kind: Literal["float"] = "float"
    low: Number
    high: Number
    log: bool = False
    step: Annotated[Number, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> FloatSpec:
        _check_range(self.low, self.high)
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}, but with log=True it must be greater than 0")
        if self.log and self.step is not None:
            raise ValueError("log=True and step= cannot be combined; remove one of them")
        return self

    @property
    def ends(self) -> Sequence[Any]:
        """Return the lowest and the highest value."""
        return self.low, self.high


class IntSpec(Model):
    """The range of an integer parameter, with ``low`` and ``high`` included.

    :param log: whether to sample on a logarithmic scale
    :param step: restricts the values to ``low``, ``low + step``, ...
    """

    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    step: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> IntSpec:
        _check_range(self.low, self.high)
        if self.log and self.low < 1:
            raise ValueError(f"low is {self.low}, but with log=True it must be at least 1")
        if self.log and self.step != 1:
            raise ValueError("log=True and step= cannot be combined; remove one of them")
        return self

    @property
    def ends(self) -> Sequence[Any]:
        """Return the lowest and the highest value."""
        return self.low, self.high


class CategoricalSpec(Model):
    """The choices of a categorical parameter. Each choice can be any JSON value."""

    kind: Literal["categorical"] = "categorical"
    choices: list[Any] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> CategoricalSpec:
        labels = self.labels
        for position, label in enumerate(labels):
            if (first := labels.index(label)) < position:
                raise ValueError(
                    f"the choices {self.choices[first]!r} and {self.choices[position]!r} are equal; remove one of them"
                )
        return self

    @property
    def labels(self) -> list[Scalar]:
        """Return each choice in the form in which Optuna stores choices: a text or a number."""
        return [
            value if value is None or isinstance(value, str | int | float) else _text(value) for value in self.choices
        ]

    @property
    def ends(self) -> Sequence[Any]:
        """Return all choices."""
        return self.choices


def _text(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError:
        raise ValueError(
            f"the choice {value!r} cannot be stored as JSON: use text, numbers, booleans or null"
        ) from None


def _check_range(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low ({low:g}) is greater than high ({high:g})")


def _kind(value: Any) -> str:
    return str(value.get("kind", "") if isinstance(value, dict) else getattr(value, "kind", ""))


ParameterSpec = Annotated[
    Annotated[FloatSpec, Tag("float")]
    | Annotated[IntSpec, Tag("int")]
    | Annotated[CategoricalSpec, Tag("categorical")],
    Discriminator(
        _kind,
        custom_error_type="parameter_kind",
        custom_error_message="each parameter in space must be a Float, an Int or a Categorical of airflow_mlops.trainers",
    ),
]
