"""The parameters of a step that mapped tasks run in shards."""

from __future__ import annotations

from pydantic import Field, model_validator

from airflow_mlops.core.calls import Spec


class ShardedSpec(Spec):
    """Parameters of a step whose rows can be divided into shards, one for each instance of a mapped task.

    :param shard: index of the shard of this task, from 0; by default the task processes all rows
    :param shards: number of shards into which the rows are divided
    :param succeeded: map indexes of the instances of the mapped task that have succeeded, in ascending order. They do
        not affect the key of the result
    :param others_succeeded: whether all other instances of the mapped task have succeeded. It does not affect the key of
        the result
    """

    shard: int | None = Field(default=None, ge=0)
    shards: int | None = Field(default=None, ge=1)
    succeeded: list[int] = Field(default_factory=list)
    others_succeeded: bool = False

    @model_validator(mode="after")
    def _one_of_the_shards(self) -> ShardedSpec:
        if self.shard is None and self.shards is None:
            return self
        if self.shards is None:
            raise ValueError(f"shard={self.shard} is set, but `shards` is not. Set `shards` to the number of shards.")
        if self.shard is None:
            raise ValueError(
                f"shards={self.shards} is set, but `shard` is not. Map the task with "
                f".partial(..., shards={self.shards}).expand(shard=list(range({self.shards})))."
            )
        if self.shard >= self.shards:
            raise ValueError(
                f"shard={self.shard} is out of range: with shards={self.shards} it must be between 0 and {self.shards - 1}"
            )
        return self
