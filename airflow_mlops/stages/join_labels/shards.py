"""The shards of a join of labels, see :mod:`airflow_mlops.stages.shards`.

The counts of all shards are summed before they are checked. The few predictions with an error, or without a label
because of the form of their keys, may all be in one shard.

Without mapped tasks, executors join the shards of one task, and the folder is ``join_labels/parts/KEY``
(:mod:`airflow_mlops.stages.join_labels.on_executors`).
"""

from __future__ import annotations

from typing import TypeAlias

from airflow_mlops.data.datasets import WrittenFiles
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages import shards
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels.counts import Counts
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec


class Piece(shards.Piece):
    """The labelled predictions of one shard. There are no files if a prediction has several labels.

    :param counts: counts of the predictions of the shard
    """

    counts: Counts


Round: TypeAlias = shards.Round[Piece]
NO_FILES = WrittenFiles(columns=[], files=[])


def join(spec: JoinLabelsSpec, context: StepContext) -> Round:
    """Return the round in which the task takes part as the shard ``spec.shard``.

    :raises SpecError: the step runs outside of Airflow, where the other shards are unknown
    """
    return shards.join(spec, context, Piece, "join_labels")


def of_one_task(store: ArtifactStore, group: str, shard: int, count: int) -> Round:
    """Return a shard of a join by executors.

    :param group: folder of the shards of the task
    :param shard: index of the shard, from 0
    :param count: number of shards
    """
    return shards.Round(store, Piece, group, 0, shard, count)
