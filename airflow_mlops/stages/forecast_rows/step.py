"""Make the rows with which a regression learns to forecast many series, or the rows to score."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import EmptyWindowError, SchemaError, SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data import relational
from airflow_mlops.data.datasets import Dataset, DatasetWriter
from airflow_mlops.data.moments import UTC
from airflow_mlops.data.run_windows import ResolvedWindow, resolve_window
from airflow_mlops.data.selection import coverage, dates_detail, select, window_of
from airflow_mlops.data.spool import Rows, spooled
from airflow_mlops.data.window_rows import inside
from airflow_mlops.metrics.forecasts import DETAIL, NAIVE, SCALE
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.forecast_rows import query, statistical
from airflow_mlops.stages.forecast_rows.grid import Grid
from airflow_mlops.stages.forecast_rows.history import History
from airflow_mlops.stages.forecast_rows.spec import ORIGIN, STEP, ForecastRowsResult, ForecastRowsSpec
from airflow_mlops.stages.forecast_rows.statistical import Forecasts

# With fewer values per step, the length of a step is probably wrong, and almost all values of the rows would be null.
_FEWEST_VALUES = 0.01


class Facts(NamedTuple):
    """Facts about a history.

    :param series: number of series
    :param steps: number of steps from the first to the last value, summed over the series
    :param repeated: a series with several rows in one step, and the number of this step; ``None`` if no series has
        several rows in one step
    """

    series: int
    steps: int
    repeated: tuple[dict[str, Any], int] | None


def run(spec: ForecastRowsSpec, context: StepContext) -> ForecastRowsResult:
    """Make the rows and write them to the artifact store as a dataset.

    :raises EmptyWindowError: the history has no values, or no row can be made from them
    :raises SchemaError: a column is absent or has the wrong type, the times are not regular, a series has several values
        for a time, or columns that are known in advance are absent for a target time
    :raises SpecError: the window rule selects no time, or fewer steps than a feature needs; or a
        statistical model does not exist
    :raises TrainingError: a statistical model failed in every fit
    :raises IncompleteWindowError: a part of the window is not covered by any dataset
    """
    resolved = resolve_window(spec.window, spec.entities, context.store)
    datasets = select(context.store, resolved.entities if resolved else spec.entities, spec.time, context.kept)
    history = History(spec, datasets)
    name = datasets[0].manifest.name
    if resolved is not None and resolved.rule.kind == "rolling":
        _require_long_enough(history.grid, resolved, spec)
    with spooled(history.batches(), history.schema) as events, relational.connect(spec.memory_limit) as connection:
        if history.newest is None:
            raise EmptyWindowError(
                f"Dataset {name!r} has no values of {spec.value!r}. Set `window` to a window with values."
            )
        facts = _facts(connection, spec, events)
        _check(facts, spec, history, name)
        context.progress(f"Computing features of {facts.series:,} series.")
        if spec.origins == "newest" and resolved is not None:
            _require_inside(history, resolved.run, datasets, spec)
        with statistical.forecast(spec, context, connection, events, history.newest, facts.series) as forecasts:
            return _write(spec, context, datasets, history, events, facts, forecasts, connection, resolved)


def _facts(connection: Any, spec: ForecastRowsSpec, events: Rows) -> Facts:
    batches = relational.stream(connection, query.summary(spec), {"events": (events.schema, events.to_batches())})
    (found,) = pa.Table.from_batches(batches).to_pylist()
    series = {name: found[f"s{n}"] for n, name in enumerate(spec.series)}
    return Facts(found["series"], found["steps"], (series, found["p"]) if found["n"] > 1 else None)


def _check(facts: Facts, spec: ForecastRowsSpec, history: History, name: str) -> None:
    if facts.repeated is not None:
        series, number = facts.repeated
        at = history.grid.times(np.array([number]), history.rest)[0].as_py()
        raise SchemaError(
            f"Dataset {name!r} has several rows for {', '.join(f'{key}={value!r}' for key, value in series.items())} in the step of "
            f"{spec.time} {at}. Add up or drop rows where the data is ingested, so that each series has one row for each step."
        )
    if facts.steps * _FEWEST_VALUES > history.rows:
        raise SchemaError(
            f"Dataset {name!r} has {counted(history.rows, 'row')} for {facts.steps:,} steps of {spec.every} between the first and the last "
            "value of the series. Set `every` to the time between two values."
        )


def _require_long_enough(grid: Grid, resolved: ResolvedWindow, spec: ForecastRowsSpec) -> None:
    """Check that a rolling window is long enough for the features.

    An expanding window is not checked, because its length depends on the data.
    """
    ends = pa.array([resolved.window.start, resolved.window.end], UTC).cast(pa.int64()).to_numpy()
    first, last = grid.numbers(ends)[0].tolist()
    if last - first < spec.longest:
        raise SpecError(
            f"The window {resolved.window.label} has {counted(last - first, 'step')} of {spec.every}, but the longest lag, period or "
            f"season needs {spec.longest:,}. Set `window` to a longer rule."
        )


def _require_inside(history: History, run: Window, datasets: Sequence[Dataset], spec: ForecastRowsSpec) -> None:
    assert history.newest is not None
    newest = history.grid.times(np.array([history.newest]), history.rest)
    if not pc.all(inside(newest, run, "The origin", dates=history.grid.dates)).as_py():
        raise EmptyWindowError(
            f"The newest value of dataset {datasets[0].manifest.name!r} is of {newest[0].as_py()}, which is not in the window {run.label} of "
            "the run. Wait for the values of this window, or run the earlier window again."
        )


def _write(
    spec: ForecastRowsSpec,
    context: StepContext,
    datasets: list[Dataset],
    history: History,
    events: Rows,
    facts: Facts,
    forecasts: Forecasts,
    connection: Any,
    resolved: ResolvedWindow | None,
) -> ForecastRowsResult:
    assert history.newest is not None
    sql, name = query.rows(spec, history.newest), datasets[0].manifest.name
    scoring = spec.origins == "newest"
    tables = {"events": (events.schema, events.to_batches()), **forecasts.tables}
    found: Any = relational.stream(connection, sql, tables)
    series: set[tuple[Any, ...]] = set()
    rows = 0
    # An error must end the query before its database is closed.
    with closing(found), DatasetWriter(context.store, spec.name) as writer:
        for batch in _named(found, spec, history, name):
            keys = pa.Table.from_batches([batch]).group_by(spec.series).aggregate([]).to_pylist()
            series |= {tuple(key.values()) for key in keys}
            rows += batch.num_rows
            writer.write(batch)
        if not rows:
            raise EmptyWindowError(
                f"No series of dataset {name!r} has a value within {counted(max(spec.season, spec.horizon), 'step')} before a known "
                "target, so there are no rows. Set `window` to a longer window, or `horizon` to fewer steps."
            )
        left_out = facts.series - len(series)
        manifest, _ = writer.commit(
            window=resolved.run if resolved and scoring else window_of(datasets),
            owner=spec.owner,
            description=spec.description,
            source={"kind": "forecast_rows", "entities": name},
            parents=[dataset.ref for dataset in datasets],
            details=_details(spec, datasets, resolved),
            provenance=context.provenance,
            check=context.require_unfinished,
            time_column=ORIGIN,
        )
    origin = _text(history.grid, history.newest, history.rest) if scoring else None
    context.processed(rows)
    return ForecastRowsResult(
        dataset=manifest.ref,
        features=spec.features,
        rows=rows,
        series=len(series),
        left_out=left_out,
        fallbacks=forecasts.fallbacks,
        origin=origin,
        window_rule=str(resolved.rule) if resolved else None,
        summary=_summary(spec, rows, len(series), left_out, forecasts.fallbacks, origin),
    )


def _details(spec: ForecastRowsSpec, datasets: Sequence[Dataset], resolved: ResolvedWindow | None) -> dict[str, Any]:
    """Return the details of the rows for the manifest."""
    return {
        "label": None,
        "features": spec.features,
        "keys": spec.keys,
        "timestamp": ORIGIN,
        DETAIL: {
            "series": spec.series,
            "time": spec.time,
            "origin": ORIGIN,
            "value": spec.value,
            "every": spec.every,
            "horizon": spec.horizon,
            "season": spec.season,
            "from_history": [*spec.from_history, NAIVE, SCALE, *spec.statistical],
            **({"statistical": spec.statistical} if spec.models else {}),
        },
        **statistical.version(spec),
        **dates_detail(datasets, spec.time),
        **coverage(datasets, resolved.window if resolved else None),
        **(resolved.describe() if resolved else {}),
    }


def _summary(
    spec: ForecastRowsSpec, rows: int, series: int, left_out: int, fallbacks: Collection[str], origin: str | None
) -> str:
    text = f"Built {spec.name} with {counted(rows, 'row')} of {series:,} series and {counted(len(spec.features), 'feature')}"
    if origin:
        text += f", for the {counted(spec.horizon, 'step')} after {origin}"
    if left_out:
        text += f"; {left_out:,} series without a recent value or a known target were left out"
    if fallbacks:
        text += f"; the seasonal-naive forecast replaces missing forecasts of {', '.join(fallbacks)}"
    return text + "."


def _named(
    batches: Iterator[pa.RecordBatch], spec: ForecastRowsSpec, history: History, name: str
) -> Iterator[pa.RecordBatch]:
    """Convert the result of the query to the columns of the dataset."""
    scoring = spec.origins == "newest"
    for batch in batches:
        target = history.grid.times(batch[query.TARGET].to_numpy(), history.rest)
        if spec.known and (absent := pc.sum(batch[query.ABSENT]).as_py()):
            at = target.filter(batch[query.ABSENT])[0].as_py()
            raise SchemaError(
                f"Dataset {name!r} has no row for {counted(absent, 'target time')}, such as {at}, but {', '.join(spec.known)} must be known "
                f"in advance. Add rows with a null {spec.value!r} for the steps to forecast."
            )
        columns: dict[str, Any] = {}
        for n, (key, kind) in enumerate(zip(spec.series, history.types(spec.series), strict=True)):
            columns[key] = batch[f"s{n}"].cast(kind)
        columns[spec.time] = target
        columns[ORIGIN] = history.grid.times(batch[ORIGIN].to_numpy(), history.rest)
        if not scoring:
            columns[spec.value] = batch[query.LABEL]
        columns[STEP] = batch[STEP]
        for n, (key, kind) in enumerate(zip(spec.known, history.types(spec.known), strict=True)):
            columns[key] = batch[f"k{n}"].cast(kind)
        columns |= history.grid.calendar(target)
        others = [key for key in (*spec.from_history, NAIVE) if key not in columns]
        columns |= {key: batch[key] for key in others}
        columns |= {key: batch[f"m{n}"] for n, key in enumerate(spec.statistical)}
        columns[SCALE] = batch[SCALE]
        yield pa.RecordBatch.from_pydict(columns)


def _text(grid: Grid, number: int, rest: int) -> str:
    at = grid.times(np.array([number]), rest)[0].as_py()
    return str(at.isoformat()).replace("+00:00", "Z")
