"""The shards of a join of labels, see :mod:`airflow_mlops.stages.shards`.

The counts of all shards are summed before they are checked. The few predictions with an error, or without a label
because of the form of their keys, may all be in one shard.
"""

from __future__ import annotations

from typing import TypeAlias

from airflow_mlops.data.datasets import WrittenFiles
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
