"""Cache support of the stage ``training_set``, see :mod:`airflow_mlops.stages.cache`."""

from __future__ import annotations

from typing import Any

from airflow_mlops.data.feast import remembered
from airflow_mlops.data.run_windows import resolve_window
from airflow_mlops.data.selection import contents, select
from airflow_mlops.stages.cache import point_to, require_unpurged, verified
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.training_set.spec import TrainingSetResult, TrainingSetSpec


def inputs(spec: TrainingSetSpec, context: StepContext) -> dict[str, Any]:
    """Return the inputs of the training set.

    They are the events, the window, the features with their sources, and the features that are left out.

    :raises NotCacheableError: a dataset of events was purged, or a source of features has no hash
    """
    resolved = resolve_window(spec.window, spec.entities, context.store)
    entities = resolved.entities if resolved else spec.entities
    datasets = select(context.store, entities, spec.timestamp, context.kept)
    require_unpurged(datasets)
    return {
        "spec": spec.model_dump(mode="json", exclude={"entities"}),
        "window": resolved.describe() if resolved else None,
        "datasets": contents(datasets),
        "features": _features(spec, context),
        "without": sorted(context.provenance.left_out()) if spec.label else [],
    }


def _features(spec: TrainingSetSpec, context: StepContext) -> dict[str, Any]:
    if spec.repo is None or (spec.feature_service is None and not spec.features):
        return {}
    return remembered.content(
        context.store, spec.repo, [spec.feature_service, spec.features], lambda: _with_feast(spec)
    )


def _with_feast(spec: TrainingSetSpec) -> tuple[dict[str, Any], list[remembered.Source] | None]:
    from airflow_mlops.stages.training_set.features import FeatureSource

    return FeatureSource(spec).described()


def artifacts(result: TrainingSetResult, spec: TrainingSetSpec, context: StepContext) -> dict[str, str]:
    """Check the files of the training set against their hashes, and return its name and id."""
    return verified(context.store, result.dataset)


def replay(result: TrainingSetResult, spec: TrainingSetSpec, context: StepContext) -> None:
    """Make the training set the current one of its window."""
    point_to(context.store, result.dataset)
