"""Profiles of datasets, whole or in shards: what is asked and what comes back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetLike, MLflowTarget
from airflow_mlops.profiles.spec import ProfileRef


class ProfileSpec(Spec):
    """Profile a dataset, or one shard of it.

    :param model: whose features, and the score, are profiled; the version that made the predictions says which they are
    :param columns: what is profiled instead; without either, every column that can have a profile
    :param shard: which part of the rows, from 0
    :param shards: into how many parts the rows are dealt
    :param on_missing: what to do while there is no dataset, or no champion: ``fail``, or ``skip`` and return no profile
    """

    dataset: DatasetLike
    model: Name | None = None
    columns: list[str] | None = Field(default=None, min_length=1)
    shard: int = Field(default=0, ge=0)
    shards: int = Field(default=1, ge=1)
    on_missing: Literal["fail", "skip"] = "fail"
    mlflow: MLflowTarget = MLflowTarget()

    @model_validator(mode="after")
    def _one_of_them(self) -> ProfileSpec:
        if self.shard >= self.shards:
            raise ValueError(f"there is no shard {self.shard} of {self.shards}: they count from 0")
        return self


class ProfileResult(Result):
    """Where the profile is.

    :param profile: ``None`` if something was missing and was skipped
    """

    profile: ProfileRef | None
