"""Training sets of forecast rows: the gap of their split, and what later steps need to know.

A forecast row belongs to an origin, its event time, and has a later target time. Rows of different origins have the same
target, so only a split by time with a gap of the horizon keeps targets apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SpecError, named
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.spool import Rows
from airflow_mlops.metrics.forecasts import DETAIL, NAIVE, SCALE, statistical_of
from airflow_mlops.stages.training_set.spec import Split, TrainingSetSpec


def forecast_of(spec: TrainingSetSpec, datasets: Sequence[Dataset]) -> dict[str, Any] | None:
    """Return the description of the forecast if the events are forecast rows, otherwise ``None``.

    :raises SpecError: only some datasets have forecast rows, or these differ; the event time is not the origin; or ``keys``
        do not identify the value
    """
    found = [dataset.manifest.details.get(DETAIL) for dataset in datasets]
    if not any(found):
        return None
    forecast: dict[str, Any] = found[0] or {}
    if any(other != forecast for other in found):
        raise SpecError(
            f"The datasets {datasets[0].manifest.name!r} are not all forecast rows with the same parameters. Set `entities` to the "
            "output of one BuildForecastRowsOperator."
        )
    keys = [*forecast["series"], forecast["time"]]
    if spec.timestamp != forecast["origin"]:
        raise SpecError(
            f"The events are forecast rows, but `timestamp` is {spec.timestamp!r}. Set it to {forecast['origin']!r}, because nothing "
            "later is known when the forecast is made."
        )
    if missing := [name for name in keys if name not in spec.keys]:
        raise SpecError(
            f"The events are forecast rows, but `keys` lack the {named('column', missing)}. Set `keys` to {keys!r}, by which actual "
            "values are joined."
        )
    return forecast


def detail(forecast: dict[str, Any] | None, spec: TrainingSetSpec) -> dict[str, Any]:
    """Return the entry for the manifest by which later steps recognise forecasts.

    The entry is empty if the events are not forecast rows, or if the label is not the forecast value itself. In the
    second case, the seasonal-naive forecast and the label have different units.
    """
    if forecast is None or (
        spec.label is not None and (spec.label.name != forecast["value"] or spec.label.expression is not None)
    ):
        return {}
    return {DETAIL: forecast}


def with_columns(spec: TrainingSetSpec, forecast: dict[str, Any] | None) -> TrainingSetSpec:
    """Return the spec with all columns that the metrics of forecasts need. Some of these columns are not features."""
    if not detail(forecast, spec):
        return spec
    missing = [
        name
        for name in (SCALE, NAIVE, *statistical_of({DETAIL: forecast}))
        if name not in (*spec.columns, *spec.watched)
    ]
    return spec.model_copy(update={"watched": [*spec.watched, *missing]})


def with_gap(split: Split, forecast: dict[str, Any], table: pa.Table | Rows) -> Split:
    """Return the split with a gap of the horizon.

    :param table: the forecast rows
    :raises SpecError: the method is not ``time``, or the gap is shorter than the horizon
    """
    if split.method != "time":
        raise SpecError(
            f"The events are forecast rows, but the method of the split is {split.method!r}. Set `split` to 'time', because rows "
            "of different origins have the same target."
        )
    names = [forecast["time"], forecast["origin"]]
    furthest, start = 0, 0
    for batch in table.select(names).to_batches():
        target, origin = (as_utc(batch[name], f"Column {name!r}", first_row=start).cast(pa.int64()) for name in names)
        furthest = max(furthest, pc.max(pc.subtract(target, origin)).as_py() or 0)
        start += batch.num_rows
    ahead = timedelta(microseconds=furthest)
    if split.gap is not None and split.gap < ahead:
        raise SpecError(
            f"The `gap` of the split is {split.gap}, but forecasts reach {ahead} ahead. Remove `gap`, or set it to at least this time."
        )
    return split if split.gap is not None else split.model_copy(update={"gap": ahead})
