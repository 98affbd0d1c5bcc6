"""The shards of a scoring, see :mod:`airflow_mlops.stages.shards`. All shards use the same model version.

Without mapped tasks, executors score the shards of one task, and the folder is ``scoring/parts/KEY``
(:mod:`airflow_mlops.stages.score.on_executors`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages import shards
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score.spec import ScoreSpec


class Piece(shards.Piece):
    """The predictions of one shard.

    :param details: details for the manifest of the dataset
    :param engine: library that ran the model
    :param seconds: time to read, score and write the rows
    """

    details: dict[str, Any]
    engine: str
    seconds: float


Round: TypeAlias = shards.Round[Piece]


def join(spec: ScoreSpec, context: StepContext) -> Round:
    """Return the round in which the task takes part as the shard ``spec.shard``.

    :raises SpecError: the step runs outside of Airflow, where the other shards are unknown
    """
    return shards.join(spec, context, Piece, "scoring")


def of_one_task(store: ArtifactStore, group: str, shard: int, count: int) -> Round:
    """Return the round of a shard that an executor scores.

    :param group: folder of the shards of the task
    :param shard: index of the shard, from 0
    :param count: number of shards
    """
    return shards.Round(store, Piece, group, 0, shard, count)


def version(found: Round, resolve: Callable[[], ModelVersionRef | None]) -> ModelVersionRef | None:
    """Return the model version that the first shard has claimed.

    :param found: the round
    :param resolve: function that returns the version to claim, or ``None`` if there is no version. All shards are then
        skipped
    :return: the claimed version; ``None`` if all shards are skipped
    """

    def decide() -> Any:
        resolved = resolve()
        return resolved.model_dump(mode="json") if resolved else None

    claimed = found.claim("version", decide)
    return ModelVersionRef.model_validate(claimed) if claimed else None
