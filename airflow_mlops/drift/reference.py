"""What the drift of a window is measured against."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_serializer, model_validator

from airflow_mlops.core.base import Model
from airflow_mlops.core.durations import Period
from airflow_mlops.core.windows import Window

TRAINING = "training"


class Reference(Model):
    """What the drift of features and scores is measured against: training, unless one of the two fields is given.

    Written as text it is ``training``.

    :param rolling: the last so many windows that were checked before
    :param season: how much earlier the window lies that a window is like, by the calendar: ``P1Y`` compares December
        with last December
    """

    rolling: int | None = Field(default=None, ge=1)
    season: Period | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str) and value != TRAINING:
            raise ValueError(f"{value!r} is no reference: write 'training', {{'rolling': 3}} or {{'season': 'P1Y'}}")
        return {} if value in (TRAINING, None) else value

    @model_validator(mode="after")
    def _one_of_them(self) -> Reference:
        if self.rolling is not None and self.season is not None:
            raise ValueError("rolling and season cannot both be the reference: choose one")
        return self

    @model_serializer
    def _to_json(self) -> str | dict[str, int | str]:
        return {name: value for name, value in self.__dict__.items() if value is not None} or TRAINING

    def __str__(self) -> str:
        if self.season is not None:
            return f"the window {self.season} earlier"
        return TRAINING if self.rolling is None else f"the last {self.rolling} windows before"


class DriftReference(Model):
    """What drift was measured against.

    :param asked: what was asked for
    :param features: the earlier windows that features were compared with, by time; none where that was training
    :param scores: those of them that the same version scored, with which the scores were compared
    """

    asked: Reference = Reference()
    features: list[Window] = Field(default_factory=list)
    scores: list[Window] = Field(default_factory=list)
