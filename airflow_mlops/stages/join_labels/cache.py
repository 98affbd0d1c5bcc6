"""Cache support of the stage ``join_labels``, see :mod:`airflow_mlops.stages.cache`."""

from __future__ import annotations

from typing import Any

from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.data.selection import contents, select
from airflow_mlops.stages.cache import point_to, require_unpurged, verified
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels.hashing import pseudonymizers
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec
from airflow_mlops.stages.join_labels.step import slots


def inputs(spec: JoinLabelsSpec, context: StepContext) -> dict[str, Any]:
    """Return the inputs of the join: the predictions and the labels.

    :raises NotCacheableError: the rows are divided into shards, or a dataset was purged
    :raises SchemaError: see :func:`~airflow_mlops.stages.join_labels.hashing.pseudonymizers`
    :raises SpecError: see :func:`~airflow_mlops.stages.join_labels.hashing.pseudonymizers`
    """
    if spec.shards is not None:
        raise NotCacheableError("a join of labels in shards is not cached")
    predictions = select(context.store, spec.predictions, kept=context.kept)
    labels = select(context.store, spec.labels, kept=context.kept)
    require_unpurged([*predictions, *labels])
    # The inputs contain no secret key. This call checks that the connection still has the key that scoring used.
    pseudonymizers(predictions, spec, context)
    return {
        "spec": spec.model_dump(mode="json", exclude={"predictions", "labels", "model", "mlflow"}),
        "predictions": contents(predictions),
        "labels": contents(labels),
    }


def artifacts(result: JoinLabelsResult, spec: JoinLabelsSpec, context: StepContext) -> dict[str, str]:
    """Check the files of the labelled predictions against their hashes, and return the name and id of the dataset.

    :raises NotCacheableError: no labels were joined, or the dataset was purged
    :raises MLOpsError: the dataset does not exist any more, or was changed
    """
    if result.dataset is None:
        raise NotCacheableError("no labels were joined")
    return verified(context.store, result.dataset)


def replay(result: JoinLabelsResult, spec: JoinLabelsSpec, context: StepContext) -> None:
    """Make the labelled predictions the current dataset of their window, and point the slots of the step at them."""
    assert result.dataset is not None  # artifacts() has checked this
    predictions = select(context.store, spec.predictions, kept=context.kept)
    point_to(context.store, result.dataset, slots(predictions))
