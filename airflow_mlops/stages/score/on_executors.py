"""Score a dataset in parts that executors score at the same time, see :mod:`airflow_mlops.stages.executors`.

The parts are shards (:mod:`airflow_mlops.stages.score.shards`) of one task. Each executor writes the files of its
shard, and only the first files of a shard count. The step commits the dataset when all shards are scored. A retry
scores only the shards that no earlier try has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data import row_spans, sent_datasets
from airflow_mlops.data.datasets import Dataset, Manifest
from airflow_mlops.data.predictions.privacy import Privacy
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import sent_models
from airflow_mlops.models.sent_models import SentModel
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score.scoring import Scoring, batch_rows
from airflow_mlops.stages.score.shards import Round, of_one_task
from airflow_mlops.stages.score.spec import ScoreSpec


def parts(spec: ScoreSpec, datasets: Sequence[Dataset], context: StepContext) -> Round:
    """Return the round whose shards the executors score.

    All tries of a task share the same shards. A cleared task gets new shards.

    :param datasets: datasets to score
    :param context: context with a key that is not empty
    """
    count = row_spans.count(datasets, spec.part, batch_rows(datasets, spec.part))
    task = context.key.removeprefix("results/").removesuffix(".json")
    return of_one_task(context.store, f"scoring/parts/{task}", 0, count)


def score(
    scoring: Scoring,
    spec: ScoreSpec,
    shards: Round,
    send: Callable[[], AbstractContextManager[SentModel]],
) -> tuple[Manifest, str]:
    """Score the shards that are missing, and commit the dataset of predictions.

    :param scoring: what is scored
    :param spec: parameters of the step
    :param shards: the shards, from :func:`parts`
    :param send: function that passes the model to the executors
    :return: manifest of the dataset, and name of the library that ran the model
    """
    context = scoring.context
    missing = [number for number in range(shards.shards) if shards.of(number).piece() is None]
    if missing:
        with send() as model:
            arguments = {
                "spec": spec.model_dump(mode="json"),
                "datasets": [sent_datasets.describe(dataset) for dataset in scoring.datasets],
                "window": scoring.window.model_dump(mode="json") if scoring.window else None,
                "version": scoring.version.model_dump(mode="json"),
                "model": model.model_dump(mode="json"),
                "group": shards.group,
                "shards": shards.shards,
                "key": context.key,
                "provenance": context.provenance.model_dump(mode="json"),
            }
            conn_ids = [spec.hash_conn_id] if spec.hash_conn_id else []
            context.spread("airflow_mlops.stages.score.on_executors:score_shard", arguments, missing, conn_ids)
    manifest = scoring.dataset_of_shards(shards)
    piece = shards.piece()
    assert manifest is not None  # only the step commits the shards
    assert piece is not None
    return manifest, piece.engine


def score_shard(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> int:
    """Score one shard on an executor.

    :param number: index of the shard, from 0
    :return: number of scored rows
    """
    spec = ScoreSpec.model_validate(arguments["spec"])
    scoring = Scoring(
        [sent_datasets.restore(store, text) for text in arguments["datasets"]],
        ModelVersionRef.model_validate(arguments["version"]),
        spec.predictions,
        spec.part,
        Window.model_validate(arguments["window"]) if arguments["window"] else None,
        StepContext(store, arguments["key"], provenance=Provenance.model_validate(arguments["provenance"])),
        Privacy.of(spec.hash_columns, spec.drop_columns, spec.hash_conn_id, from_environment),
        spec.shadow,
    )
    model = SentModel.model_validate(arguments["model"])
    shard = of_one_task(store, arguments["group"], number, arguments["shards"])
    return scoring.one_shard(shard, lambda: sent_models.load(store, model)).rows
