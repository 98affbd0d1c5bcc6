"""The reference of drift: training, or earlier windows."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_serializer, model_validator

from airflow_mlops.core.base import Model
from airflow_mlops.core.durations import Period
from airflow_mlops.core.windows import Window

TRAINING = "training"


def at_reference(name: str) -> str:
    """The time of a reference by its name: ``at training``, or as in ``in 2012-12``."""
    return f"at {TRAINING}" if name == TRAINING else f"in {name}"


class Reference(Model):
    """The reference with which features and scores are compared.

    By default it is the training set, which is written as the text ``training``. At most one of the two fields may be
    set.

    :param rolling: compare with this number of windows, the last ones that were checked
    :param season: compare with the window this ISO 8601 period earlier, by the calendar: ``P1Y`` compares December with
        last December
    """

    rolling: int | None = Field(default=None, ge=1)
    season: Period | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str) and value != TRAINING:
            raise ValueError(f"{value!r} is not a reference: write 'training', {{'rolling': 3}} or {{'season': 'P1Y'}}")
        return {} if value in (TRAINING, None) else value

    @model_validator(mode="after")
    def _one_of_them(self) -> Reference:
        if self.rolling is not None and self.season is not None:
            raise ValueError("only one of rolling and season can be the reference: remove the other")
        return self

    @model_serializer
    def _to_json(self) -> str | dict[str, int | str]:
        return {name: value for name, value in self.__dict__.items() if value is not None} or TRAINING

    def __str__(self) -> str:
        if self.season is not None:
            return f"the window {self.season} earlier"
        return TRAINING if self.rolling is None else f"the last {self.rolling} windows before"


class DriftReference(Model):
    """The reference that a check used.

    :param asked: the configured reference
    :param features: the earlier windows with which features were compared, by time; empty if that was training
    :param scores: the windows among them with which scores were compared: those that the same model version scored
    """

    asked: Reference = Reference()
    features: list[Window] = Field(default_factory=list)
    scores: list[Window] = Field(default_factory=list)
