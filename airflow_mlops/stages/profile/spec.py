"""Spec and result of profiling a dataset or one shard of a dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetLike, MLflowTarget
from airflow_mlops.profiles.spec import ProfileRef


class ProfileSpec(Spec):
    """The parameters of profiling a dataset or one shard of a dataset.

    :param dataset: the rows to profile
    :param model: name of the model that made the predictions. The features of the model and the scores are profiled
    :param columns: names of the columns to profile, instead of the columns of ``model``. If neither ``model`` nor
        ``columns`` is set, every column of a supported type is profiled
    :param shard: index of the shard to profile, from 0
    :param shards: number of shards into which the rows are divided
    :param on_missing: what to do if there is no dataset or no champion: ``fail`` raises an error, ``skip`` returns no
        profile
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
            raise ValueError(
                f"shard={self.shard} is out of range: with shards={self.shards} it must be between 0 and {self.shards - 1}"
            )
        return self


class ProfileResult(Result):
    """The result of profiling: a reference to the stored profile.

    :param profile: the stored profile; ``None`` if profiling was skipped
    """

    profile: ProfileRef | None
