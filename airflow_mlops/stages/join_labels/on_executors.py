"""Join labels in parts that executors join at the same time, see :mod:`airflow_mlops.stages.executors`.

The parts are shards (:mod:`airflow_mlops.stages.join_labels.shards`) of one task. Each executor writes the files of its
shard, and only the first files of a shard count. The step checks the counts of all shards and commits the dataset. A
retry joins only the shards that no earlier try has finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from airflow_mlops.data import relational, row_spans, sent_datasets
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import joining
from airflow_mlops.stages.join_labels.hashing import pseudonymizers
from airflow_mlops.stages.join_labels.joining import Join
from airflow_mlops.stages.join_labels.shards import Piece, of_one_task
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec

# Each part reads all labels. Per row, this takes about a sixth of the time that a prediction takes. With at most this
# many labels per prediction in a part, all parts together need little more than twice the CPU time of a single pass.
_LABELS_PER_PREDICTION = 8


def pieces(join: Join, folder: str, context: StepContext) -> list[Piece]:
    """Join labels to the shards that are missing, and return the pieces of all shards, ordered by shard.

    All tries of a task share the same shards. A cleared task gets new shards.

    :param join: the join of all predictions
    :param folder: subfolder for the files of the joined dataset
    :raises DatasetCorruptError: files that an earlier try has written were deleted or changed
    """
    context = context.for_call()
    task = context.key.removeprefix("results/").removesuffix(".json")
    labels = sum(file.rows for dataset in join.labels for file in dataset.files())
    count = row_spans.count_of_pieces(join.predictions, joining.FILE_ROWS, labels // _LABELS_PER_PREDICTION)
    shards = of_one_task(context.store, f"join_labels/parts/{task}", 0, count)
    missing = [number for number in range(count) if shards.of(number).piece() is None]
    if missing:
        arguments = {
            "spec": join.spec.model_dump(mode="json"),
            "predictions": [sent_datasets.describe(dataset) for dataset in join.predictions],
            "labels": [sent_datasets.describe(dataset) for dataset in join.labels],
            "folder": folder,
            "group": shards.group,
            "shards": count,
        }
        conn_ids = [join.spec.hash_conn_id] if join.spec.hash_conn_id else []
        context.spread("airflow_mlops.stages.join_labels.on_executors:join_shard", arguments, missing, conn_ids)
    found = shards.pieces()
    assert found is not None  # each part has stored its piece
    return found


def join_shard(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> int:
    """Join labels to one shard on an executor.

    :param number: index of the shard, from 0
    :return: number of predictions
    """
    spec = JoinLabelsSpec.model_validate(arguments["spec"])
    predictions, labels = (
        [sent_datasets.restore(store, text) for text in arguments[name]] for name in ("predictions", "labels")
    )
    hashed = pseudonymizers(predictions, spec, StepContext(store))
    join = Join(predictions, labels, spec, hashed, relational.connect_on_one_cpu)
    shard = of_one_task(store, arguments["group"], number, arguments["shards"])
    return join.one_shard(shard, partial(DatasetWriter, store, spec.name, arguments["folder"])).rows
