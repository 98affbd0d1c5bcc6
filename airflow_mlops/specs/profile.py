"""Profiles of datasets, whole or in shards: what is asked and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from airflow_mlops.specs.base import MLflowTarget, Model, Name, Result, Spec
from airflow_mlops.specs.selection import DatasetLike


class ProfileRef(Model):
    """Points at a stored profile of a dataset, or of one shard of it; small enough for XCom.

    :param name: the dataset's name
    :param id: SHA-256 of what is stored
    :param shard: which shard, from 0
    :param shards: how many there are
    :param rows: rows of the shard
    """

    name: Name
    id: str
    shard: int
    shards: int
    rows: int


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


def _as_profiles(value: Any) -> Any:
    """The profiles in the results of upstream tasks, mapped or not; none where they were skipped."""
    given = [value] if isinstance(value, Mapping) else list(value or [])
    return [item["profile"] if isinstance(item, Mapping) and "profile" in item else item for item in given]


ProfilesInput = Annotated[list[ProfileRef], BeforeValidator(_as_profiles)]
