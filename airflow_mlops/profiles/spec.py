"""What other floors say about profiles: references small enough for XCom, and label delays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from airflow_mlops.core.base import Model, Name


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


def _as_profiles(value: Any) -> Any:
    """The profiles in the results of upstream tasks, mapped or not; none where they were skipped."""
    given = [value] if isinstance(value, Mapping) else list(value or [])
    return [item["profile"] if isinstance(item, Mapping) and "profile" in item else item for item in given]


ProfilesInput = Annotated[list[ProfileRef], BeforeValidator(_as_profiles)]


class LabelDelay(Model):
    """How long after their event labels came, in days: half of them within ``median``, 90% within ``p90``."""

    median: float
    p90: float
    p99: float
