"""Cache support of the stage ``forecast_rows``, see :mod:`airflow_mlops.stages.cache`."""

from __future__ import annotations

from typing import Any

from airflow_mlops.data.run_windows import resolve_window
from airflow_mlops.data.selection import contents, select
from airflow_mlops.stages.cache import point_to, require_unpurged, verified
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsResult, ForecastRowsSpec


def inputs(spec: ForecastRowsSpec, context: StepContext) -> dict[str, Any]:
    """Return the inputs of the rows: the history and its window.

    :raises NotCacheableError: a dataset of the history was purged
    """
    resolved = resolve_window(spec.window, spec.entities, context.store)
    datasets = select(context.store, resolved.entities if resolved else spec.entities, spec.time, context.kept)
    require_unpurged(datasets)
    return {
        "spec": spec.model_dump(mode="json", exclude={"entities"}),
        "window": resolved.describe() if resolved else None,
        "datasets": contents(datasets),
    }


def artifacts(result: ForecastRowsResult, spec: ForecastRowsSpec, context: StepContext) -> dict[str, str]:
    """Check the files of the rows against their hashes, and return the name and id of the dataset."""
    return verified(context.store, result.dataset)


def replay(result: ForecastRowsResult, spec: ForecastRowsSpec, context: StepContext) -> None:
    """Make the rows the current dataset of their window."""
    point_to(context.store, result.dataset)
