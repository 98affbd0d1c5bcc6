"""When monitoring asks for retraining, and when to look closer."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.durations import Duration
from airflow_mlops.performance.thresholds import PerformanceThresholds

Measured = Literal["performance", "estimated_performance", "drift"]
Trigger = Literal["no_champion", "performance", "estimated_performance", "drift", "age", "new_data", "new_code"]
"""What may ask for retraining. Those of :data:`Measured` vary from window to window by chance, the others do not."""


class Persistence(Model):
    """How often a measured trigger must have held: in ``k`` of the last ``n`` windows, this one included."""

    k: int = Field(default=1, ge=1)
    n: int = Field(default=1, ge=1, le=36)

    @model_validator(mode="after")
    def _possible(self) -> Persistence:
        if self.k > self.n:
            raise ValueError(f"k={self.k} of the last n={self.n} windows is more than there are")
        return self


class Budget(Model):
    """At most so many ``requests`` for retraining in any ``period``."""

    requests: int = Field(ge=1)
    period: Duration


class NewData(Model):
    """How much must have come since the end of the champion's training data.

    :param dataset: the dataset that is learned from, by name
    :param windows: so many windows of it; or
    :param share: so many rows of it, as a share of the rows of the champion's training set
    """

    dataset: Name
    windows: int | None = Field(default=None, ge=1)
    share: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> NewData:
        if (self.windows is None) == (self.share is None):
            raise ValueError("give either windows or share")
        return self


class Policy(PerformanceThresholds):
    """When to ask for retraining, and when to look closer.

    :param max_staleness: how long before a window's end its newest row may be
    :param retrain_on: what is measured in a window and may ask for retraining: ``performance`` where the realised one is
        certainly worse, ``estimated_performance`` where the estimated one is and labels are still to come, ``drift`` of
        features with at least ``min_importance``
    :param min_importance: the share of the model's permutation importance that drifted features must hold together
    :param max_age: retrain when the champion's training data ended longer ago than this, seen from the window's end
    :param new_data: retrain when so much has come since the champion's training data ended
    :param code: the version of the code that trains, such as a git commit: retrain when the champion's MLflow run has
        another one in its tag ``mlops.code_version``
    :param persistence: in how many windows what ``retrain_on`` names must hold
    :param cooldown: between the ends of two windows that ask for retraining lies at least this
    :param budget: how many windows may ask for retraining in a period, counted by their ends
    """

    max_staleness: Duration | None = None
    retrain_on: tuple[Measured, ...] = ("performance",)
    min_importance: float = Field(default=0.5, gt=0, le=1)
    max_age: timedelta | None = None
    new_data: NewData | None = None
    code: str | None = Field(default=None, min_length=1)
    persistence: Persistence = Persistence()
    cooldown: Duration | None = None
    budget: Budget | None = None
