"""The reference with which a window is compared: the training set or earlier windows."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_serializer, model_validator

from airflow_mlops.core.base import Model
from airflow_mlops.core.durations import Period
from airflow_mlops.core.windows import Window

TRAINING = "training"


def at_reference(name: str) -> str:
    """Return the time of a reference as text, such as ``at training`` or ``in 2012-12``.

    :param name: ``training``, or the label of earlier windows
    """
    return f"at {TRAINING}" if name == TRAINING else f"in {name}"


class Reference(Model):
    """The reference with which features and scores are compared.

    By default, the reference is the training set. In a DAG file, this is the text ``training``. Set at most one of the
    two fields.

    :param rolling: number of earlier windows to compare with: the last checked windows before the current window
    :param season: ISO 8601 period from the earlier window to the checked window, in calendar time: ``P1Y`` compares
        December with the December of the year before
    """

    rolling: int | None = Field(default=None, ge=1)
    season: Period | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str) and value != TRAINING:
            raise ValueError(f"{value!r} is not a reference: use 'training', {{'rolling': 3}} or {{'season': 'P1Y'}}")
        return {} if value in (TRAINING, None) else value

    @model_validator(mode="after")
    def _one_of_them(self) -> Reference:
        if self.rolling is not None and self.season is not None:
            raise ValueError("'rolling' and 'season' cannot be combined: remove one of them")
        return self

    @model_serializer
    def _to_json(self) -> str | dict[str, int | str]:
        return {name: value for name, value in self.__dict__.items() if value is not None} or TRAINING

    def __str__(self) -> str:
        if self.season is not None:
            return f"the window {self.season} earlier"
        return TRAINING if self.rolling is None else f"the last {self.rolling} windows before"


class DriftReference(Model):
    """The reference that a drift check used.

    :param asked: the reference in the configuration of the drift check
    :param features: the earlier windows with which the features were compared, ordered by time; empty if the features
        were compared with the training set
    :param scores: the earlier windows with which the scores were compared. These are the windows in ``features`` in
        which the same model version made the predictions
    """

    asked: Reference = Reference()
    features: list[Window] = Field(default_factory=list)
    scores: list[Window] = Field(default_factory=list)
