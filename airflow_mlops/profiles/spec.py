"""References to stored profiles, and quantiles of the label delay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from airflow_mlops.core.base import Model, Name


class ProfileRef(Model):
    """A reference to the stored profile of a dataset or of one of its shards. The reference is small enough for XCom.

    :param name: name of the dataset
    :param id: SHA-256 of the stored file
    :param shard: index of the shard, from 0
    :param shards: number of shards
    :param rows: number of rows of the shard
    """

    name: Name
    id: str
    shard: int
    shards: int
    rows: int


def _as_profiles(value: Any) -> Any:
    """Return the references in the outputs of upstream tasks, mapped or not; empty if these tasks were skipped."""
    given = [value] if isinstance(value, Mapping) else list(value or [])
    return [item["profile"] if isinstance(item, Mapping) and "profile" in item else item for item in given]


ProfilesInput = Annotated[list[ProfileRef], BeforeValidator(_as_profiles)]


class LabelDelay(Model):
    """Quantiles of the time from events to the arrival of their labels, in days.

    :param median: 50% quantile
    :param p90: 90% quantile
    :param p99: 99% quantile
    """

    median: float
    p90: float
    p99: float
